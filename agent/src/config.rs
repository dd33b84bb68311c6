//! What can be configured: flags over environment over file over defaults.
//!
//! Raw values are parsed once, into types that cannot hold a bad one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer};

use crate::bpf::{CODE_MAX, CODE_MIN, HookChoice, MapSizes};
use crate::filter::{Filter, Namespaces, Processes};
use crate::report::PLUGIN_ID;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {}: {cause}: give --config the path of a readable YAML file", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not a configuration.
    #[error(
        "failed to parse the configuration file {}: {message}: write options as in --help, in camelCase, \
         as in `statusCodes: [200, 404]`",
        place(.path, *.line)
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if known.
        line: Option<u64>,
        /// What is wrong with it.
        message: String,
    },
    /// Nothing says which host this is.
    #[error("failed to find out the host id from {}: {cause}: set it with --host-id", .path.display())]
    HostName {
        /// The file that holds the host name.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Values that are good alone do not fit together.
    #[error(transparent)]
    Value(#[from] ValueError),
}

fn place(path: &Path, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{}, line {line}", path.display()),
        None => path.display().to_string(),
    }
}

/// Why a value is refused, and what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// Not a duration.
    #[error("`{0}` is not a duration: write a number and a unit, as in 1s or 500ms")]
    Duration(String),
    /// Outside the range of intervals.
    #[error("an interval of {0:?} is not usable: take 100ms to 60s")]
    Interval(Duration),
    /// Outside the range of histories.
    #[error("a history of {0:?} is not usable: take 1s to 10m")]
    History(Duration),
    /// Too many samples.
    #[error("a history of {history:?} has {samples} intervals of {interval:?}: take at most {MAX_SAMPLES}")]
    Samples {
        /// The window.
        history: Duration,
        /// Time between samples.
        interval: Duration,
        /// How many of it the window has.
        samples: u128,
    },
    /// Not a status code.
    #[error("`{0}` is not an HTTP status code: list codes from 100 to 599, as in 200,404,500")]
    StatusCode(String),
    /// Outside the range of map sizes.
    #[error("a map of `{0}` entries is not usable: take {MIN_MAP_ENTRIES} to {MAX_MAP_ENTRIES}")]
    MapEntries(String),
    /// Cannot be part of a node's id.
    #[error(
        "`{0}` is not usable as host id: it must not be empty and have no `;`, spaces or control characters"
    )]
    HostId(String),
    /// Relative path.
    #[error("the plugin directory `{}` is relative: give its absolute path", .0.display())]
    RelativePluginDir(PathBuf),
    /// Too long for a socket.
    #[error("the plugin directory `{}` is too long: a socket's path has at most {MAX_SOCKET_PATH} bytes: choose a shorter one", .0.display())]
    LongPluginDir(PathBuf),
    /// No place for a socket.
    #[error(
        "`{}` is not usable as standby socket: give an absolute path of at most {MAX_SOCKET_PATH} bytes, as in /run/agent.sock",
        .0.display()
    )]
    StandbySocket(PathBuf),
    /// Scope would take it for another plugin.
    #[error(
        "the standby socket `{}` is in the plugin directory `{}`, where Scope takes every socket for a plugin: choose \
         another place",
        .socket.display(), .plugin_dir.display()
    )]
    StandbySocketInPluginDir {
        /// The socket.
        socket: PathBuf,
        /// The directory.
        plugin_dir: PathBuf,
    },
    /// Not a namespace.
    #[error("`{0}` is not a namespace: list names as in `kubectl get namespaces`, as in default,shop")]
    Namespace(String),
    /// In both lists.
    #[error("the namespace `{0}` is both included and excluded: take it out of one list")]
    NamespaceTwice(String),
    /// Cannot be a node's name.
    #[error("`{0}` is not a node's name: give one as in `kubectl get nodes`")]
    NodeName(String),
    /// Not where one can listen.
    #[error(
        "`{0}` is not an address to serve metrics on: give a port, which is then open to this host only, or an IP address \
         and a port, as in 9464 or 0.0.0.0:9464"
    )]
    MetricsAddress(String),
    /// Not one of the words.
    #[error("`{word}` is not a {what}: use {choices}")]
    Word {
        /// What was given.
        word: String,
        /// What it should be.
        what: &'static str,
        /// All there are.
        choices: &'static str,
    },
}

