//! Collects what a resource depends on, from the caches.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;

use super::caches::Caches;
use super::claims::Claim;
use super::pods::AgentPod;
use super::raw::Raw;
use super::validate::{NodeSelector, validate};

/// A resource and all that decides what is done about it.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// Claims of older resources, by age.
    pub older: Vec<Claim>,
    /// All nodes.
    pub nodes: Vec<Arc<PartialObjectMeta<Node>>>,
    /// The agents, and those that stand in.
    pub pods: Vec<Arc<AgentPod>>,
    /// The objects that the resource owns, as far as they are there.
    pub service_account: Option<Arc<ServiceAccount>>,
    /// See above.
    pub binding: Option<Arc<ClusterRoleBinding>>,
    /// See above.
    pub config_map: Option<Arc<ConfigMap>>,
    /// See above.
    pub daemon_set: Option<Arc<DaemonSet>>,
    /// Those that stand in.
    pub standby: Option<Arc<DaemonSet>>,
}

/// Collects it for `resource`.
#[must_use]
pub fn dereference(caches: &Caches, resource: &Raw) -> Dereferenced {
    let name = resource.name_any();
    Dereferenced {
        older: older(caches, resource),
        nodes: caches.nodes.state(),
        pods: caches.pods_of(&name),
        service_account: caches.owned(&caches.service_accounts, &name),
        binding: caches.owned(&caches.bindings, &name),
        config_map: caches.owned(&caches.config_maps, &name),
        daemon_set: caches.owned(&caches.daemon_sets, &name),
        standby: caches.standby(&name),
    }
}

fn older(caches: &Caches, resource: &Raw) -> Vec<Claim> {
    let anything = || NodeSelector::of_accepted(std::collections::BTreeMap::new());
    let own = claim(resource, anything());
    let mut older: Vec<Claim> = caches
        .resources
        .state()
        .iter()
        .filter_map(|other| {
            let selector = match validate(other) {
                Ok(agents) => agents.node_selector,
                // Its agents, if it has any, stay where they are.
                Err(_) => caches
                    .owned(&caches.daemon_sets, &other.name_any())
                    .and_then(|daemon_set| daemon_set.spec.clone()?.template.spec?.node_selector)
                    .map(NodeSelector::of_accepted)?,
            };
            Some(claim(other, selector))
        })
        .filter(|other| other.by_age(&own).is_lt())
        .collect();
    older.sort_by(Claim::by_age);
    older
}

fn claim(resource: &Raw, selector: NodeSelector) -> Claim {
    Claim {
        name: resource.name_any(),
        created: resource.metadata.creation_timestamp.as_ref().map(|time| time.0),
        selector,
    }
}
