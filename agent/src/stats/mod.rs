//! From cumulative counters to what is shown: rates over a window of time, and totals per process and cgroup.
//!
//! Pure: no clock, no `/proc`, no kernel. [`Ledger`] takes readings of the kernel's counters and says what is new in
//! each; [`Window`] keeps the last minute of that and turns it into rates. Both know the same accounts: a process
//! has its own while it lives, and what it did goes to its place's when it is gone.

mod ledger;
mod window;

pub use ledger::{Account, Exited, Identity, Ledger, MAX_EXITED_PLACES};
pub use window::{Series, Window};

use std::collections::HashMap;

use crate::bpf::{CODE_UNKNOWN, CounterKey, LOST, Loss, REQUESTS};
use crate::workload::Place;

/// A map in which something is looked up for each process in each tick. The standard hasher would take an eighth of the
/// agent's time; this one has seeds, too.
pub(crate) type PerTick<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What was counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// A request was received.
    Request,
    /// A response with this status code was sent.
    Response(u16),
    /// A response was sent whose status code could not be read.
    UnknownResponse,
    /// Something could not be counted.
    Lost(Loss),
}

impl Event {
    /// Reads [`CounterKey::code`].
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        if let Some(index) = code.checked_sub(LOST)
            && (index as usize) < Loss::ALL.len()
        {
            return Self::Lost(Loss::ALL[index as usize]);
        }
        match code {
            REQUESTS => Self::Request,
            CODE_UNKNOWN => Self::UnknownResponse,
            code => Self::Response(code),
        }
    }

    /// The inverse of [`from_code`](Self::from_code).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Request => REQUESTS,
            Self::Response(code) => code,
            Self::UnknownResponse => CODE_UNKNOWN,
            Self::Lost(loss) => LOST + loss as u16,
        }
    }
}

/// Whose counters these are in the kernel: one process in one cgroup. A process that moves to another cgroup has
/// counters in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// When the process started, in nanoseconds since boot.
    pub start_time: u64,
    /// Id of the cgroup.
    pub cgroup: u64,
}

impl Owner {
    /// The kernel's key of one of the owner's counters.
    #[must_use]
    pub const fn key(self, event: Event) -> CounterKey {
        let Self {
            pid,
            start_time,
            cgroup,
        } = self;
        CounterKey {
            cgroup,
            start_time,
            pid,
            code: event.code(),
            reserved: 0,
        }
    }
}

impl From<CounterKey> for Owner {
    fn from(key: CounterKey) -> Self {
        let CounterKey {
            cgroup,
            start_time,
            pid,
            code: _,
            reserved: _,
        } = key;
        Self {
            pid,
            start_time,
            cgroup,
        }
    }
}

/// Under whose name something is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One process, until it is known to be gone.
    Process(Owner),
    /// All processes of this place that are gone.
    Exited(Place),
}

/// What happened to one subject since the last time it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Who.
    pub subject: Subject,
    /// What.
    pub event: Event,
    /// How often; never 0.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_in_the_kernel_means_one_thing() {
        let losses = Loss::ALL.into_iter().map(Event::Lost);
        let responses = (100..=599).map(Event::Response);
        for event in [Event::Request, Event::UnknownResponse]
            .into_iter()
            .chain(losses)
            .chain(responses)
        {
            assert_eq!(Event::from_code(event.code()), event);
        }
    }
}