/// Longest path of a Unix socket: `sizeof(sockaddr_un.sun_path)` without the final 0.
const MAX_SOCKET_PATH: usize = 107;
/// Most samples in a window: bounds memory and the size of reports.
const MAX_SAMPLES: u128 = 600;

/// Fewest entries of a kernel map: less, and the kernel's own spares for each CPU take them all.
const MIN_MAP_ENTRIES: u32 = 1024;
/// Most: two gigabytes.
const MAX_MAP_ENTRIES: u32 = 16 * 1024 * 1024;

fn duration(text: &str) -> Result<Duration, ValueError> {
    let parsed = SignedDuration::from_str(text)
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| ValueError::Duration(text.to_owned()))
}

/// Time between two readings of the counters: 100 ms to 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// As a duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for Interval {
    /// 1 s: how often Scope polls.
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

impl FromStr for Interval {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let interval = duration(text)?;
        if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&interval) {
            Ok(Self(interval))
        } else {
            Err(ValueError::Interval(interval))
        }
    }
}

/// How much of the past each report shows: 1 s to 10 min.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History(Duration);

impl History {
    /// As a duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for History {
    /// 60 s: the width of Scope's graphs.
    fn default() -> Self {
        Self(Duration::from_mins(1))
    }
}

impl FromStr for History {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let history = duration(text)?;
        if (Duration::from_secs(1)..=Duration::from_mins(10)).contains(&history) {
            Ok(Self(history))
        } else {
            Err(ValueError::History(history))
        }
    }
}

/// Entries of a kernel map: 1,024 to 16,777,216.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntries(u32);

impl MapEntries {
    /// As a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for MapEntries {
    type Error = ValueError;

    fn try_from(entries: u32) -> Result<Self, ValueError> {
        if (MIN_MAP_ENTRIES..=MAX_MAP_ENTRIES).contains(&entries) {
            Ok(Self(entries))
        } else {
            Err(ValueError::MapEntries(entries.to_string()))
        }
    }
}

impl FromStr for MapEntries {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let entries: u32 = text
            .parse()
            .ok()
            .ok_or_else(|| ValueError::MapEntries(text.to_owned()))?;
        entries.try_into()
    }
}

/// Status codes with a metric of their own; all others share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCodes(BTreeSet<u16>);

impl StatusCodes {
    /// The codes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().copied()
    }

    /// Whether a code has a metric of its own.
    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        self.0.contains(&code)
    }
}

impl Default for StatusCodes {
    /// The codes of the original plugin.
    fn default() -> Self {
        Self(
            [
                100, 200, 201, 202, 204, 308, 400, 401, 403, 404, 408, 451, 500, 501, 502, 503,
            ]
            .into(),
        )
    }
}

impl TryFrom<Vec<u16>> for StatusCodes {
    type Error = ValueError;

    fn try_from(codes: Vec<u16>) -> Result<Self, ValueError> {
        match codes.iter().find(|code| !(CODE_MIN..=CODE_MAX).contains(*code)) {
            Some(code) => Err(ValueError::StatusCode(code.to_string())),
            None => Ok(Self(codes.into_iter().collect())),
        }
    }
}

/// With commas.
impl fmt::Display for StatusCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codes: Vec<String> = self.iter().map(|code| code.to_string()).collect();
        f.write_str(&codes.join(","))
    }
}

impl FromStr for StatusCodes {
    type Err = ValueError;

    fn from_str(list: &str) -> Result<Self, ValueError> {
        let parse = |word: &str| {
            let word = word.trim();
            word.parse::<u16>()
                .ok()
                .ok_or_else(|| ValueError::StatusCode(word.to_owned()))
        };
        list.split(',')
            .map(parse)
            .collect::<Result<Vec<u16>, _>>()?
            .try_into()
    }
}

