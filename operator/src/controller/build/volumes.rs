//! What the agents see of their node, and where.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, Volume, VolumeMount,
};

/// Where the agents' file is mounted.
const CONFIGURATION_DIRECTORY: &str = "/etc/scope-http-statistics";
/// The file's name, there and in the `ConfigMap`.
pub(super) const CONFIGURATION_FILE: &str = "config.yaml";
/// The names of kubelet's log directories tell the pods while the API server does not.
const POD_LOGS: &str = "/var/log/pods";
const CONTAINER_LOGS: &str = "/var/log/containers";
/// On the node, and in the container. A container sees only its own part of the cgroups, but the agents tell pods by theirs. The
/// mount does not hide the container's own cgroups.
const CGROUPS: (&str, &str) = ("/sys/fs/cgroup", "/host/sys/fs/cgroup");
/// Where an agent has a socket of its own, on which it can be asked while another one serves Scope's. Not below `/run`, where a
/// `pluginDirectory` could be.
const STANDBY_DIRECTORY: &str = "/standby";
const STANDBY_SOCKET: &str = "agent.sock";

pub(super) fn configuration_path() -> String {
    format!("{CONFIGURATION_DIRECTORY}/{CONFIGURATION_FILE}")
}

pub(super) fn standby_socket() -> String {
    format!("{STANDBY_DIRECTORY}/{STANDBY_SOCKET}")
}

/// The volumes of a pod whose file is in the `ConfigMap` of this name.
pub(super) fn volumes(plugin_directory: &str, config_map: String) -> Vec<Volume> {
    vec![
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
                name: config_map,
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

/// Where an agent finds those volumes.
pub(super) fn mounts(plugin_directory: &str) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    vec![
        // The same path inside as outside. The agent makes a subdirectory of its own there.
        mount("plugins", plugin_directory, None),
        mount("pod-logs", POD_LOGS, Some(true)),
        mount("container-logs", CONTAINER_LOGS, Some(true)),
        mount("cgroups", CGROUPS.1, Some(true)),
        mount("standby", STANDBY_DIRECTORY, None),
        // A directory: a file that is mounted by itself (subPath) would never change.
        mount("configuration", CONFIGURATION_DIRECTORY, Some(true)),
    ]
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
