//! From a checked resource to the objects that it owns. Pure: the same resource gives the same objects.
//!
//! What the agents can take over while they run is in the `ConfigMap` and nowhere else; what they cannot is in the
//! pods' template and nowhere else. So changing the former restarts nothing and changing the latter rolls out, without
//! a hash of anything.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, ExecAction, HostPathVolumeSource, LocalObjectReference, NodeAffinity, NodeSelector,
    ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecurityContext, ServiceAccount,
    Volume, VolumeMount,
};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::claims::Remainder;
use super::validate::{AgentConfiguration, Agents, Identity, Update};
use super::version::{MAX_SURGE, Version};
use crate::api::v1alpha1::{
    AttachMode, HostId, LocalReference, LogLevel, Namespaces, Processes, SecurityMode,
};

/// The role that the installation brings and that the agents are bound to. Names of owned objects begin with it.
pub const AGENT_ROLE: &str = "scope-http-statistics-agent";
/// Names of `DaemonSets` that stand in while agents are replaced begin with it: no resource can be called so that they meet.
const STANDBY_PREFIX: &str = "scope-http-statistics-standby";
/// The field manager of every write.
pub const FIELD_MANAGER: &str = "scope-http-statistics-operator";
/// Label that names the resource that an object belongs to.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label that tells agents from those that stand in for them.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Its value for agents.
const AGENT_COMPONENT: &str = "agent";
/// Its value for those that stand in.
pub const STANDBY_COMPONENT: &str = "standby";
/// Selects what the operator made.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=scope-http-statistics-operator";

const AGENT: &str = "scope-http-statistics-agent";
const CONFIGURATION_DIRECTORY: &str = "/etc/scope-http-statistics";
/// The names of kubelet's log directories tell the pods while the API server does not.
const POD_LOGS: &str = "/var/log/pods";
const CONTAINER_LOGS: &str = "/var/log/containers";
/// A container sees only its own part of the cgroups; the agents tell pods by theirs. Not mounted over the container's own.
const CGROUPS: (&str, &str) = ("/sys/fs/cgroup", "/host/sys/fs/cgroup");
/// Where an agent has a socket of its own, and can be asked while another one serves. A pluginDirectory could be in /run.
const STANDBY: (&str, &str) = ("/standby", "agent.sock");
/// A file that kubelet mounts and reads.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";
const CONFIGURATION_FILE: &str = "config.yaml";

/// The agents' configuration cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the agents' configuration as YAML")]
pub struct Error(#[from] serde_saphyr::ser::Error);

/// What a resource owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Whose rights the agents have.
    pub service_account: ServiceAccount,
    /// Which rights.
    pub binding: ClusterRoleBinding,
    /// What they read.
    pub config_map: ConfigMap,
    /// The agents.
    pub daemon_set: DaemonSet,
    /// Who stands in while Kubernetes replaces them, where it cannot do so without a gap and nobody asked for one.
    pub standby: Option<DaemonSet>,
}

/// The name of every object of the resource `name`. No installation has objects of its own under such a name.
#[must_use]
pub fn object_name(name: &str) -> String {
    format!("{AGENT_ROLE}-{name}")
}

/// The name of the `DaemonSet` that stands in for the agents of the resource `name`.
#[must_use]
pub fn standby_name(name: &str) -> String {
    format!("{STANDBY_PREFIX}-{name}")
}

