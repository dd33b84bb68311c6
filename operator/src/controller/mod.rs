//! Brings the cluster to what the `HttpStatistics` resources say.
//!
//! For each resource: [`dereference`] (collect what it depends on) → [`validate`] (check it) → [`build`] (its objects) →
//! [`standby`] (what may be replaced now) → [`apply`] (write what differs) → [`status`] → [`events`]. Those in between take no
//! client.
//!
//! Invariants:
//! - Nothing is read but from [`caches`], and the API server's [`version`]; nothing is written that is there already. So a
//!   cluster at rest sees no request but its watches.
//! - Deleting is left to Kubernetes: every object has its resource as owner. But those that stand in for agents while these
//!   are replaced are let go when they are no longer needed.
//! - A resource that cannot be used changes nothing, and is looked at again when it changes.

pub mod apply;
pub mod build;
pub mod caches;
pub mod claims;
pub mod dereference;
pub mod events;
pub mod pods;
pub mod raw;
pub mod standby;
pub mod status;
pub mod validate;
pub mod version;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::ListParams;
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::apply::{Applied, Applier, Memory};
use self::build::Objects;
use self::caches::{Caches, Trigger};
use self::claims::{Conflict, Remainder};
use self::dereference::Dereferenced;
use self::pods::AgentPod;
use self::raw::Raw;
use self::standby::{Fleet, Leave, Replace};
use self::status::{Outcome, Seen, StandIns};
use self::validate::Update;
use self::version::Known;
use crate::api::v1alpha1::HttpStatisticsStatus;
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// While only numbers change, the status is written this often at most: a rollout over thousands of nodes must not
/// cost a write for each.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Time to the first retry of what failed; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Time between retries at most.
const LAST_RETRY: Duration = Duration::from_mins(1);
/// How often to look for the definition of `HttpStatistics` until it is there.
const DEFINITION_INTERVAL: Duration = Duration::from_secs(2);
/// Time for what is under way when the operator stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Resources that are looked at at once.
const CONCURRENCY: u16 = 8;

/// Why a resource could not be brought to what it says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its objects cannot be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// They, or its status, cannot be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
}

impl Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Build(_) => "build",
            Self::Apply(error) => error.kind(),
        }
    }
}

/// What is remembered of a resource between two looks at it.
#[derive(Clone, Default)]
struct Remembered {
    /// How its objects were left.
    objects: Memory,
    /// The last status that was written, and when: the cache may not have it yet.
    status: Option<(HttpStatisticsStatus, Instant)>,
    /// How often it failed since it last went well.
    failures: u32,
    /// Until when this spec is left alone after a failure, whatever happens: events of what did go well come back at once.
    retry: Option<(Option<i64>, Instant)>,
}

struct Context {
    caches: Caches,
    applier: Applier,
    namespace: String,
    version: watch::Receiver<Known>,
    /// By uid.
    remembered: Mutex<HashMap<String, Remembered>>,
}

