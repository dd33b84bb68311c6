//! Brings the cluster to what the `HttpStatistics` resources say.
//!
//! This module wires watches, queue and leadership. [`mod@reconcile`] does the work for one resource: [`dereference`] (collect
//! what decides about it) → [`validate`] (check it) → [`build`] (its objects) → [`apply`] (write what differs) → [`rollout`]
//! (replace the agents when that may be) → [`status`] (say what came of it, with [`events`]). `validate`, `build`, and what
//! decides in `rollout` and `status` take no client.
//!
//! Invariants:
//! - All objects are read from [`caches`]; the API server is asked only for its [`version`]. An object is written only if it
//!   differs. So a cluster at rest sees the watches' requests, and hardly any others.
//! - Deleting is left to Kubernetes: every object has its resource as owner. Only the surge, which serves while agents are
//!   replaced, is deleted when it is no longer needed.
//! - A resource that cannot be used changes nothing, and is looked at again when it changes.

mod agent_pod;
mod apply;
pub mod build;
mod caches;
pub mod claims;
mod definition;
mod dereference;
mod events;
mod memory;
pub mod raw;
mod reconcile;
mod rollout;
mod status;
pub mod validate;
pub mod version;

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::runtime::controller;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::apply::Applier;
use self::caches::Trigger;
use self::memory::Memories;
use self::raw::Raw;
use self::reconcile::{Context, reconcile};
use self::version::Known;
use crate::error_chain::error_chain;
use crate::leader::Leadership;
use crate::metrics::Metrics;

/// Time for what is under way when the operator stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many resources are reconciled at the same time.
const CONCURRENCY: u16 = 8;

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
        () = definition::wait(&client) => {}
        () = stop.cancelled() => return,
    }
    waiting_for.send_replace(Some("the caches: the watches have not begun"));

    let (caches, triggers) = caches::watch(&client, &namespace);
    let (lost, known) = (Arc::new(Notify::new()), watch::Sender::new(Known::default()));
    // Another version of the API server may mean other objects.
    let on_version = stream::unfold(known.subscribe(), async |mut known| {
        known.changed().await.ok()?;
        Some((Trigger::All, known))
    });
    let triggers = stream::select(triggers, on_version.boxed()).take_until(stop.clone().cancelled_owned());
    let resources = caches.resources.clone();
    let context = Arc::new(Context {
        applier: Applier {
            client: client.clone(),
            namespace,
            metrics,
            leadership,
        },
        version: known.subscribe(),
        memories: Memories::default(),
        caches: caches.clone(),
    });
    let work = controller::applier(
        |resource, context| Box::pin(reconcile(resource, context)),
        |resource, _, context: Arc<Context>| {
            controller::Action::requeue(context.memories.retry_in(&resource))
        },
        context,
        resources.clone(),
        queue(triggers, resources, Arc::clone(&lost)).map(Ok::<_, Infallible>),
        controller::Config::default().concurrency(CONCURRENCY),
    );
    let work = work.for_each(|result| {
        if let Err(controller::Error::ReconcilerFailed(error, resource)) = &result {
            tracing::warn!(%resource, error = error_chain(error), "failed, trying again");
        }
        ready(())
    });
    let announce = async {
        caches.filled().await;
        waiting_for.send_replace(None);
        tracing::info!("ready");
        pending::<()>().await;
    };
    let stopped = async {
        stop.cancelled().await;
        sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        () = work => {}
        () = announce => {}
        () = version::follow(&client, &lost, &known) => {}
        () = stopped => tracing::warn!("stopped with work under way; the next start takes it up"),
    }
}

/// The resources to reconcile. Tells of broken watches by `lost`.
fn queue(
    triggers: impl Stream<Item = Trigger>,
    resources: Store<Raw>,
    lost: Arc<Notify>,
) -> impl Stream<Item = ObjectRef<Raw>> {
    triggers
        .map(move |trigger| {
            let names = match trigger {
                Trigger::One(name) => vec![name],
                Trigger::All => resources
                    .state()
                    .iter()
                    .map(|resource| resource.name_any())
                    .collect(),
                Trigger::Lost => {
                    lost.notify_one();
                    Vec::new()
                }
            };
            let existing = names
                .into_iter()
                .map(|name| ObjectRef::new(&name))
                .filter(|resource| resources.get(resource).is_some());
            stream::iter(existing.collect::<Vec<_>>())
        })
        .flatten()
}
