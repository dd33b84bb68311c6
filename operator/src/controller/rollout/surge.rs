//! When agents may be replaced, and when the surge may leave.
//!
//! Where Kubernetes takes an old agent away before the new one starts, agents of a second `DaemonSet`, the surge, serve
//! meanwhile (docs/adr/0005-stand-ins.md). Pure: what is done follows from the objects that are there. So the operator may stop
//! at any time, and the spec may change at any time.
//!
//! Two rules keep each node served:
//! - The agents are changed only while the surge covers them: on each node where an agent serves, a surge agent does, too.
//! - The surge is changed or deleted only while the agents cover it.

use std::time::Duration;

use jiff::Timestamp;

use super::coverage::{Coverage, kept_out};
use super::fleet::Fleet;
use super::patience::soonest;

/// Whether the agents may be replaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Replace {
    /// They may.
    Now,
    /// Not yet.
    Later {
        /// Whether the surge may be started, or replaced if it is not as it should be.
        start_surge: bool,
        /// When to look again, should nothing happen before.
        again: Option<Duration>,
    },
}

/// Decides whether the agents may be replaced. To be asked before their `DaemonSet` is written.
pub(super) fn may_replace(agents: &Fleet, surge: Option<&Fleet>, now: Timestamp) -> Replace {
    if agents.serves_nowhere() {
        return Replace::Now;
    }
    let Some(surge) = surge else {
        return Replace::Later {
            start_surge: true,
            again: None,
        };
    };
    let coverage = Coverage::of(agents, surge, now);
    if coverage == Coverage::Whole && surge.is_settled() {
        return Replace::Now;
    }
    // The current spec may be a cure for the surge. If agents fail on one node and the surge on another, and both go on to fail,
    // there is no way without a gap.
    let free = agents.is_settled() && Coverage::of(surge, agents, now) == Coverage::Whole;
    let (start_surge, again) = match coverage {
        Coverage::Whole => (free, None),
        Coverage::Later(left) => (free, Some(left)),
        Coverage::Not(left) if free || left.is_zero() => (true, None),
        Coverage::Not(left) => (false, Some(left)),
    };
    Replace::Later {
        start_surge,
        again: soonest([again, agents.lost_in, surge.lost_in]),
    }
}

/// Whether the surge may leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Leave {
    /// It may.
    Now,
    /// Not yet. Look again in so much time, should nothing happen before.
    Later(Option<Duration>),
}