/// Runs until `stop`, and writes while `leadership` lasts. `waiting_for` tells what it waits for before it can work.
pub async fn run(
    client: Client,
    namespace: String,
    metrics: Metrics,
    leadership: Leadership,
    waiting_for: watch::Sender<Option<&'static str>>,
    stop: CancellationToken,
) {
    waiting_for.send_replace(Some("the definition of HttpStatistics"));
    tokio::select! {
        () = wait_for_definition(&client) => {}
        () = stop.cancelled() => return,
    }
    waiting_for.send_replace(Some("the caches: the watches have not begun"));

    let (caches, triggers) = caches::watch(&client, &namespace);
    let (lost, known) = (Arc::new(Notify::new()), watch::Sender::new(Known::default()));
    let follow_version = {
        let (client, lost, known) = (client.clone(), Arc::clone(&lost), known.clone());
        async move { version::follow(&client, &lost, &known).await }
    };
    // Another version may mean other objects.
    let on_version = futures::stream::unfold(known.subscribe(), async |mut known| {
        known.changed().await.ok()?;
        Some((Trigger::All, known))
    });
    let triggers = futures::stream::select(triggers, on_version.boxed());
    let resources = caches.resources.clone();
    let context = Arc::new(Context {
        applier: Applier {
            client,
            metrics,
            leadership,
        },
        namespace,
        version: known.subscribe(),
        remembered: Mutex::default(),
        caches: caches.clone(),
    });
    let queue = triggers
        .take_until(stop.clone().cancelled_owned())
        .map({
            let resources = resources.clone();
            move |trigger| {
                let names: Vec<String> = match trigger {
                    Trigger::One(name) => vec![name],
                    Trigger::Lost => {
                        lost.notify_one();
                        Vec::new()
                    }
                    Trigger::All => resources
                        .state()
                        .iter()
                        .map(|resource| resource.name_any())
                        .collect(),
                };
                let existing = names
                    .into_iter()
                    .map(|name| ObjectRef::new(&name))
                    .filter(|resource| resources.get(resource).is_some());
                futures::stream::iter(existing.collect::<Vec<_>>())
            }
        })
        .flatten()
        .map(Ok::<_, std::convert::Infallible>);
    let work = controller::applier(
        |resource, context| Box::pin(reconcile_one(resource, context)),
        |resource, _, context: Arc<Context>| context.retry(&resource),
        context,
        resources,
        queue,
        controller::Config::default().concurrency(CONCURRENCY),
    );
    let work = work.for_each(|result| {
        if let Err(controller::Error::ReconcilerFailed(error, resource)) = &result {
            tracing::warn!(%resource, %error, "failed, trying again");
        }
        std::future::ready(())
    });
    let announce = async {
        caches.filled().await;
        waiting_for.send_replace(None);
        tracing::info!("ready");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = announce => {}
        () = follow_version => {}
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_TIMEOUT).await } => {
            tracing::warn!("stopped with work under way; the next start takes it up");
        }
    }
}

async fn wait_for_definition(client: &Client) {
    let api = Api::<Raw>::all(client.clone());
    let one = ListParams::default().limit(1);
    let mut told = String::new();
    loop {
        let request = api.list_metadata(&one);
        let problem = match tokio::time::timeout(apply::WRITE_TIMEOUT, request).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                "HttpStatistics is not defined: apply crds/httpstatistics.yaml".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "the API server does not answer".to_owned(),
        };
        if problem != told {
            tracing::warn!("waiting: {problem}");
            told = problem;
        }
        tokio::time::sleep(DEFINITION_INTERVAL).await;
    }
}

async fn reconcile_one(resource: Arc<Raw>, context: Arc<Context>) -> Result<Action, Error> {
    context.caches.filled().await;
    // The sender lives as long as the controller.
    let _known = context
        .version
        .clone()
        .wait_for(|known| *known != Known::NotYet)
        .await
        .is_ok();
    let metrics = &context.applier.metrics;
    metrics.resources(context.caches.resources.len());
    let mut own_time = Duration::ZERO;
    let result = context.reconcile(&resource, &mut own_time).await;
    metrics.reconciled(own_time);
    if let Err(error) = &result {
        metrics.failed(error.kind());
    }
    result
}

/// What came of an attempt, with what the status needs.
struct Attempt {
    /// A cache has not seen the last write to one of the objects.
    outdated: bool,
    daemon_set: Option<Applied<DaemonSet>>,
    /// When to look again, should nothing happen before.
    again: Option<Duration>,
    result: Result<AttemptOutcome, AttemptError>,
}

struct AttemptOutcome {
    on_delete: bool,
    conflict: Conflict,
    stand_ins: StandIns,
}

/// The agents, and those that stand in, after an attempt.
struct RolledOut {
    agents: Applied<DaemonSet>,
    stand_ins: StandIns,
    /// A cache has not seen the last write to the latter.
    outdated: bool,
    again: Option<Duration>,
}

