//! The options, each once: its name, flag, variable, key in the file, and help.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::filter::{Namespaces, Processes};
use super::values::{
    History, HostId, Interval, LogFormat, LogLevel, MapEntries, MetricsAddress, NodeName, PluginDir,
    StandbySocket, StatusCodes,
};
use crate::bpf::HookChoice;

/// Values from one source; what is absent comes from the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overrides {
    /// Directory in which Scope's probe looks for plugins [default: /var/run/scope/plugins]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SCOPE_HTTP_STATISTICS_PLUGIN_DIR"
    )]
    #[serde(deserialize_with = "parsed")]
    pub plugin_dir: Option<PluginDir>,

    /// Stand by while another agent has the plugin's socket, and take that over when it leaves, instead of refusing to
    /// start; a socket of this agent's own, which commands with the same option ask
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SCOPE_HTTP_STATISTICS_STANDBY_SOCKET"
    )]
    #[serde(deserialize_with = "parsed")]
    pub standby_socket: Option<StandbySocket>,

    /// How to attach to the kernel: auto, fentry, kprobe or tracepoint [default: auto]
    #[arg(long, global = true, value_name = "HOOK", env = "SCOPE_HTTP_STATISTICS_HOOK")]
    #[serde(deserialize_with = "parsed")]
    pub hook: Option<HookChoice>,

    /// Time between two samples [default: 1s]
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        env = "SCOPE_HTTP_STATISTICS_INTERVAL"
    )]
    #[serde(deserialize_with = "parsed")]
    pub interval: Option<Interval>,

    /// Time that each report covers [default: 60s]
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        env = "SCOPE_HTTP_STATISTICS_HISTORY"
    )]
    #[serde(deserialize_with = "parsed")]
    pub history: Option<History>,

    /// Status codes with a graph of their own [default: the 16 most common]
    #[arg(
        long,
        global = true,
        value_name = "CODES",
        env = "SCOPE_HTTP_STATISTICS_STATUS_CODES"
    )]
    #[serde(deserialize_with = "code_list")]
    pub status_codes: Option<StatusCodes>,

    /// Host id in Scope [default: what Scope's probe calls it; before it polls `NODE_NAME`, else the host's name]
    #[arg(long, global = true, value_name = "ID", env = "SCOPE_HTTP_STATISTICS_HOST_ID")]
    #[serde(deserialize_with = "parsed")]
    pub host_id: Option<HostId>,

    /// Connections whose state is kept; beyond, the least recently used are forgotten [default: 65536]
    #[arg(
        long,
        global = true,
        value_name = "COUNT",
        env = "SCOPE_HTTP_STATISTICS_MAX_CONNECTIONS"
    )]
    #[serde(deserialize_with = "map_entries")]
    pub max_connections: Option<MapEntries>,

    /// Counters: one for requests and one for each status code, of each process [default: 16384]
    #[arg(
        long,
        global = true,
        value_name = "COUNT",
        env = "SCOPE_HTTP_STATISTICS_MAX_COUNTERS"
    )]
    #[serde(deserialize_with = "map_entries")]
    pub max_counters: Option<MapEntries>,
    /// Name of this node in its cluster, by which the API server is asked for its pods [default: `NODE_NAME`]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "SCOPE_HTTP_STATISTICS_NODE_NAME"
    )]
    #[serde(deserialize_with = "parsed")]
    pub node_name: Option<NodeName>,

    /// How to reach the API server from outside of a cluster [default: the pod's service account]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SCOPE_HTTP_STATISTICS_KUBECONFIG"
    )]
    pub kubeconfig: Option<PathBuf>,

    /// Whose processes are shown: all or pods [default: all]
    #[arg(
        long,
        global = true,
        value_name = "WHOSE",
        env = "SCOPE_HTTP_STATISTICS_PROCESSES"
    )]
    #[serde(deserialize_with = "parsed")]
    pub processes: Option<Processes>,

    /// Namespaces by name.
    #[command(flatten)]
    pub namespaces: NamespaceOverrides,

    /// Where to serve OpenMetrics: a port of 127.0.0.1, or an address and a port [default: nowhere]
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "SCOPE_HTTP_STATISTICS_METRICS_ADDRESS"
    )]
    #[serde(deserialize_with = "metrics_address")]
    pub metrics_address: Option<MetricsAddress>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "SCOPE_HTTP_STATISTICS_LOG_LEVEL"
    )]
    #[serde(deserialize_with = "parsed")]
    pub log_level: Option<LogLevel>,

    /// text or json [default: text]
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "SCOPE_HTTP_STATISTICS_LOG_FORMAT"
    )]
    #[serde(deserialize_with = "parsed")]
    pub log_format: Option<LogFormat>,
}

/// Which namespaces' pods are shown, from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceOverrides {
    /// Only pods of these namespaces are shown [default: of all]
    #[arg(
        id = "include_namespaces",
        long = "include-namespaces",
        global = true,
        value_name = "NAMES",
        env = "SCOPE_HTTP_STATISTICS_INCLUDE_NAMESPACES"
    )]
    #[serde(deserialize_with = "namespace_list")]
    pub include: Option<Namespaces>,

    /// Pods of these namespaces are not shown
    #[arg(
        id = "exclude_namespaces",
        long = "exclude-namespaces",
        global = true,
        value_name = "NAMES",
        env = "SCOPE_HTTP_STATISTICS_EXCLUDE_NAMESPACES"
    )]
    #[serde(deserialize_with = "namespace_list")]
    pub exclude: Option<Namespaces>,
}

