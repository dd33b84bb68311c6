//! The containers of an agent's pod.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, ObjectFieldSelector, Probe,
    SeccompProfile, SecurityContext,
};

use super::volumes::{configuration_path, mounts, standby_socket};
use crate::api::v1alpha1::{AttachMode, HostId, SecurityMode};
use crate::controller::validate::Agents;
use crate::names::hook_name;

/// The program in the agents' image.
const AGENT: &str = "scope-http-statistics-agent";
/// A file that kubelet mounts, and reads when the container has ended.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

/// Finds out which hook the agent takes on its node, and says so in its last message, which kubelet brings into the pod's status
/// (docs/adr/0003-hooks-by-termination-message.md). It ends well whatever it finds: what is in the way, the agent says.
pub(super) fn hook(agents: &Agents) -> Container {
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
        // Like the agent's, so that the pod needs no more, and the hook is chosen under the same limits.
        resources: Some(agents.resources.clone()),
        security_context: Some(security_context(agents.security)),
        termination_message_path: Some(TERMINATION_MESSAGE.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// The agent itself.
pub(super) fn agent(agents: &Agents) -> Container {
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
        metrics_port,
        configuration: _,
    } = agents;
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
        ports: metrics_port.map(|port| {
            vec![ContainerPort {
                name: Some("metrics".to_owned()),
                container_port: port,
                // In the node's network, the API server would set it anyway. But a default would stay when it is no longer wanted,
                // while a field that was applied goes.
                host_port: (*host_id == HostId::Hostname).then_some(port),
                // Before 1.24, server-side apply needs it, although it is the default.
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]
        }),
        resources: Some(resources.clone()),
        security_context: Some(security_context(*security)),
        // All probes ask this agent over its own socket, and over Scope's as soon as it serves there.
        startup_probe: Some(probe(alive, 2, 30)),
        liveness_probe: Some(probe(alive, 20, 3)),
        readiness_probe: Some(probe(ready, 10, 3)),
        // Its last words, such as what its kernel lacks, go into the status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(plugin_directory)),
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

/// Only what cannot change while the agent runs: variables take precedence over its file.
fn environment(hook: AttachMode, host_id: HostId, plugin_directory: &str) -> Vec<EnvVar> {
    let mut variables = vec![
        variable("SCOPE_HTTP_STATISTICS_CONFIG", configuration_path()),
        hook_variable(hook),
        // The probes need it as well.
        variable("SCOPE_HTTP_STATISTICS_PLUGIN_DIR", plugin_directory.to_owned()),
    ];
    // Always set: agents of two resources, or an old and a new agent, may meet on a node.
    variables.push(variable("SCOPE_HTTP_STATISTICS_STANDBY_SOCKET", standby_socket()));
    // The node whose pods the agent asks the API server for. With `NodeName`, Scope calls the host so, too.
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
