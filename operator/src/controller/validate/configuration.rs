//! What the agents read from their file and take over while they run: of each field that is an option of theirs, its value in the
//! agent's words (`Overrides` of the agent).

use serde::{Serialize, Serializer};

use crate::api::v1alpha1::{LogLevel, Namespaces, Processes};

/// The agents' options, as [`serde`] writes them into their file.
///
/// Agents refuse what they do not know, so what is not asked for is left out: an older image may be meant to run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentConfiguration {
    /// Seconds between measurements.
    #[serde(serialize_with = "seconds")]
    pub(crate) interval: i32,
    /// How far back a report reaches, in seconds.
    #[serde(serialize_with = "seconds")]
    pub(crate) history: i32,
    /// Codes with a metric of their own.
    pub(crate) status_codes: Vec<i32>,
    /// The least severe messages that are logged.
    #[serde(serialize_with = "lower_case")]
    pub(crate) log_level: LogLevel,
    /// Which pods are reported.
    #[serde(skip_serializing_if = "Namespaces::is_everything")]
    pub(crate) namespaces: Namespaces,
    /// Which processes are reported.
    #[serde(
        skip_serializing_if = "Processes::is_everything",
        serialize_with = "lower_case"
    )]
    pub(crate) processes: Processes,
    /// The port of `/metrics`; without one, it is not served.
    #[serde(
        rename = "metricsAddress",
        skip_serializing_if = "Option::is_none",
        serialize_with = "any_address"
    )]
    pub(crate) metrics_port: Option<i32>,
}

fn seconds<S: Serializer>(count: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{count}s"))
}

/// The agent's options have the values of the resource's fields, in lower case.
fn lower_case<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let value = serde_json::to_value(value).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&value.as_str().unwrap_or_default().to_lowercase())
}

fn any_address<S: Serializer>(port: &Option<i32>, serializer: S) -> Result<S::Ok, S::Error> {
    let port = port.unwrap_or_default();
    serializer.collect_str(&format_args!("0.0.0.0:{port}"))
}