/// A string in the type's own form; errors carry the place in the file.
fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// A list of numbers.
fn code_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StatusCodes>, D::Error> {
    let codes = Option::<Vec<u16>>::deserialize(deserializer)?;
    codes
        .map(|codes| codes.try_into().map_err(serde::de::Error::custom))
        .transpose()
}

/// A number.
fn map_entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MapEntries>, D::Error> {
    let entries = Option::<u32>::deserialize(deserializer)?;
    entries
        .map(|entries| entries.try_into().map_err(serde::de::Error::custom))
        .transpose()
}

/// A port alone is a number.
fn metrics_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MetricsAddress>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Port(u64),
        Address(String),
    }
    let written = Option::<Written>::deserialize(deserializer)?;
    let text = written.map(|written| match written {
        Written::Port(port) => port.to_string(),
        Written::Address(address) => address,
    });
    text.map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// A list of names.
fn namespace_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Namespaces>, D::Error> {
    let names = Option::<Vec<String>>::deserialize(deserializer)?;
    names
        .map(|names| names.try_into().map_err(serde::de::Error::custom))
        .transpose()
}

impl Overrides {
    /// These values, and `other`'s where these are absent.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let Self {
            plugin_dir,
            standby_socket,
            hook,
            interval,
            history,
            status_codes,
            host_id,
            max_connections,
            max_counters,
            node_name,
            kubeconfig,
            processes,
            namespaces: NamespaceOverrides { include, exclude },
            metrics_address,
            log_level,
            log_format,
        } = self;
        Self {
            plugin_dir: plugin_dir.or(other.plugin_dir),
            standby_socket: standby_socket.or(other.standby_socket),
            hook: hook.or(other.hook),
            interval: interval.or(other.interval),
            history: history.or(other.history),
            status_codes: status_codes.or(other.status_codes),
            host_id: host_id.or(other.host_id),
            max_connections: max_connections.or(other.max_connections),
            max_counters: max_counters.or(other.max_counters),
            node_name: node_name.or(other.node_name),
            kubeconfig: kubeconfig.or(other.kubeconfig),
            processes: processes.or(other.processes),
            namespaces: NamespaceOverrides {
                include: include.or(other.namespaces.include),
                exclude: exclude.or(other.namespaces.exclude),
            },
            metrics_address: metrics_address.or(other.metrics_address),
            log_level: log_level.or(other.log_level),
            log_format: log_format.or(other.log_format),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PREFIX: &str = "SCOPE_HTTP_STATISTICS_";

    /// Cells of a documented option, by flag.
    fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
        let page = include_str!("../../../docs/reference/options.md");
        let agent = page
            .split("\n## ")
            .find(|part| part.starts_with("The agent"))
            .unwrap();
        let rows = agent.lines().filter(|line| line.starts_with("| `--"));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            (cells[0].trim_matches('`'), cells[1..].to_vec())
        })
        .collect()
    }

    fn camel_case(id: &str) -> String {
        let mut words = id.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |key, word| key + &word[..1].to_uppercase() + &word[1..])
    }

    /// The page is written by hand, and says of each option what the definitions here say.
    #[test]
    fn each_option_is_documented_as_it_is_defined() {
        let command = <Overrides as clap::Args>::augment_args(clap::Command::new("agent"));
        let mut rows = documented();
        for argument in command.get_arguments() {
            let flag = format!("--{}", argument.get_long().unwrap());
            let cells = rows
                .remove(&*flag)
                .unwrap_or_else(|| panic!("{flag} is not documented"));
            let variable = argument.get_env().unwrap().to_str().unwrap();
            assert_eq!(
                format!("{PREFIX}{}", cells[0].trim_matches('`')),
                variable,
                "{flag}"
            );
            let key = match argument.get_id().as_str() {
                "include_namespaces" => "namespaces.include".to_owned(),
                "exclude_namespaces" => "namespaces.exclude".to_owned(),
                id => camel_case(id),
            };
            assert_eq!(cells[1].trim_matches('`'), key, "{flag}");
            // What stands in place of a value is in words on both sides.
            let help = argument.get_help().unwrap().to_string();
            let default = help
                .rsplit_once("[default: ")
                .map(|(_, rest)| rest.trim_end_matches(']'));
            if let Some(value) = cells[2].strip_prefix('`').and_then(|it| it.strip_suffix('`'))
                && default != Some("the 16 most common")
            {
                assert_eq!(default, Some(value), "{flag}");
            }
        }
        assert_eq!(rows.keys().collect::<Vec<_>>(), [&"--config"]);
    }

    #[test]
    fn the_codes_that_are_documented_are_the_default() {
        let rows = documented();
        let codes: StatusCodes = rows["--status-codes"][2].trim_matches('`').parse().unwrap();
        assert_eq!(codes, StatusCodes::default());
    }
}
