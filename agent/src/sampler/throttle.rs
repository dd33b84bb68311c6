//! What may be said often and should not be.

use std::time::{Duration, Instant};

/// Lets something through once in a while.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    last: Option<Instant>,
}

impl Throttle {
    /// At most once in `interval`.
    pub(super) const fn new(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// Whether it is time again.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.duration_since(last) >= self.interval)
    }

    /// Something went through.
    pub(super) fn close(&mut self, now: Instant) {
        self.last = Some(now);
    }
}
