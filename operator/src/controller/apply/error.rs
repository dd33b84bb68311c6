//! Why an object could not be written, and what was being done with it.

use std::fmt;
use std::time::Duration;

use kube::Resource;

use crate::api_error::{ANSWER_TIMEOUT, ApiError};

/// What is asked of the API server, in words: `apply DaemonSet x`.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(super) verb: Verb,
    pub(super) kind: String,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verb {
    Apply,
    /// A server-side apply that is not kept (`dryRun`), only to see what would come of it.
    Try,
    Delete,
}

impl Operation {
    /// An operation on an object of `kind`, which may name a subresource: `HttpStatistics/status`.
    pub(super) fn new(verb: Verb, kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            verb,
            kind: kind.into(),
            name: name.into(),
        }
    }

    pub(super) fn on(verb: Verb, object: &impl Resource<DynamicType = ()>) -> Self {
        let (kind, name) = kind_and_name(object);
        Self { verb, kind, name }
    }
}

pub(super) fn kind_and_name<K: Resource<DynamicType = ()>>(object: &K) -> (String, String) {
    (
        K::kind(&()).into_owned(),
        object.meta().name.clone().unwrap_or_default(),
    )
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, kind, name } = self;
        let verb = match verb {
            Verb::Apply => "apply",
            Verb::Try => "try out",
            Verb::Delete => "delete",
        };
        write!(f, "{verb} {kind} {name}")
    }
}

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The object cannot be compared with others.
    #[error("failed to write {kind} {name} as JSON")]
    Json {
        kind: String,
        name: String,
        source: serde_json::Error,
    },
    /// The API server refused, or its answer was lost.
    #[error("failed to {operation}")]
    Api { operation: Operation, source: ApiError },
    /// Another operator may have begun to write.
    #[error("failed to {operation}: this operator has lost the lease to write")]
    NoLease { operation: Operation },
    /// The API server took longer than [`ANSWER_TIMEOUT`]. The write may still happen.
    #[error("failed to {operation}: the API server did not answer within {ANSWER_TIMEOUT:?}; trying again")]
    Timeout { operation: Operation },
}

impl Error {
    /// One of a few words, for a metric's label.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Json { .. } => "json",
            Self::NoLease { .. } => "lease",
            Self::Timeout { .. } => "timeout",
            Self::Api { source, .. } => source.kind(),
        }
    }

    /// How long the API server asks not to be called, if it asks for that.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { source, .. } => source.retry_after(),
            Self::Json { .. } | Self::NoLease { .. } | Self::Timeout { .. } => None,
        }
    }

    /// Whether the API server answered with one of these HTTP statuses.
    pub(super) fn is_status(&self, codes: &[u16]) -> bool {
        matches!(self, Self::Api { source, .. } if codes.iter().any(|code| source.is(*code)))
    }
}
