//! Binds the agents' account to the role that the installation brings.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};

use super::metadata;
use crate::controller::validate::Identity;
use crate::names::{AGENT_ROLE, object_name};

pub(super) fn cluster_role_binding(identity: &Identity, namespace: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata::cluster_wide(identity),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: AGENT_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: object_name(&identity.name),
            namespace: Some(namespace.to_owned()),
            api_group: None,
        }]),
    }
}