/// How Scope names this host in the ids of its nodes, `<host id>;<pid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostId(String);

impl FromStr for HostId {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = |letter: char| letter == ';' || letter.is_whitespace() || letter.is_control();
        if text.is_empty() || text.contains(bad) {
            return Err(ValueError::HostId(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's name in its cluster: a DNS subdomain (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // It becomes part of a field selector, where `,` and `=` mean something.
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        if (1..=253).contains(&text.len()) && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::NodeName(text.to_owned()))
        }
    }
}

/// Where a host id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostIdSource {
    /// Flag, environment or file.
    Configured,
    /// `SCOPE_HOSTNAME` of the probe that polls us.
    ProbeVariable,
    /// The host name of the probe that polls us.
    ProbeHostName,
    /// The environment variable `NODE_NAME`, as set by a DaemonSet.
    NodeName,
    /// The kernel's host name (UTS).
    HostName,
}

impl HostIdSource {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Configured => "as configured",
            Self::ProbeVariable => "SCOPE_HOSTNAME of Scope's probe",
            Self::ProbeHostName => "the host name of Scope's probe",
            Self::NodeName => "from NODE_NAME",
            Self::HostName => "the host's name",
        }
    }
}

/// Where Scope's probe looks for plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginDir(PathBuf);

impl PluginDir {
    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of our socket in it.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.0.join(PLUGIN_ID)
    }

    /// Our socket. Its name without extension is the plugin's id.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join(format!("{PLUGIN_ID}.sock"))
    }
}

impl Default for PluginDir {
    /// The default of Scope's `--probe.plugins.root`.
    fn default() -> Self {
        Self(PathBuf::from("/var/run/scope/plugins"))
    }
}

impl FromStr for PluginDir {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let dir = Self(PathBuf::from(text));
        if dir.0.is_relative() {
            return Err(ValueError::RelativePluginDir(dir.0));
        }
        if dir.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(ValueError::LongPluginDir(dir.0));
        }
        Ok(dir)
    }
}

/// A socket of the agent's own. Who has one stands by while another agent has the plugin's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbySocket(PathBuf);

impl StandbySocket {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for StandbySocket {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let path = PathBuf::from(text);
        if path.is_relative()
            || path.file_name().is_none()
            || text.ends_with('/')
            || path.as_os_str().len() > MAX_SOCKET_PATH
        {
            return Err(ValueError::StandbySocket(path));
        }
        Ok(Self(path))
    }
}

/// Where OpenMetrics are served: a port of the loopback interface, or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(SocketAddr);

impl MetricsAddress {
    /// As an address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for MetricsAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let port = text.parse().map(|port: u16| (Ipv4Addr::LOCALHOST, port).into());
        let address: Option<SocketAddr> = port.ok().or_else(|| text.parse().ok());
        // Whoever is to read them must know the port.
        address
            .filter(|address| address.port() != 0)
            .map(Self)
            .ok_or_else(|| ValueError::MetricsAddress(text.to_owned()))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What stops the agent from doing its work.
    Error,
    /// And what limits it.
    Warn,
    /// And start, stop and changes.
    #[default]
    Info,
    /// And each step.
    Debug,
    /// And everything.
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for LogLevel {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        match word {
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(ValueError::Word {
                word: word.to_owned(),
                what: "log level",
                choices: "error, warn, info, debug or trace",
            }),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ValueError::Word {
                word: word.to_owned(),
                what: "log format",
                choices: "text or json",
            }),
        }
    }
}

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

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read or is no text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })
}

impl Overrides {
    /// Reads a YAML file: the flags' names in camelCase, as in `pluginDir: /run/scope/plugins`.
    ///
    /// # Errors
    /// When the file cannot be read, is no YAML, or has unknown names or bad values.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::from_text(&read(path)?, path)
    }

    /// The same, of the text that was read from there.
    ///
    /// # Errors
    /// When it is no YAML, or has unknown names or bad values.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::from_yaml(text).map_err(|(line, message)| ConfigError::Parse {
            path: path.to_owned(),
            line,
            message,
        })
    }

    fn from_yaml(text: &str) -> Result<Self, (Option<u64>, String)> {
        // An empty document is null, which is no struct.
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let line = error
                .location()
                .map(|place| place.line())
                .filter(|line| *line > 0);
            let text = error.without_snippet().to_string();
            // The place is told apart, and the parser's own advice is for programmers.
            let text = text.split(" at line ").next().unwrap_or(&text);
            let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or(text);
            (line, text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
        })
    }

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

