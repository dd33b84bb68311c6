//! What the agents read from their file and take over while they run: of each field that is an option of theirs, its value in the
//! agent's words (`Overrides` of the agent).

use serde::ser::Error as _;
use serde::{Serialize, Serializer};

use crate::api::v1alpha1::{LogLevel, Namespaces, Processes};

/// The agents' options, as [`serde`] writes them into their file.
///
/// Agents refuse what they do not know, so what is not asked for is left out: an older image may be meant to run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentConfiguration {
    /// Time between measurements, such as `1s`.
    pub(crate) interval: String,
    /// How far back a report reaches.
    pub(crate) history: String,
    /// Codes with a metric of their own.
    pub(crate) status_codes: Vec<i32>,
    /// The least severe messages that are logged.
    #[serde(serialize_with = "lower_case")]
    pub(crate) log_level: LogLevel,
    /// Which pods are reported.
    #[serde(skip_serializing_if = "Namespaces::is_everything")]
    pub(crate) namespaces: Namespaces,
    /// Which processes are reported.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "lower_case")]
    pub(crate) processes: Option<Processes>,
    /// Where `/metrics` is; without an address, it is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics_address: Option<String>,
}

/// The agent's options have the values of the resource's fields, in lower case.
fn lower_case<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let value = serde_json::to_value(value).map_err(S::Error::custom)?;
    serializer.serialize_str(&value.as_str().unwrap_or_default().to_lowercase())
}
