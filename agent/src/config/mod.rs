//! What can be configured: flags over environment over file over defaults.
//!
//! Raw values are parsed once, into types that cannot hold a bad one.

mod file;
mod filter;
mod options;
mod settings;
mod values;
mod words;

use std::path::{Path, PathBuf};

pub use file::read;
pub use filter::{Filter, NamespaceLists, Namespaces, Processes};
pub use options::{Described, Effect, Fixed, Live, NamespaceOverrides, Overrides};
pub use settings::Settings;
pub use values::{
    History, HostId, HostIdSource, Interval, LogFormat, LogLevel, MapEntries, MetricsAddress, NodeName,
    PLUGIN_ID, PluginDir, StandbySocket, StatusCodes, ValueError,
};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration file {}: give --config the path of a readable YAML file", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
    #[error("failed to find out the host id from {}: set it with --host-id", .path.display())]
    HostName {
        /// The file that holds the host name.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;
    use crate::bpf::{Hook, HookChoice, MapSizes};
    use crate::config::{Namespaces, Processes};

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
        assert_eq!(settings.fixed.map_sizes(), sizes);
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
            .filter();
        let NamespaceLists { include, exclude } = filter.namespaces;
        assert!(include.contains("a") && exclude.contains("b"));
        assert_eq!(filter.processes, Processes::Pods);
    }
}