/// Decides whether the surge may leave. To be asked after the agents' `DaemonSet` was written. `wanted` is whether the agents are
/// still to be replaced in this way.
pub(super) fn may_leave(wanted: bool, agents: &Fleet, surge: &Fleet, now: Timestamp) -> Leave {
    let (done, again) = match Coverage::of(surge, agents, now) {
        Coverage::Whole if !agents.complete => (false, None),
        Coverage::Whole if agents.updated || !wanted => (true, None),
        // Where a node has room for one pod, a surge agent may have taken it, and the rollout gets no further.
        Coverage::Whole => match kept_out(agents, surge, now) {
            Some(Duration::ZERO) => (agents.is_stuck(), None),
            left => (false, left),
        },
        Coverage::Later(left) => (false, Some(left)),
        Coverage::Not(_) => (false, None),
    };
    if done {
        Leave::Now
    } else {
        Leave::Later(soonest([again, agents.lost_in]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{NOW, SERVES, at, fails, fleet, no_room};
    use super::super::fleet::PodState;
    use super::*;

    fn hold(start_surge: bool, minutes: Option<u64>) -> Replace {
        let again = minutes.map(Duration::from_mins);
        Replace::Later { start_surge, again }
    }

    fn keep(minutes: Option<u64>) -> Leave {
        Leave::Later(minutes.map(Duration::from_mins))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    fn agents_are_replaced_when_the_surge_covers_each_node_that_they_serve() {
        let (served, starting) = (fleet(&[SERVES, SERVES]), fails(NOW));
        let unsettled = |complete| Fleet {
            complete,
            updated: false,
            ..served.clone()
        };
        let moved = Fleet {
            nodes: [("elsewhere".to_owned(), SERVES)].into(),
            ..served.clone()
        };
        let (start, write) = (hold(true, None), Replace::Now);
        let cases: Vec<(&str, Fleet, Option<Fleet>, Replace)> = vec![
            ("there is no surge", served.clone(), None, start),
            (
                "there is nothing to lose",
                fleet(&[starting, starting]),
                None,
                write,
            ),
            (
                "a pod is ready that was not seen yet",
                Fleet {
                    ready: 1,
                    ..fleet(&[starting, starting])
                },
                None,
                start,
            ),
            (
                "the surge is not there yet",
                served.clone(),
                Some(Fleet {
                    complete: false,
                    ..fleet(&[])
                }),
                start,
            ),
            (
                "a surge agent starts",
                served.clone(),
                Some(fleet(&[SERVES, starting])),
                start,
            ),
            (
                "the surge is being changed",
                served.clone(),
                Some(unsettled(true)),
                start,
            ),
            (
                "the caches disagree",
                served.clone(),
                Some(unsettled(false)),
                start,
            ),
            (
                "all are ready",
                served.clone(),
                Some(fleet(&[SERVES, SERVES])),
                write,
            ),
            (
                "no agent there",
                fleet(&[SERVES, starting]),
                Some(fleet(&[SERVES, starting])),
                write,
            ),
            ("the nodes are others", served.clone(), Some(moved), write),
            (
                "not meant to be there",
                served.clone(),
                Some(fleet(&[SERVES])),
                write,
            ),
            // Room may come; a failure does not go away by itself.
            (
                "no room",
                served.clone(),
                Some(fleet(&[SERVES, no_room(58)])),
                hold(true, Some(3)),
            ),
            (
                "no room for long",
                served.clone(),
                Some(fleet(&[SERVES, no_room(55)])),
                write,
            ),
            (
                "the image is bad",
                served.clone(),
                Some(fleet(&[fails(1), no_room(1)])),
                start,
            ),
            // The agents are being replaced, and another spec comes.
            (
                "a surge agent that serves alone is left alone",
                fleet(&[SERVES, starting]),
                Some(fleet(&[starting, SERVES])),
                hold(false, Some(5)),
            ),
            (
                "unless it has no end",
                fleet(&[SERVES, starting]),
                Some(fleet(&[fails(1), SERVES])),
                hold(true, None),
            ),
            (
                "the agents are about to go",
                unsettled(true),
                Some(fleet(&[SERVES, starting])),
                hold(false, Some(5)),
            ),
            (
                "a surge agent is being deleted",
                served.clone(),
                Some(Fleet {
                    lost_in: Some(Duration::from_mins(2)),
                    ..unsettled(false)
                }),
                hold(true, Some(2)),
            ),
        ];
        for (what, agents, surge, expected) in cases {
            let planned = may_replace(&agents, surge.as_ref(), at(NOW));
            assert_eq!(planned, expected, "{what}");
        }
    }

    #[test]
    fn the_surge_leaves_when_the_agents_cover_each_node_that_it_serves() {
        let (served, starting) = (fleet(&[SERVES, SERVES]), fails(NOW));
        let incomplete = |lost_in| Fleet {
            complete: false,
            lost_in,
            ..served.clone()
        };
        let replacing = |states: &[PodState]| Fleet {
            updated: false,
            ..fleet(states)
        };
        let go = Leave::Now;
        // The agents; then what is expected while they are to be replaced with a surge, and when that is no longer wanted.
        let cases = [
            ("all are ready", served.clone(), go, go),
            ("the caches disagree", incomplete(None), keep(None), keep(None)),
            (
                "an agent is being deleted",
                incomplete(Some(Duration::from_mins(2))),
                keep(Some(2)),
                keep(Some(2)),
            ),
            (
                "some are of the template before",
                replacing(&[SERVES, SERVES]),
                keep(None),
                go,
            ),
            ("one starts", fleet(&[SERVES, starting]), keep(None), keep(None)),
            ("one fails", fleet(&[SERVES, fails(1)]), keep(None), keep(None)),
            (
                "the surge takes its room",
                replacing(&[SERVES, no_room(56)]),
                keep(Some(1)),
                keep(Some(1)),
            ),
            (
                "the surge took its room",
                replacing(&[SERVES, no_room(55)]),
                go,
                go,
            ),
            (
                "the surge took its room, but others are replaced",
                Fleet {
                    desired: 11,
                    ready: 10,
                    ..replacing(&[SERVES, no_room(55)])
                },
                keep(None),
                go,
            ),
            (
                "the surge took its room, and one fails",
                replacing(&[fails(1), no_room(1)]),
                keep(None),
                keep(None),
            ),
            ("it is to be elsewhere", fleet(&[SERVES]), go, go),
        ];
        for (what, agents, with_surge, otherwise) in cases {
            for (wanted, expected) in [(true, with_surge), (false, otherwise)] {
                let planned = may_leave(wanted, &agents, &served, at(NOW));
                assert_eq!(planned, expected, "{what}, {wanted}");
            }
        }

        // A surge agent may have taken the room without serving. One that has no room itself is not to blame.
        for (surge, since, expected) in [
            (fails(1), 55, go),
            (fails(1), 56, keep(Some(1))),
            (no_room(1), 1, keep(None)),
        ] {
            let agents = replacing(&[SERVES, no_room(since)]);
            let planned = may_leave(true, &agents, &fleet(&[SERVES, surge]), at(NOW));
            assert_eq!(planned, expected, "{surge:?}");
        }
    }
}