enum AttemptError {
    Invalid(validate::Error),
    Failed(Error),
}

impl Context {
    fn remembered(&self) -> MutexGuard<'_, HashMap<String, Remembered>> {
        // Nothing in there is ever half written.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `own_time` is the time not spent waiting for the API server.
    async fn reconcile(&self, resource: &Raw, own_time: &mut Duration) -> Result<Action, Error> {
        // Kubernetes removes it and what it owns; anything written now would only come too late.
        if resource.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        let uid = resource.uid().unwrap_or_default();
        let mut remembered = self.remembered().get(&uid).cloned().unwrap_or_default();
        if let Some((generation, at)) = remembered.retry
            && generation == resource.metadata.generation
            && let Some(wait) = at.checked_duration_since(Instant::now())
        {
            return Ok(Action::requeue(wait));
        }

        let start = Instant::now();
        let dereferenced = dereference::dereference(&self.caches, resource);
        let failures = pods::failures(dereferenced.pods.iter().map(|pod| &**pod));
        let hooks = pods::hooks(dereferenced.pods.iter().map(|pod| &**pod));
        *own_time += start.elapsed();

        let attempt = self
            .attempt(resource, &dereferenced, &mut remembered.objects, own_time)
            .await;

        let start = Instant::now();
        let message;
        let outcome = match &attempt.result {
            Ok(AttemptOutcome {
                on_delete,
                conflict,
                stand_ins,
            }) => Outcome::Applied {
                on_delete: *on_delete,
                conflict,
                stand_ins,
            },
            Err(AttemptError::Invalid(error)) => Outcome::Invalid(error),
            Err(AttemptError::Failed(error)) => {
                message = error.to_string();
                Outcome::Failed(&message)
            }
        };
        let previous = match &remembered.status {
            Some((status, _)) => status.clone(),
            None => resource.status(),
        };
        let next = status::status(
            &previous,
            &Seen {
                generation: resource.metadata.generation,
                outcome,
                daemon_set: attempt.daemon_set.as_ref().map(|applied| &*applied.object),
                daemon_set_outdated: attempt
                    .daemon_set
                    .as_ref()
                    .is_some_and(|applied| applied.outdated),
                failures: &failures,
                hooks: &hooks,
            },
            Timestamp::now(),
        );
        *own_time += start.elapsed();
        let written = self.publish(resource, &previous, next, &mut remembered).await;

        let result = match attempt.result {
            Err(AttemptError::Failed(error)) => Err(error),
            _ => written,
        };
        match &result {
            Ok(_) => (remembered.failures, remembered.retry) = (0, None),
            Err(error) => {
                let wait = backoff(remembered.failures, error);
                remembered.failures = remembered.failures.saturating_add(1);
                remembered.retry = Some((resource.metadata.generation, Instant::now() + wait));
            }
        }
        self.remember(uid, remembered);
        // Should what the cache shows then be the work of others, it is repaired.
        let repair = attempt.outdated.then_some(apply::CACHE_LAG);
        let wait = [result?, attempt.again, repair].into_iter().flatten().min();
        Ok(wait.map_or_else(Action::await_change, Action::requeue))
    }

