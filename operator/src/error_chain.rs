//! An error with its causes, in one line.

use std::error::Error;

/// The texts of an error and of its causes, outermost first. A cause is left out if the text before it ends with the cause's: the
/// errors of kube and hyper repeat theirs.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Layer {
        #[error("failed to write")]
        Silent(#[source] Box<Self>),
        #[error("ServiceError: {0}")]
        Repeating(#[source] io::Error),
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = Layer::Repeating(io::Error::other("connection refused"));
        assert_eq!(
            error_chain(&Layer::Silent(Box::new(cause))),
            "failed to write: ServiceError: connection refused"
        );
    }
}
