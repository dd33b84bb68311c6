//! What the containers and pods of this node are called, kept up to date while the agent runs.
//!
//! Two sources. The API server knows all of it: one watch, of this node's pods only, and of these only metadata and
//! container statuses are kept. Where it cannot be asked (no Kubernetes around the agent, no rights, not reachable),
//! the names of kubelet's log directories tell pods and containers, but no controllers. What was once known from the
//! API server stays known while it is away.
//!
//! Goal: names for everything that is counted, and never a wrong one. A name belongs to a UID or a container id, never
//! to another name: a pod that was deleted and made again is another pod.
//!
//! The [`Directory`] that comes out is looked at when a report is written. Nothing here is on the way of a count, so
//! whatever happens to this part, only names are missing or late. It is the only part of the agent that knows kube.

mod api;
mod backoff;
mod error;
mod files;
mod object;
mod owners;
mod pod_index;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use api::{Access, AccessError};
pub use files::NodeFiles;

use crate::error_chain::error_chain;
use crate::workload::Directory;
use api::{Change, Pods};
use pod_index::PodIndex;

/// How often the node's files are looked at, where they are needed, and names of what is long gone are dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// Where names come from.
#[derive(Debug)]
pub struct Sources {
    /// How to ask the API server, or why not.
    pub api: Result<Access, AccessError>,
    /// kubelet's files.
    pub files: NodeFiles,
}

impl Sources {
    /// kubelet's files, and the API server of `kubeconfig` or else of the cluster that the agent runs in, for the pods
    /// of `node`.
    pub async fn find(node: Option<&str>, kubeconfig: Option<&Path>) -> Self {
        Self {
            api: Access::find(node, kubeconfig).await,
            files: NodeFiles::default(),
        }
    }
}

/// Publishes names until `shutdown`.
pub async fn run(sources: Sources, directory: watch::Sender<Arc<Directory>>, shutdown: CancellationToken) {
    let Sources { api, mut files } = sources;
    let mut pods = match api {
        Ok(access) => {
            info!(node = access.node(), "the API server names pods");
            Some(Pods::new(access))
        }
        Err(reason) => {
            let reason = error_chain(&reason);
            info!(reason, "kubelet's log directories name pods, if there are any");
            None
        }
    };
    let mut index = PodIndex::default();
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            change = next(pods.as_mut()) => take(change, &mut index, pods.as_mut()),
            _ = housekeeping.tick() => {
                // While the API server tells, it tells more.
                if !pods.as_ref().is_some_and(Pods::is_current)
                    && let Some(found) = files.read_if_changed()
                {
                    index.set_files(found);
                }
                index.expire(Instant::now());
            }
        }
        if let Some(changed) = index.take_directory() {
            directory.send_replace(Arc::new(changed));
        }
    }
}

async fn next(pods: Option<&mut Pods>) -> Change {
    match pods {
        Some(pods) => pods.next().await,
        None => std::future::pending().await,
    }
}

fn take(change: Change, index: &mut PodIndex, pods: Option<&mut Pods>) {
    let now = Instant::now();
    match change {
        Change::Begin => index.begin_list(),
        Change::Pod(pod) => {
            if let (Some(owner), Some(pods)) = (&pod.owner, pods) {
                pods.ask_for(owner);
            }
            index.apply(pod);
        }
        Change::End => index.end_list(now),
        Change::Gone(api_uid) => index.remove(&api_uid, now),
        Change::Controller(owner, controller) => index.set_controller(owner, controller),
    }
}