/// Builds what `agents` own in the operator's `namespace`, on the nodes that older resources leave, for an API server of
/// `version`, if that is known.
///
/// # Errors
/// When the agents' configuration cannot be written.
pub fn build(
    agents: &Agents,
    remainder: &Remainder,
    namespace: &str,
    version: Option<Version>,
) -> Result<Objects, Error> {
    let name = object_name(&agents.identity.name);
    let in_namespace = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        ..metadata(&agents.identity)
    };
    Ok(Objects {
        service_account: ServiceAccount {
            metadata: in_namespace.clone(),
            // The agents' pods say themselves that they need it.
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        binding: ClusterRoleBinding {
            metadata: metadata(&agents.identity),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "ClusterRole".to_owned(),
                name: AGENT_ROLE.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: name.clone(),
                namespace: Some(namespace.to_owned()),
                api_group: None,
            }]),
        },
        config_map: ConfigMap {
            metadata: in_namespace.clone(),
            data: Some(
                [(
                    CONFIGURATION_FILE.to_owned(),
                    configuration(&agents.configuration)?,
                )]
                .into(),
            ),
            ..ConfigMap::default()
        },
        daemon_set: DaemonSet {
            metadata: in_namespace.clone(),
            spec: Some(daemon_set(
                agents,
                remainder,
                name.clone(),
                AGENT_COMPONENT,
                version,
            )),
            status: None,
        },
        standby: stands_in(&agents.update, version).then(|| DaemonSet {
            metadata: standby_metadata(in_namespace, &agents.identity),
            spec: Some(standby(agents, remainder, name, version)),
            status: None,
        }),
    })
}

fn standby_metadata(mut metadata: ObjectMeta, identity: &Identity) -> ObjectMeta {
    metadata.name = Some(standby_name(&identity.name));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(COMPONENT_LABEL.to_owned(), STANDBY_COMPONENT.to_owned());
    metadata
}

fn labels(name: &str, component: &str) -> BTreeMap<String, String> {
    // Never `app: weave-scope`: Scope's own selectors match it.
    [
        ("app.kubernetes.io/name", "scope-http-statistics"),
        (COMPONENT_LABEL, component),
        (INSTANCE_LABEL, name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn metadata(identity: &Identity) -> ObjectMeta {
    let mut labels = labels(&identity.name, AGENT_COMPONENT);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        FIELD_MANAGER.to_owned(),
    );
    ObjectMeta {
        name: Some(object_name(&identity.name)),
        labels: Some(labels),
        owner_references: Some(vec![identity.owner_reference()]),
        ..ObjectMeta::default()
    }
}

/// The agent's file, in its words (`Overrides` of the agent).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentFile<'a> {
    interval: String,
    history: String,
    status_codes: &'a [i32],
    log_level: &'static str,
    // Agents refuse what they do not know, so what is not asked for is left out: an older image may be meant to run.
    #[serde(skip_serializing_if = "Namespaces::is_everything")]
    namespaces: &'a Namespaces,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_address: Option<String>,
}

fn configuration(configuration: &AgentConfiguration) -> Result<String, Error> {
    let AgentConfiguration {
        interval,
        history,
        status_codes,
        namespaces,
        processes,
        metrics_port,
        log_level,
    } = configuration;
    let seconds = |duration: &Duration| format!("{}s", duration.as_secs());
    Ok(serde_saphyr::to_string(&AgentFile {
        interval: seconds(interval),
        history: seconds(history),
        status_codes,
        log_level: match log_level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        },
        namespaces,
        processes: match processes {
            Processes::All => None,
            Processes::Pods => Some("pods"),
        },
        metrics_address: metrics_port.map(|port| format!("0.0.0.0:{port}")),
    })?)
}

/// Whether a gap is to be avoided that Kubernetes would leave.
fn stands_in(update: &Update, version: Option<Version>) -> bool {
    match update {
        Update::Rolling { on_node_port } => *on_node_port || version < Some(MAX_SURGE),
        Update::OnDelete | Update::Surging(_) | Update::Replacing(_) => false,
    }
}

