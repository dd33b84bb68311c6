//! The options, each defined once: help, type, flag, variable, how the file has it, default, and whether a change in the file
//! applies while the agent runs. The key in the file is the name in camelCase; the range belongs to the type.

use std::convert::identity;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::filter::{NamespaceLists, Namespaces, Processes};
use super::values::{
    History, HostId, Interval, LogFormat, LogLevel, MapEntries, MetricsAddress, NodeName, PluginDir,
    StandbySocket, StatusCodes,
};
use super::words::InWords as _;
use crate::bpf::HookChoice;

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// When the agent starts the next time.
    Restart,
}

/// One option's value in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The option as in a file.
    pub key: String,
    /// When a change of it takes effect.
    pub effect: Effect,
    /// Its value. Equal texts are equal values.
    pub value: String,
}

/// Makes of the options: what one source says of them ([`Overrides`]), and their values while the agent runs ([`Live`], of which the
/// file may change each, and [`Fixed`]). An entry is `name: what a source gives => value = from the one to the other`.
macro_rules! options {
    (
        fixed { $($(#[$fixed_meta:meta])+ $fixed:ident: $fixed_given:ty => $fixed_value:ty = $fixed_default:expr;)+ }
        live { $($(#[$live_meta:meta])+ $live:ident: $live_given:ty => $live_value:ty = $live_default:expr;)+ }
    ) => {
        /// Values from one source; what is absent comes from the next.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct Overrides {
            $($(#[$fixed_meta])+ pub $fixed: $fixed_given,)+
            $($(#[$live_meta])+ pub $live: $live_given,)+
        }

        /// What can change while the agent runs.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Live {
            $(#[doc = concat!("[`Overrides::", stringify!($live), "`] of all sources.")] pub $live: $live_value,)+
        }

        /// What cannot change while the agent runs.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Fixed {
            $(#[doc = concat!("[`Overrides::", stringify!($fixed), "`] of all sources.")] pub $fixed: $fixed_value,)+
        }

        impl Overrides {
            /// These values, and `other`'s where these are absent.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self {
                    $($fixed: self.$fixed.or(other.$fixed),)+
                    $($live: self.$live.or(other.$live),)+
                }
            }

            /// All values, of which those that are absent are the defaults.
            pub(super) fn settle(self) -> (Live, Fixed) {
                let live = Live {
                    $($live: ($live_default as fn($live_given) -> $live_value)(self.$live),)+
                };
                let fixed = Fixed {
                    $($fixed: ($fixed_default as fn($fixed_given) -> $fixed_value)(self.$fixed),)+
                };
                (live, fixed)
            }
        }

        /// Every option in words, always in the same order.
        pub(super) fn describe(live: &Live, fixed: &Fixed) -> Vec<Described> {
            vec![
                $(Described { key: key(stringify!($live)), effect: Effect::Live, value: live.$live.in_words() },)+
                $(Described { key: key(stringify!($fixed)), effect: Effect::Restart, value: fixed.$fixed.in_words() },)+
            ]
        }
    };
}

options! {
    fixed {
        /// Directory in which Scope's probe looks for plugins [default: /var/run/scope/plugins]
        #[arg(long, global = true, value_name = "DIR", env = "SCOPE_HTTP_STATISTICS_PLUGIN_DIR")]
        #[serde(deserialize_with = "parsed")]
        plugin_dir: Option<PluginDir> => PluginDir = Option::unwrap_or_default;

        /// A socket of this agent's own. With it, an agent that finds another one serving the plugin's socket does not refuse to
        /// start: it stands by and takes over when the other one leaves. Commands with the same option ask this agent
        #[arg(long, global = true, value_name = "PATH", env = "SCOPE_HTTP_STATISTICS_STANDBY_SOCKET")]
        #[serde(deserialize_with = "parsed")]
        standby_socket: Option<StandbySocket> => Option<StandbySocket> = identity;

        /// How to attach to the kernel: auto, fentry, kprobe or tracepoint [default: auto]
        #[arg(long, global = true, value_name = "HOOK", env = "SCOPE_HTTP_STATISTICS_HOOK")]
        #[serde(deserialize_with = "parsed")]
        hook: Option<HookChoice> => HookChoice = Option::unwrap_or_default;

        /// Host id in Scope [default: what Scope's probe calls it; before it polls `NODE_NAME`, else the host's name]
        #[arg(long, global = true, value_name = "ID", env = "SCOPE_HTTP_STATISTICS_HOST_ID")]
        #[serde(deserialize_with = "parsed")]
        host_id: Option<HostId> => Option<HostId> = identity;

        /// Connections whose state is kept; beyond, the least recently used are forgotten [default: 65536]
        #[arg(long, global = true, value_name = "COUNT", env = "SCOPE_HTTP_STATISTICS_MAX_CONNECTIONS")]
        #[serde(deserialize_with = "map_entries")]
        max_connections: Option<MapEntries> => MapEntries = |given| given.unwrap_or(MapEntries::CONNECTIONS);

        /// Counters: one for requests and one for each status code, of each process [default: 16384]
        #[arg(long, global = true, value_name = "COUNT", env = "SCOPE_HTTP_STATISTICS_MAX_COUNTERS")]
        #[serde(deserialize_with = "map_entries")]
        max_counters: Option<MapEntries> => MapEntries = |given| given.unwrap_or(MapEntries::COUNTERS);

        /// Name of this node in its cluster, by which the API server is asked for its pods [default: `NODE_NAME`]
        #[arg(long, global = true, value_name = "NAME", env = "SCOPE_HTTP_STATISTICS_NODE_NAME")]
        #[serde(deserialize_with = "parsed")]
        node_name: Option<NodeName> => Option<NodeName> = |given| given.or_else(|| std::env::var("NODE_NAME").ok()?.parse().ok());

        /// How to reach the API server from outside of a cluster [default: the pod's service account]
        #[arg(long, global = true, value_name = "FILE", env = "SCOPE_HTTP_STATISTICS_KUBECONFIG")]
        kubeconfig: Option<PathBuf> => Option<PathBuf> = identity;

        /// text or json [default: text]
        #[arg(long, global = true, value_name = "FORMAT", env = "SCOPE_HTTP_STATISTICS_LOG_FORMAT")]
        #[serde(deserialize_with = "parsed")]
        log_format: Option<LogFormat> => LogFormat = Option::unwrap_or_default;
    }
    live {
        /// Time between two samples [default: 1s]
        #[arg(long, global = true, value_name = "DURATION", env = "SCOPE_HTTP_STATISTICS_INTERVAL")]
        #[serde(deserialize_with = "parsed")]
        interval: Option<Interval> => Interval = Option::unwrap_or_default;

        /// Time that each report covers [default: 60s]
        #[arg(long, global = true, value_name = "DURATION", env = "SCOPE_HTTP_STATISTICS_HISTORY")]
        #[serde(deserialize_with = "parsed")]
        history: Option<History> => History = Option::unwrap_or_default;

        /// Status codes with a graph of their own [default: the 16 most common]
        #[arg(long, global = true, value_name = "CODES", env = "SCOPE_HTTP_STATISTICS_STATUS_CODES")]
        #[serde(deserialize_with = "code_list")]
        status_codes: Option<StatusCodes> => StatusCodes = Option::unwrap_or_default;

        /// Whose processes are shown: all or pods [default: all]
        #[arg(long, global = true, value_name = "WHOSE", env = "SCOPE_HTTP_STATISTICS_PROCESSES")]
        #[serde(deserialize_with = "parsed")]
        processes: Option<Processes> => Processes = Option::unwrap_or_default;

        /// Pods of which namespaces are shown.
        #[command(flatten)]
        namespaces: NamespaceOverrides => NamespaceLists = NamespaceOverrides::settle;

        /// Where to serve OpenMetrics: a port of 127.0.0.1, or an address and a port [default: nowhere]
        #[arg(long, global = true, value_name = "ADDRESS", env = "SCOPE_HTTP_STATISTICS_METRICS_ADDRESS")]
        #[serde(deserialize_with = "metrics_address")]
        metrics_address: Option<MetricsAddress> => Option<MetricsAddress> = identity;

        /// error, warn, info, debug or trace [default: info]
        #[arg(long, global = true, value_name = "LEVEL", env = "SCOPE_HTTP_STATISTICS_LOG_LEVEL")]
        #[serde(deserialize_with = "parsed")]
        log_level: Option<LogLevel> => LogLevel = Option::unwrap_or_default;
    }
}

/// Pods of which namespaces are shown, from one source.
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

impl NamespaceOverrides {
    fn or(self, other: Self) -> Self {
        Self {
            include: self.include.or(other.include),
            exclude: self.exclude.or(other.exclude),
        }
    }

    fn settle(self) -> NamespaceLists {
        NamespaceLists {
            include: self.include.unwrap_or_default(),
            exclude: self.exclude.unwrap_or_default(),
        }
    }
}

/// An option's name as a key in the file.
fn key(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| key + &word[..1].to_uppercase() + &word[1..])
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

    /// The page is written by hand, and says of each option what the definitions here say.
    #[test]
    fn each_option_is_documented_as_it_is_defined() {
        let command = <Overrides as clap::Args>::augment_args(clap::Command::new("agent"));
        let (live, fixed) = Overrides::default().settle();
        let values: BTreeMap<String, String> = describe(&live, &fixed)
            .into_iter()
            .map(|described| (described.key, described.value))
            .collect();
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
                id => key(id),
            };
            assert_eq!(cells[1].trim_matches('`'), key, "{flag}");
            // What stands in place of a value is in words on both sides.
            let help = argument.get_help().unwrap().to_string();
            let default = help
                .rsplit_once("[default: ")
                .map(|(_, rest)| rest.trim_end_matches(']'));
            if let Some(value) = cells[2].strip_prefix('`').and_then(|it| it.strip_suffix('`')) {
                assert_eq!(values[&key].trim_matches(['[', ']']), value, "{flag}");
                assert!(
                    default == Some(value) || default == Some("the 16 most common"),
                    "{flag}"
                );
            }
        }
        assert_eq!(rows.keys().collect::<Vec<_>>(), [&"--config"]);
    }

    #[test]
    fn what_applies_at_once_is_documented() {
        let page = include_str!("../../../docs/reference/options.md");
        let row = page
            .lines()
            .find(|line| line.contains("| Applies at once"))
            .unwrap();
        let list = row.split(" | ").next().unwrap().trim_start_matches("| ");
        let mut documented: Vec<&str> = list.split(", ").map(|key| key.trim_matches('`')).collect();
        let (live, fixed) = Overrides::default().settle();
        let mut live: Vec<String> = describe(&live, &fixed)
            .into_iter()
            .filter(|described| described.effect == Effect::Live)
            .map(|described| described.key)
            .collect();
        live.sort_unstable();
        documented.sort_unstable();
        assert_eq!(live, documented);
    }
}