    /// Checks, builds and writes the objects.
    async fn attempt(
        &self,
        resource: &Raw,
        dereferenced: &Dereferenced,
        memory: &mut Memory,
        own_time: &mut Duration,
    ) -> Attempt {
        let Dereferenced {
            older,
            nodes,
            pods: _,
            service_account,
            binding,
            config_map,
            daemon_set,
            standby: _,
        } = dereferenced;
        let as_cached = daemon_set.as_ref().map(|object| memory.recall(object));
        let start = Instant::now();
        let version = self.version.borrow().version();
        let agents = match validate::validate(resource).and_then(|agents| agents.fit(version)) {
            Ok(agents) => agents,
            Err(error) => {
                return Attempt {
                    outdated: false,
                    daemon_set: as_cached,
                    again: None,
                    result: Err(AttemptError::Invalid(error)),
                };
            }
        };
        let remainder = Remainder::of(&agents.node_selector, older);
        let conflict = Conflict::of(
            &agents.node_selector,
            older,
            nodes
                .iter()
                .filter_map(|node| Some((node.metadata.name.as_deref()?, node.labels()))),
        );
        let objects = build::build(&agents, &remainder, &self.namespace, version);
        *own_time += start.elapsed();

        let mut outdated = false;
        let apply = async {
            let objects = objects?;
            let client = || self.applier.client.clone();
            let (applier, namespace) = (&self.applier, &self.namespace);
            let accounts = Api::namespaced(client(), namespace);
            let account = applier
                .apply(
                    &accounts,
                    &objects.service_account,
                    service_account.clone(),
                    memory,
                )
                .await?;
            let bindings = Api::all(client());
            let binding = applier
                .apply(&bindings, &objects.binding, binding.clone(), memory)
                .await?;
            let maps = Api::namespaced(client(), namespace);
            let map = applier
                .apply(&maps, &objects.config_map, config_map.clone(), memory)
                .await?;
            let rolled_out = self.roll_out(&objects, dereferenced, memory).await?;
            outdated = account.outdated
                || binding.outdated
                || map.outdated
                || rolled_out.agents.outdated
                || rolled_out.outdated;
            Ok::<_, Error>(rolled_out)
        };
        let result = Box::pin(apply).await;
        match result {
            Ok(RolledOut {
                agents: applied,
                stand_ins,
                outdated: _,
                again,
            }) => Attempt {
                outdated,
                daemon_set: Some(applied),
                again,
                result: Ok(AttemptOutcome {
                    on_delete: agents.update == Update::OnDelete,
                    conflict,
                    stand_ins,
                }),
            },
            Err(error) => Attempt {
                outdated: false,
                daemon_set: as_cached,
                again: None,
                result: Err(AttemptError::Failed(error)),
            },
        }
    }

    /// Writes the agents' `DaemonSet`, when the time for it has come, and that of those that stand in.
    async fn roll_out(
        &self,
        objects: &Objects,
        dereferenced: &Dereferenced,
        memory: &mut Memory,
    ) -> Result<RolledOut, Error> {
        let (applier, live) = (&self.applier, dereferenced.daemon_set.as_ref());
        let sets: Api<DaemonSet> = Api::namespaced(applier.client.clone(), &self.namespace);
        let pods = || dereferenced.pods.iter().map(|pod| &**pod);
        let now = Timestamp::now();
        let fleet = |set: &Applied<DaemonSet>| Fleet::of(&set.object, set.outdated, pods(), now);

        let standby = dereferenced.standby.as_ref();
        let standby = standby.filter(|standby| !memory.has_deleted(&***standby));
        // What the cache shows may be older than what was written.
        let unchanged = match &objects.standby {
            Some(desired) if standby.is_some() => applier.unchanged(desired, standby, memory)?,
            _ => None,
        };
        let mut stand_ins = unchanged.or_else(|| standby.map(|standby| memory.recall(standby)));

        if let (Some(desired), Some(live)) = (&objects.standby, live)
            && applier.unchanged(&objects.daemon_set, Some(live), memory)?.is_none()
            // Kubernetes is about to replace agents by what others want; each that it does not get to has no gap.
            && !applier.was_written(&objects.daemon_set, memory)?
            && (standby::is_released(live)
                || applier.replaces_pods(&sets, &objects.daemon_set, live, memory).await?)
        {
            let agents = memory.recall(live);
            let surge_fleet = stand_ins.as_ref().map(fleet);
            let may_replace = standby::may_replace(&fleet(&agents), surge_fleet.as_ref(), now);
            if let Replace::Later { bring, again } = may_replace {
                if bring {
                    let mut there = standby;
                    if let Some(other) = there
                        && applier.unchanged(desired, there, memory)?.is_none()
                        && applier.replaces_pods(&sets, desired, other, memory).await?
                    {
                        // Others instead: to replace pods one by one could take for ever, where a node is dead.
                        applier.delete(&sets, other, memory).await?;
                        there = None;
                    }
                    stand_ins = Some(applier.apply(&sets, desired, there.cloned(), memory).await?);
                }
                return Ok(RolledOut {
                    agents,
                    outdated: stand_ins.as_ref().is_some_and(|stand_ins| stand_ins.outdated),
                    stand_ins: StandIns::coming(stand_ins.as_ref().map(|set| &*set.object), pods()),
                    again,
                });
            }
        }
        let agents = applier
            .apply(&sets, &objects.daemon_set, live.cloned(), memory)
            .await?;
        let mut rolled_out = RolledOut {
            stand_ins: StandIns::None,
            outdated: false,
            again: None,
            agents,
        };
        if let Some(stand_ins) = &stand_ins {
            let wanted = objects.standby.is_some();
            match standby::may_leave(wanted, &fleet(&rolled_out.agents), &fleet(stand_ins), now) {
                Leave::Later(again) => rolled_out.again = again,
                Leave::Now if stand_ins.object.metadata.deletion_timestamp.is_some() => {}
                Leave::Now => applier.delete(&sets, &stand_ins.object, memory).await?,
            }
        }
        // Their pods go a little later.
        if stand_ins.is_some() || pods().any(AgentPod::stands_in) {
            rolled_out.stand_ins = StandIns::There;
        }
        Ok(rolled_out)
    }

