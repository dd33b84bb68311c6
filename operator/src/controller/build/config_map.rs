//! The file that the agents read, and read again when it changes.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::metadata;
use super::volumes::CONFIGURATION_FILE;
use crate::api::v1alpha1::{LogLevel, Namespaces, Processes};
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
    let file = (CONFIGURATION_FILE.to_owned(), text(configuration)?);
    Ok(ConfigMap {
        metadata: metadata::namespaced(identity, namespace),
        data: Some([file].into()),
        ..ConfigMap::default()
    })
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

fn text(configuration: &AgentConfiguration) -> Result<String, Error> {
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
