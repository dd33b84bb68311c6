//! What the API server can do, by its version.
//!
//! It is asked for at the start, when a watch broke, and now and then: the API server may have been replaced by another one, and
//! not every break shows.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::api_error::ANSWER_TIMEOUT;

/// Time between two questions at least.
const PAUSE: Duration = Duration::from_secs(5);

/// How often the version is asked for if no watch breaks. Watches end about as often by themselves, which is no error.
const NOW_AND_THEN: Duration = Duration::from_mins(10);

/// A version of Kubernetes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// The 1 of 1.22.
    pub major: u32,
    /// The 22 of 1.22.
    pub minor: u32,
}

/// The first version that knows `maxSurge` of a `DaemonSet` without being asked to (KEP-1591, beta).
pub(crate) const MAX_SURGE: Version = Version { major: 1, minor: 22 };

impl Version {
    /// As `GET /version` tells it. Some API servers say `22+`; those that were built without a version say nothing.
    fn of(info: &Info) -> Option<Self> {
        let number = |text: &str| {
            let end = text.find(|letter: char| !letter.is_ascii_digit());
            text[..end.unwrap_or(text.len())].parse().ok()
        };
        Some(Self {
            major: number(&info.major)?,
            minor: number(&info.minor)?,
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { major, minor } = self;
        write!(f, "{major}.{minor}")
    }
}

/// What is known of the API server's version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Known {
    /// The API server has not answered yet.
    #[default]
    NotYet,
    /// The API server does not tell.
    No,
    /// The API server told it.
    Yes(Version),
}

impl Known {
    /// The version, if it is known.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Self::Yes(version) => Some(version),
            Self::NotYet | Self::No => None,
        }
    }
}

/// Asks for the version once, again each time that `lost` tells of a broken watch, and now and then.
pub(crate) async fn follow(client: &Client, lost: &Notify, known: &watch::Sender<Known>) {
    loop {
        let answer = timeout(ANSWER_TIMEOUT, client.apiserver_version()).await;
        let (now, asked) = match answer {
            Ok(Ok(info)) => (Version::of(&info).map_or(Known::No, Known::Yes), true),
            // It may not tell: `system:public-info-viewer` is not what it is by default.
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                tracing::warn!(
                    problem = status.message,
                    "the API server does not tell its version; agents are replaced without maxSurge"
                );
                (Known::No, true)
            }
            // What was known holds until there is an answer.
            Ok(Err(_)) | Err(_) => (
                match *known.borrow() {
                    Known::NotYet => Known::No,
                    before => before,
                },
                false,
            ),
        };
        known.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                tracing::info!(
                    version = now.version().map(tracing::field::display),
                    "the API server's version"
                );
            }
            *before = now;
            changed
        });
        // Seven watches may break at once.
        sleep(PAUSE).await;
        if asked {
            // Whichever comes first.
            let _elapsed = timeout(NOW_AND_THEN, lost.notified()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_servers_write_them() {
        for (major, minor, version, surges) in [
            ("1", "20", Some((1, 20)), false),
            ("1", "21+", Some((1, 21)), false),
            ("1", "22", Some((1, 22)), true),
            ("1", "33+", Some((1, 33)), true),
            ("2", "0", Some((2, 0)), true),
            ("", "", None, false),
            ("one", "33", None, false),
        ] {
            let info = Info {
                major: major.to_owned(),
                minor: minor.to_owned(),
                ..Info::default()
            };
            let read = Version::of(&info);
            assert_eq!(
                read.map(|read| (read.major, read.minor)),
                version,
                "{major}.{minor}"
            );
            assert_eq!(read >= Some(MAX_SURGE), surges, "{major}.{minor}");
        }
    }
}
