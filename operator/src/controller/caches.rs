//! What the operator knows of the cluster: one watch for each kind, and a cache that it fills.
//!
//! All reads are from here; besides, the API server is only asked for its version. A watch that breaks goes on with backoff, and
//! what was known stays until then.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::agent_pod::AgentPod;
use super::raw::Raw;
use super::status::pods;
use crate::error_chain::error_chain;
use crate::names::{AGENT_PODS, INSTANCE_LABEL, MANAGED, object_name, surge_name};

/// Which resources have to be reconciled, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trigger {
    /// The resource of that name, if there is one.
    One(String),
    /// Every resource that there is.
    All,
    /// No resource, but a watch broke: the API server that answers next may be another one.
    Lost,
}

/// Everything that is known of the cluster.
#[derive(Clone)]
pub(super) struct Caches {
    pub(super) resources: Store<Raw>,
    // What the operator made, for all resources.
    pub(super) service_accounts: Store<ServiceAccount>,
    pub(super) bindings: Store<ClusterRoleBinding>,
    pub(super) config_maps: Store<ConfigMap>,
    /// Those of the agents, and those of surges.
    pub(super) daemon_sets: Store<DaemonSet>,
    /// Of agents and surge agents.
    pub(super) pods: Store<AgentPod>,
    /// Names and labels of all nodes.
    pub(super) nodes: Store<PartialObjectMeta<Node>>,
    /// Where those are, but for the bindings, which have no namespace.
    namespace: String,
}

/// Watches, for as long as the stream that comes with the caches is polled.
pub(super) fn watch(client: &Client, namespace: &str) -> (Caches, BoxStream<'static, Trigger>) {
    let managed = watcher::Config::default().labels(MANAGED);
    let agents = watcher::Config::default().labels(AGENT_PODS);
    let namespaced = |client: &Client| (client.clone(), namespace.to_owned());

    let (resources, on_resource) = reflect(
        watcher(Api::<Raw>::all(client.clone()), watcher::Config::default()),
        thin,
        // A change of one resource may free nodes for others. Only the operator writes the status.
        |resource: &Raw| {
            Some(hash(&(
                resource.meta().generation,
                resource.meta().deletion_timestamp.is_some(),
            )))
        },
        |_| Trigger::All,
    );
    let (client, namespace_of) = namespaced(client);
    let (service_accounts, on_service_account) = reflect(
        watcher(
            Api::<ServiceAccount>::namespaced(client.clone(), &namespace_of),
            managed.clone(),
        ),
        thin,
        version,
        owner,
    );
    let (bindings, on_binding) = reflect(
        watcher(Api::<ClusterRoleBinding>::all(client.clone()), managed.clone()),
        thin,
        version,
        owner,
    );
    let (config_maps, on_config_map) = reflect(
        watcher(
            Api::<ConfigMap>::namespaced(client.clone(), &namespace_of),
            managed.clone(),
        ),
        thin,
        version,
        owner,
    );
    let (daemon_sets, on_daemon_set) = reflect(
        watcher(
            Api::<DaemonSet>::namespaced(client.clone(), &namespace_of),
            managed,
        ),
        thin,
        version,
        owner,
    );
    let (pods, on_pod) = reflect(
        watcher(Api::<AgentPod>::namespaced(client.clone(), &namespace_of), agents),
        AgentPod::thin,
        // The DaemonSet's status tells how many are ready, but neither where nor which hooks they use.
        |pod: &AgentPod| {
            let failure = pods::failure(pod).map(|failure| (failure.node, failure.message));
            Some(hash(&(failure, pod.serves(), pod.hook())))
        },
        owner,
    );
    let (nodes, on_node) = reflect(
        watcher(
            Api::<PartialObjectMeta<Node>>::all(client),
            watcher::Config::default(),
        ),
        |node: &mut PartialObjectMeta<Node>| {
            thin(node);
            node.metadata.annotations = None;
        },
        |node: &PartialObjectMeta<Node>| Some(hash(node.labels())),
        |_| Trigger::All,
    );
    let caches = Caches {
        resources,
        service_accounts,
        bindings,
        config_maps,
        daemon_sets,
        pods,
        nodes,
        namespace: namespace.to_owned(),
    };
    let triggers = stream::select_all([
        on_resource,
        on_service_account,
        on_binding,
        on_config_map,
        on_daemon_set,
        on_pod,
        on_node,
    ]);
    (caches, triggers.boxed())
}

