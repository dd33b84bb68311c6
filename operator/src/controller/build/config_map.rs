//! The file that the agents read, and read again when it changes.

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use super::volumes::CONFIGURATION_FILE;
use crate::controller::validate::{AgentConfiguration, Identity};

/// The agents' configuration cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the agents' configuration as YAML")]
pub struct Error(#[from] serde_saphyr::ser::Error);

pub(super) fn config_map(
    identity: &Identity,
    namespace: &str,
    configuration: &AgentConfiguration,
) -> Result<ConfigMap, Error> {
    let file = (
        CONFIGURATION_FILE.to_owned(),
        serde_saphyr::to_string(configuration)?,
    );
    Ok(ConfigMap {
        metadata: metadata::namespaced(identity, namespace),
        data: Some([file].into()),
        ..ConfigMap::default()
    })
}