fn update_strategy(update: &Update, version: Option<Version>) -> DaemonSetUpdateStrategy {
    let rolling = |max_surge, max_unavailable| DaemonSetUpdateStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDaemonSet {
            max_surge,
            max_unavailable: Some(max_unavailable),
        }),
    };
    let surging = |pace| rolling(Some(pace), IntOrString::Int(0));
    match update {
        Update::OnDelete => DaemonSetUpdateStrategy {
            type_: Some("OnDelete".to_owned()),
            rolling_update: None,
        },
        // Also with someone who stands in: should the new agents fail all the same, they fail on 10 % of the nodes.
        Update::Rolling { .. } if stands_in(update, version) => rolling(None, Update::default_pace()),
        Update::Rolling { .. } => surging(Update::default_pace()),
        Update::Surging(pace) => surging(pace.clone()),
        Update::Replacing(pace) => rolling(None, pace.clone()),
    }
}

/// The same agents once more, for as long as the others are replaced.
fn standby(
    agents: &Agents,
    remainder: &Remainder,
    service_account: String,
    version: Option<Version>,
) -> DaemonSetSpec {
    let mut spec = daemon_set(agents, remainder, service_account, STANDBY_COMPONENT, version);
    if let Update::Rolling { on_node_port: true } = agents.update
        && let Some(pod) = &mut spec.template.spec
    {
        // It is opened when they take over; Kubernetes would not place a second pod that names it.
        pod.containers
            .iter_mut()
            .for_each(|container| container.ports = None);
    }
    spec
}

fn daemon_set(
    agents: &Agents,
    remainder: &Remainder,
    service_account: String,
    component: &str,
    version: Option<Version>,
) -> DaemonSetSpec {
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
        configuration: _,
    } = agents;
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
                init_containers: Some(vec![hook_container(agents)]),
                containers: vec![container(agents)],
                volumes: Some(vec![
                    host_directory("plugins", plugin_directory),
                    host_directory("pod-logs", POD_LOGS),
                    host_directory("container-logs", CONTAINER_LOGS),
                    host_directory("cgroups", CGROUPS.0),
                    Volume {
                        name: "standby".to_owned(),
                        empty_dir: Some(EmptyDirVolumeSource::default()),
                        ..Volume::default()
                    },
                    Volume {
                        name: "configuration".to_owned(),
                        config_map: Some(ConfigMapVolumeSource {
                            name: service_account,
                            ..ConfigMapVolumeSource::default()
                        }),
                        ..Volume::default()
                    },
                ]),
                ..PodSpec::default()
            }),
        },
        ..DaemonSetSpec::default()
    }
}

fn host_directory(name: &str, path: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: path.to_owned(),
            type_: Some("DirectoryOrCreate".to_owned()),
        }),
        ..Volume::default()
    }
}

