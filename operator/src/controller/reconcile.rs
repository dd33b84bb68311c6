//! Brings the cluster to what one resource says, and says in its status what came of that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use tokio::sync::watch;

use super::apply::{self, Applier, Writes};
use super::build::{self, build};
use super::caches::Caches;
use super::claims::Conflict;
use super::dereference::{Dereferenced, dereference};
use super::memory::Memories;
use super::raw::Raw;
use super::rollout::{self, RolledOut};
use super::status::{self, Observation, Outcome, pods};
use super::validate::{self, Update, validate};
use super::version::Known;

/// Why a resource could not be brought to what it says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Its objects cannot be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// They, or its status, cannot be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
}

impl Error {
    /// One of a few words, for a metric's label.
    fn kind(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Apply(error) => error.kind(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Build(_) => None,
            Self::Apply(error) => error.retry_after(),
        }
    }
}

/// What each reconcile needs.
pub(super) struct Context {
    pub(super) caches: Caches,
    pub(super) applier: Applier,
    pub(super) version: watch::Receiver<Known>,
    pub(super) memories: Memories,
}

/// Reconciles `resource`, as soon as all is known that decides about it, and counts that.
pub(super) async fn reconcile(resource: Arc<Raw>, context: Arc<Context>) -> Result<Action, Error> {
    context.caches.filled().await;
    let mut version = context.version.clone();
    // The sender lives as long as the controller.
    let _known = version.wait_for(|known| *known != Known::NotYet).await.is_ok();
    let metrics = &context.applier.metrics;
    metrics.resources(context.caches.resources.len());
    let mut own_time = OwnTime::default();
    let result = context.reconcile(&resource, &mut own_time).await;
    metrics.reconciled(own_time.0);
    if let Err(error) = &result {
        metrics.failed(error.kind());
    }
    result
}

/// Time that is not spent waiting for the API server.
#[derive(Default)]
struct OwnTime(Duration);

impl OwnTime {
    fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0 += start.elapsed();
        result
    }
}

/// What was done for a resource.
struct Done {
    on_delete: bool,
    conflict: Conflict,
    rolled_out: RolledOut,
    /// A cache has not seen the last write to one of the objects.
    outdated: bool,
}

/// Why not all was done for it.
enum Failure {
    /// Nothing was: it cannot be used, and is looked at again when it changes.
    Invalid(validate::Error),
    /// It is tried again.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Context {
    async fn reconcile(&self, resource: &Raw, own_time: &mut OwnTime) -> Result<Action, Error> {
        // Kubernetes deletes it, and what it owns. Anything written now would only come too late.
        if resource.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        let mut memory = self.memories.recall(resource);
        if let Some(pause) = memory.pause(resource) {
            return Ok(Action::requeue(pause));
        }

        let dereferenced = own_time.of(|| dereference(&self.caches, resource));
        let as_cached = dereferenced.daemon_set.as_ref();
        let before = as_cached.map(|agents| memory.writes.recall(agents));
        let result = self
            .bring(resource, &dereferenced, &mut memory.writes, own_time)
            .await;
        let agents = result
            .as_ref()
            .map_or(before.as_ref(), |done| Some(&done.rolled_out.agents));

        let previous = memory.status(resource);
        let next = own_time.of(|| {
            let observation = Observation {
                generation: resource.metadata.generation,
                outcome: outcome(&result),
                daemon_set: agents.map(|agents| &*agents.object),
                daemon_set_outdated: agents.is_some_and(|agents| agents.outdated),
                failures: &pods::failures(dereferenced.pods()),
                hooks: &pods::hooks(dereferenced.pods()),
            };
            status::status(&previous, &observation, Timestamp::now())
        });
        let published =
            status::publish(&self.applier, resource, &previous, next, &mut memory.published).await;

        let waits = match result {
            // Should what an outdated cache shows be the work of others after all, it is repaired then.
            Ok(done) => Ok([done.rolled_out.again, done.outdated.then_some(apply::CACHE_LAG)]),
            Err(Failure::Invalid(_)) => Ok([None, None]),
            Err(Failure::Failed(error)) => Err(error),
        };
        let waits = waits.and_then(|[again, repair]| Ok([again, repair, published?]));
        match &waits {
            Ok(_) => memory.succeeded(),
            Err(error) => memory.failed(resource, error.retry_after()),
        }
        self.memories
            .keep(resource, memory, &self.caches.resources.state());
        let wait = waits?.into_iter().flatten().min();
        Ok(wait.map_or_else(Action::await_change, Action::requeue))
    }

    /// Brings the cluster to what `resource` says.
    async fn bring(
        &self,
        resource: &Raw,
        dereferenced: &Dereferenced,
        writes: &mut Writes,
        own_time: &mut OwnTime,
    ) -> Result<Done, Failure> {
        let version = self.version.borrow().version();
        let agents = own_time
            .of(|| validate(resource)?.fit(version))
            .map_err(Failure::Invalid)?;
        let (remainder, conflict) = own_time.of(|| dereferenced.divide(&agents.node_selector));
        let objects = own_time.of(|| build(&agents, &remainder, &self.applier.namespace, version))?;
        let outdated = apply::apply(&self.applier, &objects, &dereferenced.cached, writes).await?;
        let rolled_out = rollout::roll_out(&self.applier, &objects, dereferenced, writes).await?;
        Ok(Done {
            on_delete: agents.update == Update::OnDelete,
            conflict,
            outdated: outdated || rolled_out.outdated,
            rolled_out,
        })
    }
}

fn outcome(result: &Result<Done, Failure>) -> Outcome<'_> {
    match result {
        Ok(done) => Outcome::Applied {
            on_delete: done.on_delete,
            conflict: &done.conflict,
            surge: &done.rolled_out.surge,
        },
        Err(Failure::Invalid(error)) => Outcome::Invalid(error),
        Err(Failure::Failed(error)) => Outcome::Failed(error),
    }
}
