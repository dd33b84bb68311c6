//! How long to wait before the next attempt. Pure, but for the seed.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first wait.
const SHORTEST: Duration = Duration::from_millis(500);
/// As long as names may be stale after the API server is back.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double from 0.5 s to 30 s, each with up to a quarter more, so that not all nodes of a cluster come back
/// at once.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// State of a xorshift generator; never 0.
    seed: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::with_seed(RandomState::new().hash_one(0))
    }
}

impl Backoff {
    fn with_seed(seed: u64) -> Self {
        Self {
            next: SHORTEST,
            seed: seed | 1,
        }
    }

    /// The wait after one more failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        let wait = self.next;
        self.next = (2 * wait).min(LONGEST);
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let percent = u32::try_from(self.seed % 26).unwrap_or(0);
        wait + wait * percent / 100
    }

    /// Something worked: the next failure is the first one again.
    pub(super) fn reset(&mut self) {
        self.next = SHORTEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_again_after_success() {
        let mut backoff = Backoff::with_seed(7);
        let expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0];
        for base in expected {
            let wait = backoff.after_failure().as_secs_f64();
            assert!((base..=1.25 * base).contains(&wait), "{wait} for {base}");
        }
        backoff.reset();
        assert!(backoff.after_failure() < Duration::from_secs(1));
    }

    #[test]
    fn nodes_wait_differently() {
        let waits = |seed| {
            let mut backoff = Backoff::with_seed(seed);
            [(); 4].map(|()| backoff.after_failure())
        };
        assert_ne!(waits(1), waits(12_345));
    }
}