    /// Writes the status if it changed, and Events about what changed. Returns when to look again, if it can wait.
    async fn publish(
        &self,
        resource: &Raw,
        previous: &HttpStatisticsStatus,
        next: HttpStatisticsStatus,
        remembered: &mut Remembered,
    ) -> Result<Option<Duration>, Error> {
        if next == *previous {
            return Ok(None);
        }
        if let Some((_, at)) = &remembered.status
            && status::differs_in_numbers_only(&next, previous)
            && let Some(wait) = STATUS_INTERVAL.checked_sub(at.elapsed())
        {
            return Ok(Some(wait));
        }
        self.applier.write_status(resource, &next).await?;
        let events = events::transitions(previous, &next);
        for event in &events {
            tracing::info!(
                resource = resource.name_any(),
                reason = event.reason,
                "{}",
                event.message
            );
        }
        remembered.status = Some((next, Instant::now()));
        // The status tells the same; an Event is not worth a second attempt.
        let publish = events::publish(&self.applier.client, resource, &events);
        match tokio::time::timeout(apply::WRITE_TIMEOUT, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = apply::explain(&error), "an Event is lost"),
            Err(_elapsed) => tracing::warn!("an Event is lost: the API server did not answer"),
        }
        Ok(None)
    }

    fn remember(&self, uid: String, remembered: Remembered) {
        let resources = self.caches.resources.state();
        let mut all = self.remembered();
        all.insert(uid, remembered);
        if all.len() > resources.len() {
            all.retain(|uid, _| {
                resources
                    .iter()
                    .any(|resource| resource.metadata.uid.as_ref() == Some(uid))
            });
        }
    }

    fn retry(&self, resource: &Raw) -> Action {
        let uid = resource.uid().unwrap_or_default();
        let at = self
            .remembered()
            .get(&uid)
            .and_then(|remembered| remembered.retry);
        Action::requeue(at.map_or(FIRST_RETRY, |(_, at)| {
            at.saturating_duration_since(Instant::now())
        }))
    }
}

/// How long to wait after the failure that follows `failures` others.
fn backoff(failures: u32, error: &Error) -> Duration {
    let asked = match error {
        Error::Apply(error) => error.retry_after().unwrap_or_default(),
        Error::Build(_) => Duration::ZERO,
    };
    let backoff = FIRST_RETRY * 2_u32.saturating_pow(failures.min(16));
    backoff.min(LAST_RETRY).max(asked)
}
