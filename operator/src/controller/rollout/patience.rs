//! How long a pod is waited for before a gap on its node is taken instead.

use std::time::Duration;

use jiff::Timestamp;

/// How long a pod waits for room on its node until a gap there is taken instead: time for an autoscaler, or for someone who reads
/// the status. Waiting does not help against other failures; they keep the old agents where they are.
const PATIENCE: Duration = Duration::from_mins(5);

/// What is left of the time that something is waited for which has been so `since` then.
pub(super) fn left(since: Option<Timestamp>, now: Timestamp) -> Duration {
    let waited = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
    PATIENCE.saturating_sub(waited.unwrap_or_default())
}

pub(super) fn soonest<const N: usize>(times: [Option<Duration>; N]) -> Option<Duration> {
    times.into_iter().flatten().min()
}
