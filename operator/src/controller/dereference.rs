//! Collects what a resource depends on, from the caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;

use super::agent_pod::AgentPod;
use super::apply::Cached;
use super::caches::Caches;
use super::claims::{Claim, Conflict, Remainder};
use super::raw::Raw;
use super::validate::{Selector, validate};

/// All that decides what is done about a resource, besides the resource itself. Objects that it owns are there as far as they
/// exist.
pub(super) struct Dereferenced {
    /// Claims of older resources, oldest first.
    older: Vec<Claim>,
    /// Names and labels of all nodes, selected or not.
    nodes: Vec<Arc<PartialObjectMeta<Node>>>,
    /// Those of the agents and of the surge.
    pub(super) pods: Vec<Arc<AgentPod>>,
    /// What the resource owns besides `DaemonSets`.
    pub(super) cached: Cached,
    /// Runs the agents.
    pub(super) daemon_set: Option<Arc<DaemonSet>>,
    /// Runs the surge agents.
    pub(super) surge: Option<Arc<DaemonSet>>,
}

/// Collects what decides about `resource`.
pub(super) fn dereference(caches: &Caches, resource: &Raw) -> Dereferenced {
    let name = resource.name_any();
    Dereferenced {
        older: older(caches, resource),
        nodes: caches.nodes.state(),
        pods: caches.pods_of(&name),
        cached: Cached {
            service_account: caches.owned(&caches.service_accounts, &name),
            binding: caches.owned(&caches.bindings, &name),
            config_map: caches.owned(&caches.config_maps, &name),
        },
        daemon_set: caches.owned(&caches.daemon_sets, &name),
        surge: caches.surge(&name),
    }
}

impl Dereferenced {
    pub(super) fn pods(&self) -> impl Iterator<Item = &AgentPod> + Clone {
        self.pods.iter().map(|pod| &**pod)
    }

    /// What the older resources leave of the nodes that `selector` selects, and which nodes they have.
    pub(super) fn divide(&self, selector: &Selector) -> (Remainder, Conflict) {
        let nodes = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.metadata.name.as_deref()?, node.labels())));
        (
            Remainder::of(selector, &self.older),
            Conflict::of(selector, &self.older, nodes),
        )
    }
}

fn older(caches: &Caches, resource: &Raw) -> Vec<Claim> {
    let anything = || Selector::of_accepted(BTreeMap::new());
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
                    .map(Selector::of_accepted)?,
            };
            Some(claim(other, selector))
        })
        .filter(|other| other.by_age(&own).is_lt())
        .collect();
    older.sort_by(Claim::by_age);
    older
}

fn claim(resource: &Raw, selector: Selector) -> Claim {
    Claim {
        name: resource.name_any(),
        created: resource.metadata.creation_timestamp.as_ref().map(|time| time.0),
        selector,
    }
}
