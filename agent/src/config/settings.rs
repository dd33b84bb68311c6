//! A complete configuration.

use std::path::PathBuf;

use super::ConfigError;
use super::filter::Filter;
use super::options::{Described, Fixed, Live, Overrides, describe};
use super::values::{
    History, HostId, HostIdSource, Interval, MAX_SAMPLES, MapEntries, StandbySocket, ValueError,
};
use crate::bpf::MapSizes;

/// The kernel's host name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

impl Live {
    /// How many samples a window has at most.
    #[must_use]
    pub fn max_samples(&self) -> usize {
        usize::try_from(samples(self.history, self.interval)).unwrap_or(usize::MAX)
    }

    /// What is shown.
    #[must_use]
    pub fn filter(&self) -> Filter {
        Filter {
            namespaces: self.namespaces.clone(),
            processes: self.processes,
        }
    }
}

impl Fixed {
    /// Entries of the kernel's maps.
    #[must_use]
    pub fn map_sizes(&self) -> MapSizes {
        MapSizes {
            connections: MapEntries::get(self.max_connections),
            counters: MapEntries::get(self.max_counters),
        }
    }
}

/// A complete configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What can change while the agent runs.
    pub live: Live,
    /// What cannot.
    pub fixed: Fixed,
    /// This host, in Scope; until a probe polls, if it is not configured.
    pub host_id: HostId,
    /// Where that comes from.
    pub host_id_source: HostIdSource,
}

impl Settings {
    /// Fills what is absent with defaults.
    ///
    /// # Errors
    /// When values do not fit together, or the host id is neither given nor can be found out.
    pub fn new(overrides: Overrides) -> Result<Self, ConfigError> {
        let (live, fixed) = overrides.settle();
        let samples = samples(live.history, live.interval);
        if samples > MAX_SAMPLES {
            let (history, interval) = (live.history.get(), live.interval.get());
            return Err(ValueError::Samples {
                history,
                interval,
                samples,
            }
            .into());
        }
        if let Some(both) = live.namespaces.include.common(&live.namespaces.exclude) {
            return Err(ValueError::NamespaceTwice(both.as_str().to_owned()).into());
        }
        let plugin_dir = fixed.plugin_dir.path();
        if let Some(socket) = fixed.standby_socket.as_ref().map(StandbySocket::path)
            && socket.starts_with(plugin_dir)
        {
            return Err(ValueError::StandbySocketInPluginDir {
                socket: socket.to_owned(),
                plugin_dir: plugin_dir.to_owned(),
            }
            .into());
        }
        let (host_id, host_id_source) = match &fixed.host_id {
            Some(host_id) => (host_id.clone(), HostIdSource::Configured),
            None => detect_host_id()?,
        };
        Ok(Self {
            live,
            fixed,
            host_id,
            host_id_source,
        })
    }

    /// Every option in words, always in the same order.
    #[must_use]
    pub fn describe(&self) -> Vec<Described> {
        describe(&self.live, &self.fixed)
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
    let name = std::fs::read_to_string(&path).map_err(|source| ConfigError::HostName { path, source })?;
    Ok((name.trim().parse()?, HostIdSource::HostName))
}
