//! The configuration file while the agent runs: it is read again and again, and what it says then is taken over, as far
//! as that is possible without a restart.
//!
//! Its content is compared, not its date: kubelet changes a mounted `ConfigMap` by putting another symlink in place of the
//! directory's, which changes neither the file nor its own directory. A change is taken once two readings in a row agree,
//! so a file that is just being written is not taken half-way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, ConfigError, Described, Effect, Live, LogLevel, Overrides, Settings};
use crate::error_chain::error_chain;

/// Time between two readings.
pub const PERIOD: Duration = Duration::from_secs(2);

/// The text of the file, or why there is none.
type Reading = Result<String, String>;

/// A configuration file that may change.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// Flags and environment, which come first.
    overrides: Overrides,
    /// What the agent was started with.
    started: Settings,
    /// What the file said when it was last good.
    current: Settings,
    /// The latest reading.
    seen: Reading,
    /// The latest that was looked into.
    taken: Reading,
    /// Why that one was refused.
    failure: Option<String>,
}

/// What came of a change of the file.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It can be used.
    Accepted {
        /// What takes effect at once, in words.
        live: Vec<String>,
        /// What does not.
        restart: Vec<String>,
    },
    /// It cannot be used; what was in force stays.
    Refused(String),
}

impl ConfigFile {
    /// Reads the file at the agent's start; `overrides` come before it. Returns the settings as well, and no file if it
    /// can be read only once, as a pipe.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(path: PathBuf, overrides: Overrides) -> Result<(Settings, Option<Self>), ConfigError> {
        let text = config::read(&path)?;
        let settings = Settings::new(overrides.clone().or(Overrides::from_text(&text, &path)?))?;
        let file = is_file(&path).then(|| Self {
            path,
            overrides,
            started: settings.clone(),
            current: settings.clone(),
            seen: Ok(text.clone()),
            taken: Ok(text),
            failure: None,
        });
        Ok((settings, file))
    }

    /// Reads it every `period` until `shutdown`, and tells `live` and `set_log_level` what is to be used from now on.
    pub async fn follow(
        mut self,
        period: Duration,
        live: watch::Sender<Live>,
        set_log_level: impl Fn(LogLevel) + Send,
        shutdown: CancellationToken,
    ) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let path = self.path.clone();
            // The file may be far away.
            let reading = async {
                ticks.tick().await;
                spawn_blocking(move || read(&path)).await
            };
            let reading = tokio::select! {
                () = shutdown.cancelled() => return,
                reading = reading => reading,
            };
            // Only a runtime that is shutting down does not run it.
            let Ok(reading) = reading else { continue };
            if let Some(outcome) = self.take(reading) {
                let (before, now) = (live.borrow().log_level, self.current.live.log_level);
                // Whichever tells more shows the change.
                set_log_level(before.max(now));
                announce(&outcome);
                set_log_level(now);
                live.send_if_modified(|live| {
                    let modified = *live != self.current.live;
                    live.clone_from(&self.current.live);
                    modified
                });
            }
        }
    }

    /// Takes a reading; `None` if there is nothing new in it, or it may be about to change again.
    fn take(&mut self, reading: Reading) -> Option<Outcome> {
        if reading != self.seen {
            self.seen = reading;
            return None;
        }
        if self.seen == self.taken {
            return None;
        }
        self.taken.clone_from(&self.seen);
        let settings = self.taken.clone().and_then(|text| self.parse(&text));
        match settings {
            Ok(settings) => {
                self.failure = None;
                let before = std::mem::replace(&mut self.current, settings);
                let (live, restart) = changes(&before, &self.current, &self.started);
                Some(Outcome::Accepted { live, restart })
            }
            Err(failure) if self.failure.as_ref() == Some(&failure) => None,
            Err(failure) => {
                self.failure = Some(failure.clone());
                Some(Outcome::Refused(failure))
            }
        }
    }

    fn parse(&self, text: &str) -> Result<Settings, String> {
        let file = Overrides::from_text(text, &self.path).map_err(|error| error_chain(&error))?;
        Settings::new(self.overrides.clone().or(file)).map_err(|error| error_chain(&error))
    }
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

