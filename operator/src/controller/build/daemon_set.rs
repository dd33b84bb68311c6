//! The agents' pods, and those of the surge.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::containers;
use super::metadata::{self, labels};
use super::update_strategy::update_strategy;
use super::volumes::volumes;
use crate::api::v1alpha1::{HostId, LocalReference};
use crate::controller::claims::Remainder;
use crate::controller::validate::{Agents, Update};
use crate::controller::version::Version;
use crate::names::{AGENT_COMPONENT, SURGE_COMPONENT, object_name};

/// Runs the agents.
pub(super) fn daemon_set(
    agents: &Agents,
    remainder: &Remainder,
    namespace: &str,
    version: Option<Version>,
) -> DaemonSet {
    DaemonSet {
        metadata: metadata::namespaced(&agents.identity, namespace),
        spec: Some(spec(agents, remainder, AGENT_COMPONENT, version)),
        status: None,
    }
}

/// Runs the same agents once more, for as long as Kubernetes replaces the others.
pub(super) fn surge(
    agents: &Agents,
    remainder: &Remainder,
    namespace: &str,
    version: Option<Version>,
) -> DaemonSet {
    let mut spec = spec(agents, remainder, SURGE_COMPONENT, version);
    if let Update::Rolling { on_node_port: true } = agents.update
        && let Some(pod) = &mut spec.template.spec
    {
        // A surge agent opens the port when it takes over. Kubernetes would not place a second pod that names it.
        pod.containers
            .iter_mut()
            .for_each(|container| container.ports = None);
    }
    DaemonSet {
        metadata: metadata::surge(&agents.identity, namespace),
        spec: Some(spec),
        status: None,
    }
}

fn spec(agents: &Agents, remainder: &Remainder, component: &str, version: Option<Version>) -> DaemonSetSpec {
    let Agents {
        identity,
        image: _,
        image_pull_secrets,
        node_selector,
        tolerations,
        priority_class,
        resources: _,
        update,
        security: _,
        hook: _,
        host_id,
        plugin_directory,
        metrics_port: _,
        configuration: _,
    } = agents;
    let service_account = object_name(&identity.name);
    let labels = labels(&identity.name, component);
    let own_host_name = *host_id == HostId::Hostname;
    DaemonSetSpec {
        selector: LabelSelector {
            match_labels: Some(labels.clone()),
            match_expressions: None,
        },
        update_strategy: Some(update_strategy(update, version)),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                service_account_name: Some(service_account.clone()),
                // For the names of the pods on the node.
                automount_service_account_token: Some(true),
                // Scope knows processes by the PIDs of the node.
                host_pid: Some(true),
                // A pod in the node's network has the node's host name; any other has its own.
                host_network: own_host_name.then_some(true),
                dns_policy: own_host_name.then(|| "ClusterFirstWithHostNet".to_owned()),
                node_selector: Some(node_selector.labels().clone()),
                affinity: remainder.terms().map(|node_selector_terms| Affinity {
                    node_affinity: Some(NodeAffinity {
                        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                            node_selector_terms,
                        }),
                        preferred_during_scheduling_ignored_during_execution: None,
                    }),
                    ..Affinity::default()
                }),
                tolerations: (!tolerations.is_empty()).then(|| tolerations.clone()),
                priority_class_name: priority_class.clone(),
                image_pull_secrets: (!image_pull_secrets.is_empty()).then(|| {
                    let reference = |LocalReference { name }: &LocalReference| LocalObjectReference {
                        name: name.clone(),
                    };
                    image_pull_secrets.iter().map(reference).collect()
                }),
                // To detach, and to take its socket away.
                termination_grace_period_seconds: Some(15),
                init_containers: Some(vec![containers::hook(agents)]),
                containers: vec![containers::agent(agents)],
                volumes: Some(volumes(plugin_directory, service_account)),
                ..PodSpec::default()
            }),
        },
        ..DaemonSetSpec::default()
    }
}
