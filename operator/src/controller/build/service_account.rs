//! The account whose rights the agents have.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::controller::validate::Identity;

pub(super) fn service_account(identity: &Identity, namespace: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::namespaced(identity, namespace),
        // The agents' pods say themselves that they need the token.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