/// Finds out which hook the agent takes on its node and says so at its end, by which kubelet brings it into the pod's status
/// (docs/adr/0003-hooks-by-termination-message.md). It ends well whatever it finds: what is in the way, the agent says.
fn hook_container(agents: &Agents) -> Container {
    Container {
        name: "hook".to_owned(),
        image: Some(agents.image.clone()),
        command: Some(vec![AGENT.to_owned()]),
        args: Some(vec![
            "hook".to_owned(),
            "--into".to_owned(),
            TERMINATION_MESSAGE.to_owned(),
        ]),
        env: Some(vec![hook_variable(agents.hook)]),
        // As the agent's own, so that the pod needs no more, and meets the same limits.
        resources: Some(agents.resources.clone()),
        security_context: Some(security_context(agents.security)),
        termination_message_path: Some(TERMINATION_MESSAGE.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn container(agents: &Agents) -> Container {
    let Agents {
        identity: _,
        image,
        image_pull_secrets: _,
        node_selector: _,
        tolerations: _,
        priority_class: _,
        resources,
        update: _,
        security,
        hook,
        host_id,
        plugin_directory,
        configuration,
    } = agents;
    let mount = |name: &str, path: &str, read_only| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let (alive, ready) = (
        &[AGENT, "healthcheck"][..],
        &[AGENT, "healthcheck", "--ready"][..],
    );
    Container {
        name: "agent".to_owned(),
        image: Some(image.clone()),
        command: Some(vec![AGENT.to_owned()]),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment(*hook, *host_id, plugin_directory)),
        ports: configuration.metrics_port.map(|port| {
            vec![ContainerPort {
                name: Some("metrics".to_owned()),
                container_port: port,
                // In the node's network it is the default. What was asked for goes again; a default would stay.
                host_port: (*host_id == HostId::Hostname).then_some(port),
                // Before 1.24, server-side apply needs what is a default.
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]
        }),
        resources: Some(resources.clone()),
        security_context: Some(security_context(*security)),
        // All probes ask this agent over its own socket, and over Scope's once it serves there.
        startup_probe: Some(probe(alive, 2, 30)),
        liveness_probe: Some(probe(alive, 20, 3)),
        readiness_probe: Some(probe(ready, 10, 3)),
        // Its last words, such as what its kernel lacks, go into the status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            // The same path inside as outside. The agent makes its own subdirectory in it.
            mount("plugins", plugin_directory, None),
            mount("pod-logs", POD_LOGS, Some(true)),
            mount("container-logs", CONTAINER_LOGS, Some(true)),
            mount("cgroups", CGROUPS.1, Some(true)),
            mount("standby", STANDBY.0, None),
            // A directory: a file mounted by itself (subPath) would never change.
            mount("configuration", CONFIGURATION_DIRECTORY, Some(true)),
        ]),
        ..Container::default()
    }
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}

fn hook_variable(hook: AttachMode) -> EnvVar {
    variable("SCOPE_HTTP_STATISTICS_HOOK", hook_name(hook).to_owned())
}

/// Only what cannot change while the agent runs: variables come before its file.
fn environment(hook: AttachMode, host_id: HostId, plugin_directory: &str) -> Vec<EnvVar> {
    let mut variables = vec![
        variable(
            "SCOPE_HTTP_STATISTICS_CONFIG",
            format!("{CONFIGURATION_DIRECTORY}/{CONFIGURATION_FILE}"),
        ),
        hook_variable(hook),
        // The probes need it as well.
        variable("SCOPE_HTTP_STATISTICS_PLUGIN_DIR", plugin_directory.to_owned()),
    ];
    // Always: agents of two resources, or of an old and a new one, may meet on a node.
    variables.push(variable(
        "SCOPE_HTTP_STATISTICS_STANDBY_SOCKET",
        format!("{}/{}", STANDBY.0, STANDBY.1),
    ));
    // Whose pods to ask the API server for, and what Scope calls the host.
    variables.push(node_name("SCOPE_HTTP_STATISTICS_NODE_NAME"));
    if host_id == HostId::NodeName {
        variables.push(node_name("NODE_NAME"));
    }
    variables
}

fn node_name(variable: &str) -> EnvVar {
    EnvVar {
        name: variable.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "spec.nodeName".to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}

/// As the agent's `--hook` takes it, and its `hook` says it.
pub(super) fn hook_name(hook: AttachMode) -> &'static str {
    match hook {
        AttachMode::Auto => "auto",
        AttachMode::Fentry => "fentry",
        AttachMode::Kprobe => "kprobe",
        AttachMode::Tracepoint => "tracepoint",
    }
}

fn security_context(security: SecurityMode) -> SecurityContext {
    let restricted = SecurityContext {
        run_as_user: Some(0),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    };
    match security {
        SecurityMode::Privileged => SecurityContext {
            privileged: Some(true),
            ..restricted
        },
        SecurityMode::Capabilities => SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: Some(
                    [
                        "BPF",      // maps and programs
                        "PERFMON",  // programs that read the kernel's memory, and attaching them
                        "SYS_NICE", // reading maps undisturbed, or the hook `kprobe` misses calls
                    ]
                    .map(str::to_owned)
                    .into(),
                ),
            }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..restricted
        },
    }
}

fn probe(command: &[&str], period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        exec: Some(ExecAction {
            command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}