fn read(path: &Path) -> Reading {
    // Waiting for somebody to write to a pipe could last for ever.
    let text = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(ConfigError::Read {
            path: path.to_owned(),
            source: io::Error::other("it is no regular file"),
        }),
        _ => config::read(path),
    };
    text.map_err(|error| error_chain(&error))
}

/// What takes effect at once and what does not of the changes from `before` to `after`, where `started` is in force.
fn changes(before: &Settings, after: &Settings, started: &Settings) -> (Vec<String>, Vec<String>) {
    let (mut live, mut restart) = (Vec::new(), Vec::new());
    for ((before, after), started) in before
        .describe()
        .into_iter()
        .zip(after.describe())
        .zip(started.describe())
    {
        if before == after {
            continue;
        }
        let Described { key, effect, value } = after;
        match effect {
            Effect::Live => live.push(format!("{key}={value} instead of {}", before.value)),
            // Taken back before it took effect.
            Effect::Restart if value == started.value => {}
            Effect::Restart => restart.push(format!("{key}={value} instead of {}", started.value)),
        }
    }
    (live, restart)
}

fn announce(outcome: &Outcome) {
    match outcome {
        Outcome::Refused(reason) => {
            error!(
                reason,
                "the changed configuration cannot be used; the running one stays"
            );
        }
        Outcome::Accepted { live, restart } => {
            if !live.is_empty() {
                info!(changes = live.join(", "), "the configuration has changed");
            }
            if !restart.is_empty() {
                warn!(
                    changes = restart.join(", "),
                    "these changes take effect after a restart"
                );
            }
            if live.is_empty() && restart.is_empty() {
                info!("the configuration file has changed, but nothing that is in force");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `hostId: h` and this, and a command line with `--history 30s`.
    fn file(text: &str) -> ConfigFile {
        let overrides = Overrides {
            history: Some("30s".parse().unwrap()),
            host_id: Some("h".parse().unwrap()),
            ..Overrides::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        fs::write(&path, text).unwrap();
        ConfigFile::open(path, overrides).unwrap().1.unwrap()
    }

    /// Two equal readings.
    fn settle(file: &mut ConfigFile, reading: Result<&str, &str>) -> Option<Outcome> {
        let reading: Reading = reading.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(file.take(reading.clone()), None, "{reading:?}");
        file.take(reading)
    }

    /// The text must be accepted with these changes, live ones and those that wait for a restart.
    #[track_caller]
    fn accepts(file: &mut ConfigFile, text: &str, live: &[&str], restart: &[&str]) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let expected = Outcome::Accepted {
            live: words(live),
            restart: words(restart),
        };
        assert_eq!(settle(file, Ok(text)), Some(expected));
    }

    #[track_caller]
    fn refuses(file: &mut ConfigFile, reading: Result<&str, &str>, word: &str) {
        let outcome = settle(file, reading);
        assert!(
            matches!(&outcome, Some(Outcome::Refused(reason)) if reason.contains(word)),
            "{outcome:?}"
        );
    }

    #[test]
    fn live_options_are_taken_over_and_others_wait_for_a_restart() {
        let mut file = file("interval: 1s\nhook: kprobe\nnodeName: n0\n");
        let text = "interval: 2s\nstatusCodes: [404, 200]\nlogLevel: debug\nhook: auto\npluginDir: /run/x\n\
                    maxConnections: 2048\nmaxCounters: 4096\nlogFormat: json\n\
                    processes: pods\nnamespaces: {include: [web, shop], exclude: [kube-system]}\nnodeName: n1\n\
                    kubeconfig: /k\nmetricsAddress: 9464\n";
        let codes = Settings::new(Overrides::default()).unwrap().live.status_codes;
        accepts(
            &mut file,
            text,
            &[
                "interval=2s instead of 1s",
                &format!("statusCodes=[200,404] instead of [{codes}]"),
                "processes=pods instead of all",
                "namespaces={include: [shop,web], exclude: [kube-system]} instead of {include: [], exclude: []}",
                "metricsAddress=127.0.0.1:9464 instead of (none)",
                "logLevel=debug instead of info",
            ],
            &[
                "pluginDir=/run/x instead of /var/run/scope/plugins",
                "hook=auto instead of kprobe",
                "maxConnections=2048 instead of 65536",
                "maxCounters=4096 instead of 16384",
                "nodeName=n1 instead of n0",
                "kubeconfig=/k instead of (none)",
                "logFormat=json instead of text",
            ],
        );
        assert_eq!(file.current.live.interval, "2s".parse().unwrap());
        assert_eq!(file.current.live.log_level, LogLevel::Debug);
    }

    #[test]
    fn what_waits_for_a_restart_is_told_once() {
        let mut file = file("hook: kprobe\n");
        accepts(&mut file, "hook: auto\n", &[], &["hook=auto instead of kprobe"]);
        accepts(
            &mut file,
            "hook: auto\ninterval: 2s\n",
            &["interval=2s instead of 1s"],
            &[],
        );
        accepts(&mut file, "hook: kprobe\n", &["interval=1s instead of 2s"], &[]);
    }

    #[test]
    fn flags_and_environment_still_come_first() {
        let mut file = file("");
        let text = "history: 10s\nhostId: other\n# a remark\n";
        accepts(&mut file, text, &[], &[]);
        assert_eq!(file.current, file.started);
        file.overrides.host_id = None;
        let text = "history: 10s\nhostId: other\n";
        accepts(&mut file, text, &[], &["hostId=other instead of h"]);
    }

    #[test]
    fn a_bad_file_is_refused_once_and_changes_nothing() {
        let mut file = file("interval: 2s\n");
        let before = file.current.clone();
        let cases = [
            (Err("gone"), "gone"),
            (Ok("interval: 1s\nintervall: 2s\n"), "line 2"),
            (Ok("interval: 1h\n"), "100ms to 60s"),
            (Ok("interval: 1s\n\nstatusCodes: [200, 20]\n"), "`20`"),
        ];
        for (reading, word) in cases {
            refuses(&mut file, reading, word);
            for _ in 0..3 {
                let again = reading.map(str::to_owned).map_err(str::to_owned);
                assert_eq!(file.take(again), None, "{reading:?}");
            }
            assert_eq!(file.current, before);
        }
        // Another text that fails for the same reason is no news.
        assert_eq!(settle(&mut file, Ok("\n\nstatusCodes: [20]\n")), None);
        accepts(&mut file, "interval: 3s\n", &["interval=3s instead of 2s"], &[]);
    }

    #[test]
    fn a_file_that_comes_back_as_it_was_is_told() {
        let mut file = file("interval: 2s\n");
        refuses(&mut file, Err("gone"), "gone");
        accepts(&mut file, "interval: 2s\n", &[], &[]);
        refuses(&mut file, Err("gone"), "gone");
    }

    #[test]
    fn values_that_do_not_fit_together_with_a_flag_are_refused() {
        let mut file = file("");
        // `--history 30s`: 300 samples are not too many.
        accepts(
            &mut file,
            "interval: 100ms\nhistory: 10m\n",
            &["interval=100ms instead of 1s"],
            &[],
        );
        file.overrides.history = None;
        refuses(&mut file, Ok("interval: 100ms\nhistory: 9m\n"), "600");
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_half_way() {
        let mut file = file("interval: 2s\nstatusCodes: [200]\n");
        for half in ["", "interval: 2s\n", "interval: 2s\nstatus"] {
            assert_eq!(file.take(Ok(half.to_owned())), None);
        }
        assert_eq!(file.take(Err("gone".to_owned())), None);
        assert_eq!(settle(&mut file, Ok("interval: 2s\nstatusCodes: [200]\n")), None);
    }

    #[test]
    fn what_can_be_read_only_once_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "interval: 5s\nhostId: h\n").unwrap()
        });
        let (settings, file) = ConfigFile::open(pipe.clone(), Overrides::default()).unwrap();
        writer.join().unwrap();
        assert_eq!(settings.live.interval, "5s".parse().unwrap());
        assert!(file.is_none());
        // Nor is it waited for if it takes a file's place.
        assert!(read(&pipe).unwrap_err().contains("no regular file"));
        assert!(read(dir.path()).is_err() && read(&dir.path().join("none")).is_err());
    }
}
