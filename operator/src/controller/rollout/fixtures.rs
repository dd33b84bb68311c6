//! Fleets for tests.

use jiff::Timestamp;

use super::fleet::{Fleet, PodState};

/// The time of the tests, in minutes.
pub(super) const NOW: i64 = 60;
pub(super) const SERVES: PodState = PodState::Serves;

pub(super) fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(minute * 60).unwrap()
}

pub(super) fn fails(minute: i64) -> PodState {
    PodState::Fails(Some(at(minute)))
}

pub(super) fn no_room(minute: i64) -> PodState {
    PodState::NoRoom(Some(at(minute)))
}

/// A fleet that is settled, with its pods on nodes `n1`, `n2`, ….
pub(super) fn fleet(states: &[PodState]) -> Fleet {
    let nodes = states.iter().enumerate();
    Fleet {
        complete: true,
        updated: true,
        desired: states.len(),
        ready: states.iter().filter(|state| **state == SERVES).count(),
        nodes: nodes
            .map(|(node, state)| (format!("n{}", node + 1), *state))
            .collect(),
        lost_in: None,
    }
}
