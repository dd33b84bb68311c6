//! Writes a status, and Events about what changed in it.

use std::time::{Duration, Instant};

use kube::ResourceExt as _;

use crate::api::v1alpha1::HttpStatisticsStatus;
use crate::api_error::{ANSWER_TIMEOUT, ApiError};
use crate::controller::apply::{Applier, Error};
use crate::controller::events;
use crate::controller::raw::Raw;
use crate::error_chain::error_chain;

/// While only numbers change, the status is written this often at most: a rollout over thousands of nodes must not cost a write
/// for each of them.
const INTERVAL: Duration = Duration::from_secs(10);

/// A status that was written. The cache may not have it yet.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) status: HttpStatisticsStatus,
    at: Instant,
}

/// Writes the status if it changed, and Events about what changed. Returns when to look again, if the write can wait.
///
/// # Errors
/// When the status cannot be written. An Event that is lost is none.
pub(crate) async fn publish(
    applier: &Applier,
    resource: &Raw,
    previous: &HttpStatisticsStatus,
    next: HttpStatisticsStatus,
    published: &mut Option<Published>,
) -> Result<Option<Duration>, Error> {
    if next == *previous {
        return Ok(None);
    }
    if let Some(last) = published
        && differ_in_numbers_only(&next, previous)
        && let Some(wait) = INTERVAL.checked_sub(last.at.elapsed())
    {
        return Ok(Some(wait));
    }
    applier.write_status(resource, &next).await?;
    let transitions = events::transitions(previous, &next);
    for transition in &transitions {
        tracing::info!(
            resource = resource.name_any(),
            reason = transition.reason,
            "{}",
            transition.message
        );
    }
    *published = Some(Published {
        status: next,
        at: Instant::now(),
    });
    // The status tells the same, so an Event is not worth a second attempt.
    let write = events::publish(&applier.client, resource, &transitions);
    match tokio::time::timeout(ANSWER_TIMEOUT, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = error_chain(&ApiError::from(error)), "an Event is lost");
        }
        Err(_elapsed) => tracing::warn!("an Event is lost: the API server did not answer"),
    }
    Ok(None)
}

/// Whether only numbers differ, which each node of a rollout changes. Such a status need not be written at once.
pub(super) fn differ_in_numbers_only(one: &HttpStatisticsStatus, other: &HttpStatisticsStatus) -> bool {
    let gist = |status: &HttpStatisticsStatus| {
        let conditions = status.conditions.iter();
        (
            status.observed_generation,
            conditions
                .map(|condition| {
                    (
                        condition.type_.clone(),
                        condition.status.clone(),
                        condition.reason.clone(),
                    )
                })
                .collect::<Vec<_>>(),
        )
    };
    gist(one) == gist(other)
}
