//! The watch of this node's pods at the API server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{DeserializeGuard, Status};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt as _};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::error::cause;
use super::object::{KnownPod, Owner, PodObject};
use super::owners::Owners;
use crate::error_chain::error_chain;
use crate::workload::Controller;

/// Pods in one answer. Each can be some 10 KiB, and whole answers are in memory at once.
const PAGE_SIZE: u32 = 50;
/// An API server that is only slow answers within that time.
const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// For a connection to be made.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// A connection without any byte for so long is dead: the server itself ends watches after 290 s.
const SILENCE: Duration = Duration::from_secs(305);

/// Why the API server is not asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no service account and no kubeconfig.
    #[error("the agent does not run in a cluster")]
    NotInCluster,
    /// Which pods are this node's is not known.
    #[error(
        "this node's name in the cluster is not known: set NODE_NAME, in a manifest from `spec.nodeName`"
    )]
    NoNode,
    /// In a cluster, but without what it takes.
    #[error("failed to read the service account: mount its token (automountServiceAccountToken)")]
    ServiceAccount(#[source] InClusterError),
    /// The kubeconfig cannot be used.
    #[error("failed to use the kubeconfig {}: give --kubeconfig a file that kubectl can use", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KubeconfigError,
    },
    /// No client can be made.
    #[error("failed to prepare requests to the API server")]
    Client(#[source] Box<kube::Error>),
}

/// How to ask an API server for the pods of one node.
#[derive(Clone)]
pub struct Access {
    client: Client,
    node: String,
    /// A list without any progress for so long is given up and begun again.
    list_patience: Duration,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// To the API server of `kubeconfig`, else of the cluster that the agent runs in. Does not connect yet.
    ///
    /// # Errors
    /// When there is none, or something that is needed to ask it is missing.
    pub async fn find(node: Option<&str>, kubeconfig: Option<&Path>) -> Result<Self, AccessError> {
        let mut config = match kubeconfig {
            Some(path) => from_file(path).await.map_err(|source| AccessError::Kubeconfig {
                path: path.to_owned(),
                source,
            })?,
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
                return Err(AccessError::NotInCluster);
            }
            None => Config::incluster().map_err(AccessError::ServiceAccount)?,
        };
        let node = node.ok_or(AccessError::NoNode)?.to_owned();
        config.connect_timeout = Some(CONNECT_PATIENCE);
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        // The watch has its own.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| AccessError::Client(Box::new(error)))?;
        Ok(Self {
            client,
            node,
            list_patience: LIST_PATIENCE,
        })
    }

    /// The same, but a list without any progress for `patience`, by default 30 s, is given up and begun again.
    #[must_use]
    pub fn with_list_patience(self, patience: Duration) -> Self {
        Self {
            list_patience: patience,
            ..self
        }
    }

    /// The node's name in the cluster.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    fn watch(&self) -> Watch {
        let pods: Api<DeserializeGuard<PodObject>> = Api::all(self.client.clone());
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.node))
            .page_size(PAGE_SIZE);
        watcher(pods, config).boxed()
    }
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}

type Watch = BoxStream<'static, watcher::Result<Event<DeserializeGuard<PodObject>>>>;

/// What the API server has told.
#[derive(Debug)]
pub(super) enum Change {
    /// A list of all pods begins.
    Begin,
    /// A pod is there, or has changed.
    Pod(KnownPod),
    /// The list is complete.
    End,
    /// The object with this UID is gone.
    Gone(String),
    /// The controller of the owner with this UID.
    Controller(String, Controller),
}

