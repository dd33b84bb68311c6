//! Why a request to the API server failed, in words that help a person.

use std::time::Duration;

use kube::core::Status;

/// How long the API server may take to answer: for writes, and for what is asked besides the watches.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that was refused, or that got no answer that could be used.
///
/// A refusal is told by the API server's message alone: the text of [`kube::Error::Api`] has the whole answer in it, twice.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The operator lacks a right: its roles are not those of its installation.
    #[error("{}: give the operator the roles of its installation", .0.message)]
    Forbidden(Box<Status>),
    /// The API server refused for another reason.
    #[error("{}", refusal(.0))]
    Refused(Box<Status>),
    /// The request did not get there, or the answer could not be read.
    #[error(transparent)]
    Lost(Box<kube::Error>),
}

fn refusal(status: &Status) -> String {
    if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason)
    } else {
        status.message.clone()
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(status),
            kube::Error::Api(status) => Self::Refused(status),
            error => Self::Lost(Box::new(error)),
        }
    }
}

impl ApiError {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Forbidden(status) | Self::Refused(status) => Some(status),
            Self::Lost(_) => None,
        }
    }

    /// Whether the API server answered with the HTTP status `code`.
    pub(crate) fn is(&self, code: u16) -> bool {
        self.status().is_some_and(|status| status.code == code)
    }

    /// One of a few words, for a metric's label.
    pub(crate) fn kind(&self) -> &'static str {
        match self.status().map(|status| status.code) {
            None => "connection",
            Some(403) => "forbidden",
            Some(404) => "not_found",
            Some(409) => "conflict",
            Some(422) => "invalid",
            Some(429) => "throttled",
            Some(500..) => "server",
            Some(_) => "refused",
        }
    }

    /// How long the API server asks not to be called, if it asks for that.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::error_chain;

    #[test]
    fn a_refusal_is_told_in_the_servers_words_and_a_lost_answer_with_its_cause() {
        let refused = |code, message: &str| {
            let status = Status::failure(message, "Reason").with_code(code);
            ApiError::from(kube::Error::Api(status.boxed()))
        };
        let garbage = serde_json::from_str::<i32>("<html>").unwrap_err();
        for (error, text, kind) in [
            (refused(409, "it is taken"), "it is taken", "conflict"),
            (
                refused(403, "no"),
                "no: give the operator the roles of its installation",
                "forbidden",
            ),
            (refused(503, ""), "the API server answered 503 Reason", "server"),
            (
                kube::Error::SerdeError(garbage).into(),
                "Error deserializing response: expected value at line 1 column 1",
                "connection",
            ),
        ] {
            assert_eq!(error_chain(&error), text);
            assert_eq!(error.kind(), kind);
        }
    }
}
