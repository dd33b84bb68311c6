//! From what was observed to the status: counts, and conditions that a person can act on. Pure, but for [`publish()`].

mod conditions;
mod counts;
mod messages;
mod observation;
pub(crate) mod pods;
mod publish;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

use self::conditions::conditions;
use self::counts::{counts, describe_hooks};
pub(crate) use self::observation::{Observation, Outcome, SurgeState};
pub(crate) use self::publish::{Published, publish};
use crate::api::v1alpha1::HttpStatisticsStatus;

/// Most nodes that a status lists.
const MAX_LISTED: usize = 10;

/// The status that `observation` calls for, after `previous`.
pub(crate) fn status(
    previous: &HttpStatisticsStatus,
    observation: &Observation<'_>,
    now: Timestamp,
) -> HttpStatisticsStatus {
    let mut nodes = observation.daemon_set.map(counts);
    if let (Some(nodes), Some(SurgeState::Starting { .. })) = (&mut nodes, observation.outcome.surge()) {
        // The agents are of the spec before.
        nodes.updated = 0;
    }
    HttpStatisticsStatus {
        observed_generation: observation.generation,
        nodes,
        hook: describe_hooks(observation.hooks),
        hooks: observation.hooks.to_vec(),
        unavailable_nodes: observation.failures.iter().take(MAX_LISTED).cloned().collect(),
        conditions: conditions(previous, observation, nodes, now),
    }
}
