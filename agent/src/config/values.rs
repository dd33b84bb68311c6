//! The values that options take: types that cannot hold a bad one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

use crate::bpf::{CODE_MAX, CODE_MIN, MapSizes};

/// Scope's id of this plugin, and the file name of its socket without extension.
pub const PLUGIN_ID: &str = "http-statistics";

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
pub(super) const MAX_SAMPLES: u128 = 600;

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
    /// Connections, unless configured.
    pub(super) const CONNECTIONS: Self = Self(MapSizes::DEFAULT.connections);
    /// Counters, unless configured.
    pub(super) const COUNTERS: Self = Self(MapSizes::DEFAULT.counters);

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