/// This node's pods, for as long as the agent runs, whatever happens to the API server.
pub(super) struct Pods {
    access: Access,
    watch: Watch,
    owners: Owners,
    backoff: Backoff,
    /// Nothing is asked before, because something failed.
    retry_at: Option<Instant>,
    /// When to give up the list under way.
    list_deadline: Option<Instant>,
    /// A list is complete, and nothing failed since.
    current: bool,
    /// A failure was logged, and nothing worked since.
    failing: bool,
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods")
            .field("access", &self.access)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Pods {
    pub(super) fn new(access: Access) -> Self {
        Self {
            watch: access.watch(),
            owners: Owners::new(access.client.clone()),
            access,
            backoff: Backoff::default(),
            retry_at: None,
            list_deadline: None,
            current: false,
            failing: false,
        }
    }

    /// Whether the last thing heard was no failure, and all pods are known.
    pub(super) fn is_current(&self) -> bool {
        self.current
    }

    /// A pod has this owner.
    pub(super) fn ask_for(&mut self, owner: &Owner) {
        self.owners.ask_for(owner);
    }

    /// Waits for a change. Can be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            let now = Instant::now();
            let (retry_at, list_deadline) = (self.retry_at, self.list_deadline);
            tokio::select! {
                event = self.watch.next(), if retry_at.is_none() => {
                    if let Some(change) = self.take(event) {
                        return change;
                    }
                }
                () = sleep_until(retry_at.unwrap_or(now)), if retry_at.is_some() => {
                    self.retry_at = None;
                    self.list_deadline = self.list_deadline.map(|_| Instant::now() + self.access.list_patience);
                }
                () = sleep_until(list_deadline.unwrap_or(now)), if retry_at.is_none() && list_deadline.is_some() => {
                    self.watch = self.access.watch();
                    self.fail(&"no answer", "");
                }
                (owner, controller) = self.owners.next() => return Change::Controller(owner, controller),
            }
        }
    }

    fn take(&mut self, event: Option<watcher::Result<Event<DeserializeGuard<PodObject>>>>) -> Option<Change> {
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                if is_expired(&error) {
                    // The watch itself would try to go on where it was, for ever.
                    self.watch = self.access.watch();
                }
                self.fail(&cause(&error), advice(&error));
                return None;
            }
            // Not known to happen.
            None => {
                self.watch = self.access.watch();
                self.fail(&"the watch ended", "");
                return None;
            }
        };
        if matches!(event, Event::Init | Event::InitApply(_)) {
            self.list_deadline = Some(Instant::now() + self.access.list_patience);
        }
        match event {
            // Nothing was asked yet.
            Event::Init => Some(Change::Begin),
            Event::InitApply(object) => read(object).map(Change::Pod),
            Event::InitDone => {
                self.list_deadline = None;
                self.succeed();
                Some(Change::End)
            }
            Event::Apply(object) => {
                self.succeed();
                read(object).map(Change::Pod)
            }
            Event::Delete(object) => {
                self.succeed();
                object.uid().map(Change::Gone)
            }
        }
    }

    fn fail(&mut self, error: &dyn fmt::Display, advice: &str) {
        self.current = false;
        self.retry_at = Some(Instant::now() + self.backoff.after_failure());
        if self.failing {
            debug!(%error, "the API server still does not tell of this node's pods");
        } else {
            warn!(
                %error,
                "the API server does not tell of this node's pods; names known before stay; trying again{advice}"
            );
        }
        self.failing = true;
    }

    fn succeed(&mut self) {
        self.current = true;
        self.backoff.reset();
        if self.failing {
            info!("the API server tells of this node's pods again");
        }
        self.failing = false;
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether a watch cannot go on where it was (410 Gone).
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
        && status(error).is_some_and(|status| status.code == 410)
}

/// What to do about an error, if anything can be done.
fn advice(error: &watcher::Error) -> &'static str {
    match status(error).map(|status| status.code) {
        Some(401) => ": check the agent's service account token",
        Some(403) => ": grant the agent's service account `list` and `watch` on pods",
        _ => "",
    }
}

/// One object that cannot be read must not hide the others.
fn read(object: DeserializeGuard<PodObject>) -> Option<KnownPod> {
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let error = match object.0 {
        Ok(object) => match object.try_into() {
            Ok(pod) => return Some(pod),
            Err(error) => error_chain(&error),
        },
        Err(invalid) => invalid.error,
    };
    warn!(
        pod = name,
        error, "a pod's object cannot be used: this pod has no name"
    );
    None
}