/// What can change while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Time between samples.
    pub interval: Interval,
    /// Time that a report covers.
    pub history: History,
    /// Codes with a metric of their own.
    pub status_codes: StatusCodes,
    /// What is shown.
    pub filter: Filter,
    /// Where metrics are served, if anywhere but on the plugin's socket.
    pub metrics_address: Option<MetricsAddress>,
    /// How much is logged.
    pub log_level: LogLevel,
}

impl Live {
    /// How many samples a window has at most.
    #[must_use]
    pub fn max_samples(&self) -> usize {
        usize::try_from(samples(self.history, self.interval)).unwrap_or(usize::MAX)
    }
}

/// A complete configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What can change while the agent runs; nothing else can.
    pub live: Live,
    /// Where Scope's probe looks for plugins.
    pub plugin_dir: PluginDir,
    /// Our own socket, if we are to stand by while another agent serves there.
    pub standby_socket: Option<StandbySocket>,
    /// How to attach.
    pub hook: HookChoice,
    /// This host, in Scope; until a probe polls, if it is not configured.
    pub host_id: HostId,
    /// Where that comes from.
    pub host_id_source: HostIdSource,
    /// Entries of the kernel's maps.
    pub map_sizes: MapSizes,
    /// This node, in its cluster.
    pub node_name: Option<NodeName>,
    /// How to reach the API server, if not as a pod.
    pub kubeconfig: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// When the agent starts the next time.
    Restart,
}

/// One option's value in words, as [`Settings::describe`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The option as in a file.
    pub key: &'static str,
    /// When a change of it takes effect.
    pub effect: Effect,
    /// Its value. Equal texts are equal values.
    pub value: String,
}

/// The kernel's host name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

impl Settings {
    /// Fills what is absent with defaults.
    ///
    /// # Errors
    /// When values do not fit together, or the host id is neither given nor can be found out.
    pub fn new(overrides: Overrides) -> Result<Self, ConfigError> {
        let Overrides {
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
        } = overrides;
        let interval = interval.unwrap_or_default();
        let history = history.unwrap_or_default();
        let samples = samples(history, interval);
        if samples > MAX_SAMPLES {
            let (history, interval) = (history.0, interval.0);
            return Err(ValueError::Samples {
                history,
                interval,
                samples,
            }
            .into());
        }
        let filter = Filter {
            include: include.unwrap_or_default(),
            exclude: exclude.unwrap_or_default(),
            processes: processes.unwrap_or_default(),
        };
        if let Some(both) = filter.include.common(&filter.exclude) {
            return Err(ValueError::NamespaceTwice(both.as_str().to_owned()).into());
        }
        let plugin_dir = plugin_dir.unwrap_or_default();
        if let Some(StandbySocket(socket)) = &standby_socket
            && socket.starts_with(plugin_dir.path())
        {
            return Err(ValueError::StandbySocketInPluginDir {
                socket: socket.clone(),
                plugin_dir: plugin_dir.0,
            }
            .into());
        }
        let (host_id, host_id_source) = match host_id {
            Some(host_id) => (host_id, HostIdSource::Configured),
            None => detect_host_id()?,
        };
        let map_sizes = MapSizes::default();
        Ok(Self {
            live: Live {
                interval,
                history,
                status_codes: status_codes.unwrap_or_default(),
                filter,
                metrics_address,
                log_level: log_level.unwrap_or_default(),
            },
            plugin_dir,
            standby_socket,
            hook: hook.unwrap_or(HookChoice::Auto),
            host_id,
            host_id_source,
            map_sizes: MapSizes {
                connections: max_connections.map_or(map_sizes.connections, MapEntries::get),
                counters: max_counters.map_or(map_sizes.counters, MapEntries::get),
            },
            node_name: node_name.or_else(|| std::env::var("NODE_NAME").ok()?.parse().ok()),
            kubeconfig,
            log_format: log_format.unwrap_or_default(),
        })
    }

