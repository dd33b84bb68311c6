//! What is remembered of each resource between two reconciles. If it is forgotten, the operator only does some work once more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;

use super::apply::Writes;
use super::raw::Raw;
use super::status::Published;
use crate::api::v1alpha1::HttpStatisticsStatus;

/// Time to the first retry of what failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Time between retries at most.
const LAST_RETRY: Duration = Duration::from_mins(1);

/// What is remembered of one resource.
#[derive(Clone, Default)]
pub(super) struct Memory {
    pub(super) writes: Writes,
    pub(super) published: Option<Published>,
    /// Failures in a row.
    failures: u32,
    retry: Option<Retry>,
}

/// Until when a spec is left alone after a failure, whatever happens: writes that did go well come back as events at once.
#[derive(Clone, Copy)]
struct Retry {
    generation: Option<i64>,
    at: Instant,
}

impl Memory {
    /// How long the resource is left alone, if it failed a short while ago and its spec is still the same.
    pub(super) fn pause(&self, resource: &Raw) -> Option<Duration> {
        let retry = self.retry?;
        if retry.generation != resource.metadata.generation {
            return None;
        }
        retry.at.checked_duration_since(Instant::now())
    }

    /// The latest status that is known: the one that was written, or else the one of the cache.
    pub(super) fn status(&self, resource: &Raw) -> HttpStatisticsStatus {
        match &self.published {
            Some(published) => published.status.clone(),
            None => resource.status(),
        }
    }

    pub(super) fn succeeded(&mut self) {
        (self.failures, self.retry) = (0, None);
    }

    /// It failed, and the API server asks not to be called for `asked`.
    pub(super) fn failed(&mut self, resource: &Raw, asked: Option<Duration>) {
        let backoff = FIRST_RETRY * 2_u32.saturating_pow(self.failures.min(16));
        let wait = backoff.min(LAST_RETRY).max(asked.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(Retry {
            generation: resource.metadata.generation,
            at: Instant::now() + wait,
        });
    }
}

/// The memories of all resources, by uid.
#[derive(Default)]
pub(super) struct Memories(Mutex<HashMap<String, Memory>>);

impl Memories {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        // Nothing in there is ever half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recall(&self, resource: &Raw) -> Memory {
        let uid = resource.uid().unwrap_or_default();
        self.all().get(&uid).cloned().unwrap_or_default()
    }

    /// Keeps the memory of `resource`, and forgets resources that are not among `existing`.
    pub(super) fn keep(&self, resource: &Raw, memory: Memory, existing: &[Arc<Raw>]) {
        let mut all = self.all();
        all.insert(resource.uid().unwrap_or_default(), memory);
        if all.len() > existing.len() {
            all.retain(|uid, _| existing.iter().any(|one| one.metadata.uid.as_ref() == Some(uid)));
        }
    }

    /// In how much time a resource that failed is tried again.
    pub(super) fn retry_in(&self, resource: &Raw) -> Duration {
        let retry = self.recall(resource).retry;
        retry.map_or(FIRST_RETRY, |retry| {
            retry.at.saturating_duration_since(Instant::now())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_become_rarer_until_the_spec_changes_or_it_goes_well() {
        let mut resource = Raw::default();
        resource.metadata.generation = Some(1);
        let mut memory = Memory::default();
        assert_eq!(memory.pause(&resource), None);
        for (asked, seconds) in [
            (None, 1),
            (None, 2),
            (None, 4),
            (Some(30), 30),
            (None, 16),
            (None, 32),
            (None, 60),
            (Some(90), 90),
        ] {
            memory.failed(&resource, asked.map(Duration::from_secs));
            let pause = memory.pause(&resource).unwrap();
            let expected = Duration::from_secs(seconds);
            assert!(
                pause <= expected && pause > expected / 2,
                "{pause:?}, {expected:?}"
            );
        }
        let mut changed = resource.clone();
        changed.metadata.generation = Some(2);
        assert_eq!(memory.pause(&changed), None);
        memory.succeeded();
        assert_eq!(memory.pause(&resource), None);
    }
}
