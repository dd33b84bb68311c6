//! A complete configuration, and what of it may change while the agent runs.

use std::path::PathBuf;

use super::ConfigError;
use super::filter::Filter;
use super::options::{NamespaceOverrides, Overrides};
use super::values::{
    History, HostId, HostIdSource, Interval, LogFormat, LogLevel, MAX_SAMPLES, MapEntries, MetricsAddress,
    NodeName, PluginDir, StandbySocket, StatusCodes, ValueError,
};
use crate::bpf::{HookChoice, MapSizes};

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
            let (history, interval) = (history.get(), interval.get());
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
        if let Some(socket) = standby_socket.as_ref().map(StandbySocket::path)
            && socket.starts_with(plugin_dir.path())
        {
            return Err(ValueError::StandbySocketInPluginDir {
                socket: socket.to_owned(),
                plugin_dir: plugin_dir.path().to_owned(),
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
    history.get().as_nanos().div_ceil(interval.get().as_nanos())
}

fn detect_host_id() -> Result<(HostId, HostIdSource), ConfigError> {
    if let Some(host_id) = std::env::var("NODE_NAME").ok().and_then(|name| name.parse().ok()) {
        return Ok((host_id, HostIdSource::NodeName));
    }
    let path = PathBuf::from(HOST_NAME);
    let name = std::fs::read_to_string(&path).map_err(|cause| ConfigError::HostName { path, cause })?;
    Ok((name.trim().parse()?, HostIdSource::HostName))
}