    /// Every option in words, always in the same order.
    #[must_use]
    pub fn describe(&self) -> Vec<Described> {
        let Self {
            live:
                Live {
                    interval,
                    history,
                    status_codes,
                    filter:
                        Filter {
                            include,
                            exclude,
                            processes,
                        },
                    metrics_address,
                    log_level,
                },
            plugin_dir,
            standby_socket,
            hook,
            host_id,
            host_id_source,
            map_sizes: MapSizes {
                connections,
                counters,
            },
            node_name,
            kubeconfig,
            log_format,
        } = self;
        let none = || "(none)".to_owned();
        // One that was found out is not in the configuration, and the host may be renamed.
        let host_id = match host_id_source {
            HostIdSource::Configured => host_id.to_string(),
            _ => "as Scope's probe".to_owned(),
        };
        let described = |effect| move |(key, value)| Described { key, effect, value };
        let live = [
            ("interval", format!("{:?}", interval.get())),
            ("history", format!("{:?}", history.get())),
            ("statusCodes", format!("[{status_codes}]")),
            ("namespaces.include", format!("[{include}]")),
            ("namespaces.exclude", format!("[{exclude}]")),
            ("processes", processes.to_string()),
            (
                "metricsAddress",
                metrics_address.map_or_else(none, |address| address.to_string()),
            ),
            ("logLevel", log_level.to_string()),
        ];
        let restart = [
            ("pluginDir", plugin_dir.path().display().to_string()),
            (
                "standbySocket",
                standby_socket
                    .as_ref()
                    .map_or_else(none, |socket| socket.path().display().to_string()),
            ),
            ("hook", hook.to_string()),
            ("hostId", host_id),
            (
                "nodeName",
                node_name
                    .as_ref()
                    .map_or_else(none, |name| name.as_str().to_owned()),
            ),
            (
                "kubeconfig",
                kubeconfig
                    .as_ref()
                    .map_or_else(none, |path| path.display().to_string()),
            ),
            ("maxConnections", connections.to_string()),
            ("maxCounters", counters.to_string()),
            ("logFormat", log_format.to_string()),
        ];
        live.map(described(Effect::Live))
            .into_iter()
            .chain(restart.map(described(Effect::Restart)))
            .collect()
    }
}

fn samples(history: History, interval: Interval) -> u128 {
    history.0.as_nanos().div_ceil(interval.0.as_nanos())
}

