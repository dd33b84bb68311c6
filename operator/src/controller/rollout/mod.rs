//! Writes the agents' `DaemonSet` when the time for that has come, and the surge's around it.
//!
//! Usually that is one write, and Kubernetes does the rest. Where Kubernetes cannot replace agents without a gap, [`surge`]
//! decides, from what [`fleet`] and [`coverage`] say of the pods that are there.

mod coverage;
mod fleet;
mod patience;
mod surge;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod model;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use self::fleet::Fleet;
use self::surge::{Leave, Replace, may_leave, may_replace};
use super::agent_pod::AgentPod;
use super::apply::{Applied, Applier, Error, Writes};
use super::build::Objects;
use super::dereference::Dereferenced;
use super::status::SurgeState;

/// How far the agents have been brought to what their resource says.
pub(super) struct RolledOut {
    pub(super) agents: Applied<DaemonSet>,
    pub(super) surge: SurgeState,
    /// Whether the cache has not seen the last write to one of the `DaemonSets`.
    pub(super) outdated: bool,
    /// When to look again, should nothing happen before.
    pub(super) again: Option<Duration>,
}

/// Writes the agents' `DaemonSet`, unless the surge has to cover them first. Starts the surge, and deletes it when it is no
/// longer needed.
///
/// # Errors
/// When something cannot be written, or the API server does not tell what a write would do. The agents go on as they are.
pub(super) async fn roll_out(
    applier: &Applier,
    objects: &Objects,
    dereferenced: &Dereferenced,
    writes: &mut Writes,
) -> Result<RolledOut, Error> {
    let mut rollout = Rollout {
        applier,
        sets: applier.api(),
        objects,
        pods: &dereferenced.pods,
        live: dereferenced.daemon_set.as_ref(),
        live_surge: dereferenced
            .surge
            .as_ref()
            .filter(|surge| !writes.has_deleted(&***surge)),
        writes,
        now: Timestamp::now(),
    };
    let surge = rollout.newest_surge()?;
    if let Some((desired, agents)) = rollout.needs_cover().await? {
        let cover = surge.as_ref().map(|surge| rollout.fleet(surge));
        let replace = may_replace(&rollout.fleet(&agents), cover.as_ref(), rollout.now);
        if let Replace::Later { start_surge, again } = replace {
            let surge = if start_surge {
                Some(rollout.start_surge(desired).await?)
            } else {
                surge
            };
            return Ok(rollout.waits(agents, surge.as_ref(), again));
        }
    }
    let agents = rollout.write_agents().await?;
    let again = match &surge {
        Some(surge) => rollout.end_surge(&agents, surge).await?,
        None => None,
    };
    // The surge's pods are there for a little longer than their `DaemonSet`.
    let is_present = surge.is_some() || rollout.pods().any(AgentPod::is_surge);
    Ok(RolledOut {
        surge: if is_present {
            SurgeState::Present
        } else {
            SurgeState::None
        },
        outdated: agents.outdated,
        again,
        agents,
    })
}

struct Rollout<'a> {
    applier: &'a Applier,
    sets: Api<DaemonSet>,
    objects: &'a Objects,
    pods: &'a [Arc<AgentPod>],
    /// The agents, as the cache has them.
    live: Option<&'a Arc<DaemonSet>>,
    /// The surge, as the cache has it.
    live_surge: Option<&'a Arc<DaemonSet>>,
    writes: &'a mut Writes,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn pods(&self) -> impl Iterator<Item = &'a AgentPod> {
        self.pods.iter().map(|pod| &**pod)
    }

    fn fleet(&self, set: &Applied<DaemonSet>) -> Fleet {
        Fleet::of(&set.object, set.outdated, self.pods(), self.now)
    }

    /// The surge, if there is one. What the cache shows may be older than what was written.
    fn newest_surge(&self) -> Result<Option<Applied<DaemonSet>>, Error> {
        let unchanged = match &self.objects.surge {
            Some(desired) if self.live_surge.is_some() => self.writes.unchanged(desired, self.live_surge)?,
            _ => None,
        };
        Ok(unchanged.or_else(|| self.live_surge.map(|surge| self.writes.recall(surge))))
    }

    /// The surge that is desired and the agents that are there, if these may be replaced only while the surge covers them: when a
    /// write would replace pods, with a gap, and does not only undo what someone else wrote.
    async fn needs_cover(&mut self) -> Result<Option<(&'a DaemonSet, Applied<DaemonSet>)>, Error> {
        let (Some(surge), Some(live)) = (&self.objects.surge, self.live) else {
            return Ok(None);
        };
        let desired = &self.objects.daemon_set;
        let needs_cover = self.writes.unchanged(desired, Some(live))?.is_none()
            // Kubernetes is about to replace agents by what others want. Each one that it does not get to has no gap.
            && !self.writes.was_written(desired)?
            && (releases_pods(live) || self.replaces_pods(desired, live).await?);
        Ok(needs_cover.then(|| (surge, self.writes.recall(live))))
    }

    async fn replaces_pods(&mut self, desired: &DaemonSet, live: &DaemonSet) -> Result<bool, Error> {
        self.applier
            .replaces_pods(&self.sets, desired, live, self.writes)
            .await
    }

    /// Makes sure that there is a surge, and that it is as `desired`.
    async fn start_surge(&mut self, desired: &DaemonSet) -> Result<Applied<DaemonSet>, Error> {
        let mut live = self.live_surge;
        if let Some(other) = live
            && self.writes.unchanged(desired, live)?.is_none()
            && self.replaces_pods(desired, other).await?
        {
            // It is deleted and made anew: to replace its pods one by one could take for ever, where a node is dead.
            self.applier.delete(&self.sets, other, self.writes).await?;
            live = None;
        }
        self.applier
            .apply(&self.sets, desired, live.cloned(), self.writes)
            .await
    }

    fn waits(
        &self,
        agents: Applied<DaemonSet>,
        surge: Option<&Applied<DaemonSet>>,
        again: Option<Duration>,
    ) -> RolledOut {
        RolledOut {
            outdated: agents.outdated || surge.is_some_and(|surge| surge.outdated),
            agents,
            surge: SurgeState::starting(surge.map(|surge| &*surge.object), self.pods()),
            again,
        }
    }

    async fn write_agents(&mut self) -> Result<Applied<DaemonSet>, Error> {
        let desired = &self.objects.daemon_set;
        self.applier
            .apply(&self.sets, desired, self.live.cloned(), self.writes)
            .await
    }

    /// Deletes the surge if it may leave. Otherwise returns when to look again.
    async fn end_surge(
        &mut self,
        agents: &Applied<DaemonSet>,
        surge: &Applied<DaemonSet>,
    ) -> Result<Option<Duration>, Error> {
        let wanted = self.objects.surge.is_some();
        match may_leave(wanted, &self.fleet(agents), &self.fleet(surge), self.now) {
            Leave::Later(again) => return Ok(again),
            Leave::Now if surge.object.metadata.deletion_timestamp.is_some() => {}
            Leave::Now => {
                self.applier
                    .delete(&self.sets, &surge.object, self.writes)
                    .await?;
            }
        }
        Ok(None)
    }
}

/// Whether pods of `set` have waited for someone to delete them. Any other strategy replaces them, whatever their template.
fn releases_pods(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    let status = set.status.as_ref();
    on_delete
        && status.is_some_and(|status| {
            status.updated_number_scheduled.unwrap_or(0) < status.current_number_scheduled
        })
}
