//! The controllers of what owns pods: the Deployment of a replica set, the cron job of a job. Neither pods nor names
//! tell them for certain, so the owner is asked for, once, by name: the right to `get` is enough.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::error::cause;
use super::object::{Owner, OwnerKind, controller_of};
use crate::workload::Controller;

/// How many owners are remembered. A node has at most some hundred at a time; it forgets all when there are more.
const MAX_OWNERS: usize = 4096;
/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after an answer that says nothing about the owner.
const PAUSE: Duration = Duration::from_secs(5);
/// Wait after a refusal. Rights seldom change.
const PAUSE_WHEN_REFUSED: Duration = Duration::from_mins(5);

type Answer = (Owner, kube::Result<Option<Controller>>);

/// Owners to be asked for, one at a time.
pub(super) struct Owners {
    client: Client,
    asked: HashSet<String>,
    waiting: VecDeque<Owner>,
    under_way: Option<BoxFuture<'static, Answer>>,
    pause: Option<Duration>,
    refused: bool,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners")
            .field("asked", &self.asked.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Owners {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            asked: HashSet::new(),
            waiting: VecDeque::new(),
            under_way: None,
            pause: None,
            refused: false,
        }
    }

    /// Asks for an owner, unless that was done before.
    pub(super) fn ask_for(&mut self, owner: &Owner) {
        if self.asked.len() >= MAX_OWNERS {
            self.asked.clear();
            self.waiting.clear();
        }
        if self.asked.insert(owner.uid.clone()) {
            self.waiting.push_back(owner.clone());
        }
    }

    /// The next owner that has a controller, and that controller. Waits forever if there is nothing to ask. Can be
    /// dropped and called again at any time.
    pub(super) async fn next(&mut self) -> (String, Controller) {
        loop {
            let Some(under_way) = &mut self.under_way else {
                let Some(owner) = self.waiting.pop_front() else {
                    return std::future::pending().await;
                };
                self.under_way = Some(ask(self.client.clone(), owner, self.pause.take()).boxed());
                continue;
            };
            let (owner, answer) = under_way.await;
            self.under_way = None;
            match answer {
                Ok(controller) => {
                    self.refused = false;
                    if let Some(controller) = controller {
                        return (owner.uid, controller);
                    }
                }
                Err(error) => self.put_back(owner, &error),
            }
        }
    }

    fn put_back(&mut self, owner: Owner, error: &kube::Error) {
        let error_text = cause(error);
        match error {
            kube::Error::Api(status) if status.is_forbidden() => {
                if !self.refused {
                    let resource = owner.kind.resource();
                    warn!(
                        error = error_text,
                        "Deployments and CronJobs are not named: grant the agent's service account `get` on {resource}"
                    );
                }
                self.refused = true;
                self.pause = Some(PAUSE_WHEN_REFUSED);
            }
            _ => {
                debug!(%owner, error = error_text, "failed to ask for an owner; trying again");
                self.pause = Some(PAUSE);
            }
        }
        self.waiting.push_back(owner);
    }
}

async fn ask(client: Client, owner: Owner, pause: Option<Duration>) -> Answer {
    if let Some(pause) = pause {
        sleep(pause).await;
    }
    let metadata = match owner.kind {
        OwnerKind::ReplicaSet => metadata::<ReplicaSet>(client, &owner).boxed(),
        OwnerKind::Job => metadata::<Job>(client, &owner).boxed(),
    };
    let answer = match timeout(PATIENCE, metadata).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
    };
    let controller = answer.map(|metadata| {
        metadata
            // One with the same name that was made later says nothing about this one.
            .filter(|metadata| metadata.uid.as_deref() == Some(&owner.uid))
            .and_then(|metadata| controller_of(owner.kind, &metadata))
    });
    (owner, controller)
}

/// `None`: there is none with this name any more.
async fn metadata<K>(client: Client, owner: &Owner) -> kube::Result<Option<ObjectMeta>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client, &owner.namespace);
    let found = api.get_metadata_opt(&owner.name).await?;
    Ok(found.map(|object| object.metadata))
}
