//! From a checked resource to the objects that it owns. Pure: the same resource gives the same objects.
//!
//! What the agents can take over while they run is in the `ConfigMap` and nowhere else. What they cannot is in the template of
//! their pods and nowhere else. So a change of the former restarts nothing, and a change of the latter rolls out, without a hash
//! of anything.

mod cluster_role_binding;
mod config_map;
mod containers;
mod daemon_set;
mod metadata;
mod service_account;
mod update_strategy;
mod volumes;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;

use self::cluster_role_binding::cluster_role_binding;
pub use self::config_map::Error;
use self::config_map::config_map;
use self::daemon_set::daemon_set;
use self::service_account::service_account;
use self::update_strategy::needs_surge;
use super::claims::Remainder;
use super::validate::Agents;
use super::version::Version;

/// What a resource owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Whose rights the agents have.
    pub service_account: ServiceAccount,
    /// Gives the account the rights of the agents' role.
    pub binding: ClusterRoleBinding,
    /// The agents' file.
    pub config_map: ConfigMap,
    /// The agents.
    pub daemon_set: DaemonSet,
    /// The surge: agents that serve while Kubernetes replaces the others, where it cannot surge and nobody asked for a gap.
    pub surge: Option<DaemonSet>,
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
    let identity = &agents.identity;
    Ok(Objects {
        service_account: service_account(identity, namespace),
        binding: cluster_role_binding(identity, namespace),
        config_map: config_map(identity, namespace, &agents.configuration)?,
        daemon_set: daemon_set(agents, remainder, namespace, version),
        surge: needs_surge(&agents.update, version)
            .then(|| daemon_set::surge(agents, remainder, namespace, version)),
    })
}
