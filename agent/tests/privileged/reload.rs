//! A configuration file that changes while the real agent runs, as kubelet changes a mounted `ConfigMap`. As root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use testkit::live::{Agent, Nginx, wait_for};
use testkit::turn::Turn;

/// A volume as kubelet makes it: the file is a symlink into `..data`, which is a symlink to the directory of a version.
struct Mount {
    dir: TempDir,
    version: u32,
}

impl Mount {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink("..data/agent.yaml", dir.path().join("agent.yaml")).unwrap();
        let mut mount = Self { dir, version: 0 };
        mount.swap(Some(text));
        mount
    }

    fn file(&self) -> String {
        self.dir.path().join("agent.yaml").to_str().unwrap().to_owned()
    }

    /// Puts a version in place of the last one; `None` is one without the file.
    fn swap(&mut self, text: Option<&str>) {
        let place = |version: u32| -> PathBuf { self.dir.path().join(format!("..{version}")) };
        let next = self.version + 1;
        fs::create_dir(place(next)).unwrap();
        if let Some(text) = text {
            fs::write(place(next).join("agent.yaml"), text).unwrap();
        }
        let link = self.dir.path().join("..data_tmp");
        symlink(place(next), &link).unwrap();
        fs::rename(&link, self.dir.path().join("..data")).unwrap();
        if self.version > 0 {
            fs::remove_dir_all(place(self.version)).unwrap();
        }
        self.version = next;
    }
}

/// The codes that have a metric.
fn codes(report: &Value) -> BTreeSet<String> {
    report["Process"]["metric_templates"]
        .as_object()
        .unwrap()
        .keys()
        .filter_map(|id| id.strip_prefix("http_")?.strip_suffix("_responses_per_second"))
        .map(str::to_owned)
        .collect()
}

/// The codes with which one of these processes has answered in the window.
fn answered(report: &Value, pids: &BTreeSet<u32>) -> BTreeSet<String> {
    let nodes = report["Process"]["nodes"].as_object().unwrap();
    pids.iter()
        .filter_map(|pid| nodes.get(&format!("node-1;{pid}"))?["metrics"].as_object())
        .flat_map(|metrics| metrics.keys())
        .filter_map(|id| id.strip_prefix("http_")?.strip_suffix("_responses_per_second"))
        .map(str::to_owned)
        .collect()
}

/// The date of the latest sample of a process.
fn latest(report: &Value, pids: &BTreeSet<u32>) -> Option<String> {
    let nodes = report["Process"]["nodes"].as_object()?;
    let samples = |pid: &u32| {
        let metrics = &nodes.get(&format!("node-1;{pid}"))?["metrics"];
        metrics["http_requests_per_second"]["samples"].as_array()
    };
    let sample = pids.iter().find_map(samples)?.last()?;
    Some(sample["date"].as_str()?.to_owned())
}

fn set(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

#[test]
fn what_changes_in_the_file_is_taken_over_without_a_restart() {
    let _turn = Turn::of(module_path!());
    let mut mount = Mount::new("interval: 60s\nstatusCodes: [200, 404]\n");
    let agent = Agent::start_with("auto", &["--config", &mount.file(), "--host-id", "node-1"]);
    let log_has = |words: &[&str]| {
        wait_for(&format!("{words:?} in the log"), || {
            agent
                .log()
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
                .then_some(())
        });
    };
    let nginx = Nginx::start();
    let workers = nginx.workers();
    let sent = nginx.load(3, 60);
    assert_eq!(codes(&agent.report()), set(&["200", "404", "OTHERS"]));

    // The next tick would be a minute after the first.
    mount.swap(Some(
        "interval: 1s\nhistory: 10m\nstatusCodes: [200, 404]\nhostId: other\n",
    ));
    log_has(&[
        "INFO",
        "interval=1s instead of 60s",
        "history=600s instead of 60s",
    ]);
    wait_for("the requests in the report", || {
        (answered(&agent.report(), &workers) == set(&["200", "404", "OTHERS"])).then_some(())
    });

    mount.swap(Some(
        "interval: 1s\nhistory: 10m\nstatusCodes: [404]\nlogLevel: error\n",
    ));
    log_has(&[
        "INFO",
        "statusCodes=[404] instead of [200,404]",
        "logLevel=error instead of info",
    ]);
    wait_for("200 among the others", || {
        let report = agent.report();
        (codes(&report) == set(&["404", "OTHERS"]) && answered(&report, &workers) == codes(&report))
            .then_some(())
    });

    // Bad: refused as a whole, and what was in force stays.
    mount.swap(Some("interval: 60s\nstatusCodes: [500]\nbogus: 1\n"));
    log_has(&["ERROR", "the running one stays", "agent.yaml, line 3", "bogus"]);
    mount.swap(None);
    log_has(&["ERROR", "the running one stays", "No such file"]);
    let before = latest(&agent.report(), &workers);
    wait_for("two more ticks", || {
        let dates = agent.report();
        (latest(&dates, &workers) > before).then_some(())
    });
    assert_eq!(codes(&agent.report()), set(&["404", "OTHERS"]));

    // And back. What takes effect is not told at this level.
    mount.swap(Some(
        "interval: 1s\nhistory: 10m\nstatusCodes: [200, 404]\nlogLevel: warn\nmaxCounters: 2048\n",
    ));
    log_has(&["WARN", "maxCounters=2048 instead of 16384", "after a restart"]);
    wait_for("200 by itself", || {
        (answered(&agent.report(), &workers) == set(&["200", "404", "OTHERS"])).then_some(())
    });

    // It is in no pod, or if it is, in none of this namespace.
    mount.swap(Some(
        "interval: 1s\nprocesses: pods\nnamespaces: {include: [no-such]}\nlogLevel: warn\nmaxCounters: 2048\n",
    ));
    wait_for("a report without nginx", || {
        answered(&agent.report(), &workers).is_empty().then_some(())
    });

    let log = agent.log();
    assert_eq!(log.matches("the running one stays").count(), 2, "{log}");
    assert_eq!(log.matches("after a restart").count(), 1, "{log}");
    assert!(!log.contains("instead of [404]"), "{log}");
    assert_eq!(agent.totals().of(&workers), (sent, nginx.logged()));
    nginx.stop();
    agent.stop();
}