fn detect_host_id() -> Result<(HostId, HostIdSource), ConfigError> {
    if let Some(host_id) = std::env::var("NODE_NAME").ok().and_then(|name| name.parse().ok()) {
        return Ok((host_id, HostIdSource::NodeName));
    }
    let path = PathBuf::from(HOST_NAME);
    let name = std::fs::read_to_string(&path).map_err(|cause| ConfigError::HostName { path, cause })?;
    Ok((name.trim().parse()?, HostIdSource::HostName))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::Hook;

    #[test]
    fn maps_have_a_thousand_to_sixteen_million_entries() {
        for (text, entries) in [("1024", Some(1024)), ("16777216", Some(16_777_216))] {
            assert_eq!(
                MapEntries::from_str(text).ok().map(MapEntries::get),
                entries,
                "{text}"
            );
        }
        for text in ["0", "1023", "16777217", "-1", "many", ""] {
            let error = MapEntries::from_str(text).expect_err(text).to_string();
            assert!(error.contains("take 1024 to 16777216"), "{error}");
        }
        let file = "maxConnections: 2048\nmaxCounters: 4096";
        let settings = Settings::new(Overrides::from_yaml(file).expect("a configuration")).expect("settings");
        let sizes = MapSizes {
            connections: 2048,
            counters: 4096,
        };
        assert_eq!(settings.map_sizes, sizes);
    }

    #[test]
    fn a_file_sets_everything() {
        let file = "# all of it\npluginDir: /run/x\nstandbySocket: /run/y.sock\nhook: kprobe\ninterval: 2s\nhistory: 30s\n\
                    statusCodes: [418, 200]\nhostId: node-1\nmaxConnections: 2048\nmaxCounters: 4096\n\
                    nodeName: n1.example\nkubeconfig: /k\n\
                    processes: pods\nnamespaces:\n  include: [shop, web]\n  exclude: []\n\
                    metricsAddress: 0.0.0.0:9464\nlogLevel: debug\nlogFormat: json\n";
        let expected = Overrides {
            plugin_dir: Some("/run/x".parse().unwrap()),
            standby_socket: Some("/run/y.sock".parse().unwrap()),
            hook: Some(HookChoice::Only(Hook::Kprobe)),
            interval: Some("2s".parse().unwrap()),
            history: Some("30s".parse().unwrap()),
            status_codes: Some("200,418".parse().unwrap()),
            host_id: Some("node-1".parse().unwrap()),
            max_connections: Some("2048".parse().unwrap()),
            max_counters: Some("4096".parse().unwrap()),
            node_name: Some("n1.example".parse().unwrap()),
            kubeconfig: Some(PathBuf::from("/k")),
            processes: Some(Processes::Pods),
            namespaces: NamespaceOverrides {
                include: Some("web,shop".parse().unwrap()),
                exclude: Some(Namespaces::default()),
            },
            metrics_address: Some("0.0.0.0:9464".parse().unwrap()),
            log_level: Some(LogLevel::Debug),
            log_format: Some(LogFormat::Json),
        };
        assert_eq!(Overrides::from_yaml(file).unwrap(), expected);
    }

    #[test]
    fn a_standby_socket_is_a_file_outside_of_scopes_directory() {
        let long = format!("/{}", "x".repeat(107));
        for (text, usable) in [
            ("/run/y.sock", true),
            (&long[..107], true),
            (&long, false),
            ("y.sock", false),
            ("/run/", false),
            ("/", false),
            ("/run/..", false),
            ("", false),
        ] {
            assert_eq!(StandbySocket::from_str(text).is_ok(), usable, "{text}");
        }
        for (socket, usable) in [("/p/y.sock", false), ("/p/a/y.sock", false), ("/py/y.sock", true)] {
            let overrides = Overrides {
                plugin_dir: Some("/p".parse().unwrap()),
                standby_socket: Some(socket.parse().unwrap()),
                host_id: Some("h".parse().unwrap()),
                ..Overrides::default()
            };
            assert_eq!(Settings::new(overrides).is_ok(), usable, "{socket}");
        }
    }

    #[test]
    fn metrics_are_for_this_host_unless_an_address_is_given() {
        for (text, address) in [
            ("9464", Some("127.0.0.1:9464")),
            ("0.0.0.0:9464", Some("0.0.0.0:9464")),
            ("[::]:9464", Some("[::]:9464")),
            ("0", None),
            ("127.0.0.1:0", None),
            ("127.0.0.1", None),
            ("localhost:9464", None),
            ("65536", None),
            ("", None),
        ] {
            let parsed = MetricsAddress::from_str(text);
            assert_eq!(
                parsed.map(|address| address.to_string()).ok().as_deref(),
                address,
                "{text}"
            );
        }
        let file = |text: &str| Overrides::from_yaml(text).unwrap().metrics_address;
        assert_eq!(
            file("metricsAddress: 9464"),
            Some("127.0.0.1:9464".parse().unwrap())
        );
        let (line, message) = Overrides::from_yaml("interval: 1s\nmetricsAddress: 70000\n").unwrap_err();
        assert!(line == Some(2) && message.contains("70000"), "{line:?} {message}");
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        for file in ["", "\n", "# nothing\n\n"] {
            assert_eq!(
                Overrides::from_yaml(file).unwrap(),
                Overrides::default(),
                "{file:?}"
            );
        }
    }

    #[test]
    fn a_bad_file_is_refused_with_line_and_reason() {
        let cases = [
            ("interval: 1s\nintervall: 2s\n", 2, "intervall"),
            ("interval: 1s\nhook: uprobe\n", 2, "fentry"),
            ("\n\ninterval: soon\n", 3, "500ms"),
            ("interval: 1h\n", 1, "100ms to 60s"),
            ("statusCodes: [200, 700]\n", 1, "700"),
            ("statusCodes: yes\n", 1, ""),
            ("hostId: \"a;b\"\n", 1, "host id"),
            ("pluginDir: run\n", 1, "absolute"),
            ("nodeName: a,b\n", 1, "kubectl get nodes"),
            ("processes: some\n", 1, "all or pods"),
            ("namespaces:\n  include: [Shop]\n", 2, "Shop"),
            ("namespaces:\n  includes: [shop]\n", 2, "includes"),
            ("namespaces: [shop]\n", 1, ""),
            ("interval: [1s\n", 0, ""),
            ("interval: 1s\ninterval: 2s\n", 2, "interval"),
            ("- a\n", 1, ""),
        ];
        for (file, line, reason) in cases {
            let (at, message) = Overrides::from_yaml(file).unwrap_err();
            assert!(message.contains(reason), "{file:?}: {message}");
            assert!(!message.contains('\n'), "{file:?}: {message}");
            if line > 0 {
                assert_eq!(at, Some(line), "{file:?}: {message}");
            }
        }
    }

    #[test]
    fn the_first_source_wins() {
        let flags = Overrides {
            interval: Some("2s".parse().unwrap()),
            ..Overrides::default()
        };
        let file = "interval: 3s\nhistory: 10s\nnamespaces: {exclude: [a]}\n";
        let file = Overrides::from_yaml(file).unwrap();
        let merged = flags.or(file);
        assert_eq!(merged.interval, Some("2s".parse().unwrap()));
        assert_eq!(merged.namespaces.exclude, Some("a".parse().unwrap()));
        assert_eq!(merged.history, Some("10s".parse().unwrap()));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in ["0s", "99ms", "61s", "-1s", "1", "", "1 parsec"] {
            assert!(text.parse::<Interval>().is_err(), "{text:?}");
        }
        for text in ["99", "600", "abc", "200,,404", ""] {
            assert!(text.parse::<StatusCodes>().is_err(), "{text:?}");
        }
        for text in ["", "a;b", "a b", "a\nb"] {
            assert!(text.parse::<HostId>().is_err(), "{text:?}");
        }
        let long = format!("/{}", "x".repeat(100));
        for text in ["", "relative", long.as_str()] {
            assert!(text.parse::<PluginDir>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_window_has_a_bounded_number_of_samples() {
        let overrides = |interval: &str, history: &str| Overrides {
            interval: Some(interval.parse().unwrap()),
            history: Some(history.parse().unwrap()),
            host_id: Some("h".parse().unwrap()),
            ..Overrides::default()
        };
        assert_eq!(
            Settings::new(overrides("1s", "60s")).unwrap().live.max_samples(),
            60
        );
        assert_eq!(
            Settings::new(overrides("60s", "1s")).unwrap().live.max_samples(),
            1
        );
        assert!(Settings::new(overrides("100ms", "2m")).is_err());
    }

    #[test]
    fn a_namespace_is_included_or_excluded() {
        let file = "hostId: h\nnamespaces: {include: [a, b], exclude: [b]}\n";
        let error = Settings::new(Overrides::from_yaml(file).unwrap()).unwrap_err();
        assert!(error.to_string().contains("`b`"), "{error}");
        let file = "hostId: h\nnamespaces: {include: [a], exclude: [b]}\nprocesses: pods\n";
        let filter = Settings::new(Overrides::from_yaml(file).unwrap())
            .unwrap()
            .live
            .filter;
        assert!(filter.include.contains("a") && filter.exclude.contains("b"));
        assert_eq!(filter.processes, Processes::Pods);
    }
}