/// Keeps a cache of `events`, of objects as `thin` leaves them, and says what to look at when `property` of one changes.
fn reflect<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    thin: impl FnMut(&mut K) + Send + 'static,
    property: impl Fn(&K) -> Option<u64> + Send + 'static,
    trigger: impl Fn(&K) -> Trigger + Send + 'static,
) -> (Store<K>, BoxStream<'static, Trigger>)
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Default + Debug + Eq + Hash + Send + Sync,
{
    let writer = reflector::store::Writer::<K>::default();
    let store = writer.as_reader();
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut known: BTreeMap<ObjectKey, u64> = BTreeMap::new();
    let triggers = events
        .default_backoff()
        .modify(thin)
        .reflect(writer)
        .filter_map(move |event| {
            let trigger = match event {
                Ok(event) => changed(&event, &mut known, &property).then(|| match &event {
                    watcher::Event::Apply(object) | watcher::Event::Delete(object) => trigger(object),
                    _ => Trigger::All,
                }),
                Err(error) => {
                    tracing::warn!(
                        kind,
                        error = error_chain(&error),
                        "a watch broke; going on with what is known, trying again"
                    );
                    Some(Trigger::Lost)
                }
            };
            std::future::ready(trigger)
        });
    (store, triggers.boxed())
}

type ObjectKey = (Option<String>, String);

/// Whether an event changes what matters. It does if the object has gone, or if a new list has ended: then anything may have
/// happened.
fn changed<K: Resource>(
    event: &watcher::Event<K>,
    known: &mut BTreeMap<ObjectKey, u64>,
    property: impl Fn(&K) -> Option<u64>,
) -> bool {
    let key = |object: &K| (object.namespace(), object.name_any());
    match event {
        watcher::Event::Apply(object) => match property(object) {
            Some(now) => known.insert(key(object), now) != Some(now),
            None => true,
        },
        watcher::Event::Delete(object) => {
            known.remove(&key(object));
            true
        }
        watcher::Event::Init => {
            known.clear();
            false
        }
        watcher::Event::InitApply(object) => {
            if let Some(now) = property(object) {
                known.insert(key(object), now);
            }
            false
        }
        watcher::Event::InitDone => true,
    }
}

fn hash(value: &impl Hash) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

fn thin(object: &mut impl Resource) {
    object.meta_mut().managed_fields = None;
}

fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_ref().map(hash)
}

/// The resource that an object belongs to, also when someone took its label or its owner away.
fn owner(object: &impl Resource) -> Trigger {
    let label = object.labels().get(INSTANCE_LABEL).cloned();
    let owner = || {
        let owners = object.owner_references();
        Some(
            owners
                .iter()
                .find(|owner| owner.kind == "HttpStatistics")?
                .name
                .clone(),
        )
    };
    label.or_else(owner).map_or(Trigger::All, Trigger::One)
}

impl Caches {
    /// Waits until each cache has been filled once.
    pub(super) async fn filled(&self) {
        // An error would mean that the stream is gone, and then nobody waits any more.
        let _ = futures::join!(
            self.resources.wait_until_ready(),
            self.service_accounts.wait_until_ready(),
            self.bindings.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.nodes.wait_until_ready(),
        );
    }

    /// The object of the resource `name` in `store`.
    pub(super) fn owned<K>(&self, store: &Store<K>, name: &str) -> Option<Arc<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + 'static,
    {
        let name = object_name(name);
        // Cluster-scoped objects have no namespace in their key.
        store
            .get(&ObjectRef::new(&name).within(&self.namespace))
            .or_else(|| store.get(&ObjectRef::new(&name)))
    }

    /// The surge `DaemonSet` of the resource `name`.
    pub(super) fn surge(&self, name: &str) -> Option<Arc<DaemonSet>> {
        self.daemon_sets
            .get(&ObjectRef::new(&surge_name(name)).within(&self.namespace))
    }

    /// The pods of the agents and surge agents of the resource `name`.
    pub(super) fn pods_of(&self, name: &str) -> Vec<Arc<AgentPod>> {
        let mut pods = self.pods.state();
        pods.retain(|pod| {
            pod.labels()
                .get(INSTANCE_LABEL)
                .is_some_and(|instance| instance == name)
        });
        pods
    }
}
