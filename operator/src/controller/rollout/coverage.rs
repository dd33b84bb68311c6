//! Whether one fleet serves wherever another one does.

use std::time::Duration;

use jiff::Timestamp;

use super::fleet::{Fleet, PodState};
use super::patience::left;

/// Whether the pods of a fleet can be taken away, because another fleet covers its nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Coverage {
    /// They can.
    Whole,
    /// They can in so much time, if nothing changes: on some nodes, only room is missing.
    Later(Duration),
    /// They cannot: pods of the other fleet fail. In so much time, the first of those has failed for long.
    Not(Duration),
}

impl Coverage {
    /// The coverage of the nodes that `fleet` serves by `cover`, if `cover` stays as it is.
    pub(super) fn of(fleet: &Fleet, cover: &Fleet, now: Timestamp) -> Self {
        let on_node = |node| match cover.nodes.get(node) {
            // Where it has no pod, it is not meant to have any.
            None | Some(PodState::Serves) => Self::Whole,
            Some(PodState::NoRoom(since)) => match left(*since, now) {
                Duration::ZERO => Self::Whole,
                left => Self::Later(left),
            },
            Some(PodState::Fails(since)) => Self::Not(left(*since, now)),
        };
        fleet
            .nodes
            .iter()
            .filter(|(_, state)| **state == PodState::Serves)
            .map(|(node, _)| on_node(node))
            .fold(Self::Whole, Self::and)
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole, coverage) | (coverage, Self::Whole) => coverage,
            (Self::Later(one), Self::Later(other)) => Self::Later(one.max(other)),
            (Self::Not(one), Self::Not(other)) => Self::Not(one.min(other)),
            (Self::Not(left), Self::Later(_)) | (Self::Later(_), Self::Not(left)) => Self::Not(left),
        }
    }
}

/// In how much time the first pod of `fleet` has waited for long, of those that have no room on their node while one of `other`
/// has.
pub(super) fn kept_out(fleet: &Fleet, other: &Fleet, now: Timestamp) -> Option<Duration> {
    let waits = fleet
        .nodes
        .iter()
        .filter_map(|(node, state)| match (state, other.nodes.get(node)) {
            (PodState::NoRoom(since), Some(PodState::Serves | PodState::Fails(_))) => Some(left(*since, now)),
            _ => None,
        });
    waits.min()
}
