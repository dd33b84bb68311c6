//! An agent without a kernel half: counters, processes and names are what the test says, all behind them is real.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test and bench uses a part of it, and has failed where it cannot go on"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::bpf::{Counter, CounterKey, Hook, Loss, Losses};
use agent::config::{Overrides, PluginDir, Settings};
use agent::host::HostIdentity;
use agent::process::Processes;
use agent::sampler::{Feed, Kernel, Sampler};
use agent::server::{self, PluginSocket};
use agent::stats::{Event, Owner};
use agent::workload::Directory;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Counters in memory.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Maps>>);

#[derive(Debug, Default)]
struct Maps {
    counters: BTreeMap<CounterKey, u64>,
    losses: Losses,
}

impl Counters {
    /// Something happened.
    pub fn hit(&self, owner: Owner, event: Event, count: u64) {
        *self
            .0
            .lock()
            .unwrap()
            .counters
            .entry(owner.key(event))
            .or_default() += count;
    }

    /// Something could not be counted.
    pub fn lose(&self, loss: Loss, count: u64) {
        let index = Loss::ALL.iter().position(|known| *known == loss).unwrap();
        self.0.lock().unwrap().losses.0[index] += count;
    }
}

impl Kernel for Counters {
    type Error = io::Error;

    fn hook(&self) -> Hook {
        Hook::Tracepoint
    }

    fn counters(&mut self) -> io::Result<Vec<Counter>> {
        let maps = self.0.lock().unwrap();
        let counter = |(key, value): (&CounterKey, &u64)| Counter {
            key: *key,
            value: *value,
        };
        Ok(maps.counters.iter().map(counter).collect())
    }

    fn forget(&mut self, keys: &[CounterKey]) -> io::Result<()> {
        self.0
            .lock()
            .unwrap()
            .counters
            .retain(|key, _| !keys.contains(key));
        Ok(())
    }

    fn losses(&mut self) -> io::Result<Losses> {
        Ok(self.0.lock().unwrap().losses)
    }
}

/// What the agent sees. Its `/proc` and its cgroups are directories.
pub struct World {
    pub counters: Counters,
    pub directory: watch::Sender<Arc<Directory>>,
    root: TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            counters: Counters::default(),
            directory: watch::Sender::default(),
            root: tempfile::tempdir().unwrap(),
        };
        for (process, cgroup) in [("self", "/agent"), ("1", "/init.scope")] {
            let namespaces = world.proc().join(process).join("ns");
            fs::create_dir_all(&namespaces).unwrap();
            fs::write(
                world.proc().join(process).join("cgroup"),
                format!("0::{cgroup}\n"),
            )
            .unwrap();
        }
        let mount = world.root.path().join("cgroup");
        fs::create_dir(&mount).unwrap();
        let mount = format!(
            "41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw\n",
            mount.display()
        );
        fs::write(world.proc().join("self/mountinfo"), mount).unwrap();
        for name in ["pid", "uts"] {
            symlink("host", world.proc().join("self/ns").join(name)).unwrap();
        }
        world
    }

    fn proc(&self) -> PathBuf {
        self.root.path().join("proc")
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        self.root.path().join("cgroup").join(path.trim_start_matches('/'))
    }

    /// A process appears.
    pub fn start(&self, pid: u32, command: &str, cgroup: &str) -> Owner {
        fs::create_dir_all(self.cgroup(cgroup)).unwrap();
        let owner = Owner {
            pid,
            start_time: 1_000_000_000 + u64::from(pid) * 10_000_000,
            cgroup: fs::metadata(self.cgroup(cgroup)).unwrap().ino(),
        };
        let directory = self.process(pid);
        fs::create_dir_all(&directory).unwrap();
        let ticks = owner.start_time / 10_000_000;
        let stat = format!("{pid} ({command}) S 1 7 7 0 -1 0 1 0 0 0 1 2 0 0 20 0 1 0 {ticks} 1 1 1\n");
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        owner
    }

    /// A cgroup is gone.
    pub fn remove(&self, cgroup: &str) {
        fs::remove_dir(self.cgroup(cgroup)).unwrap();
    }

    /// The test itself, as a poller, has this environment and is in this PID namespace.
    pub fn poller(&self, environment: &str, pid_namespace: &str) {
        let directory = self.process(std::process::id());
        let _before = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(pid_namespace, directory.join("ns/pid")).unwrap();
        symlink("container", directory.join("ns/uts")).unwrap();
        fs::write(directory.join("environ"), environment).unwrap();
    }

    /// A process is gone.
    pub fn end(&self, owner: Owner) {
        fs::remove_dir_all(self.process(owner.pid)).unwrap();
    }

    fn process(&self, pid: u32) -> PathBuf {
        self.proc().join(pid.to_string())
    }

    /// A sampler of this world.
    fn sampler(&self, settings: &Settings) -> (Sampler<Counters>, Feed) {
        let processes = Processes::new(&self.proc());
        let directory = self.directory.subscribe();
        Sampler::new(
            self.counters.clone(),
            Instant::now(),
            processes,
            directory,
            watch::Sender::new(settings.live.clone()).subscribe(),
            HostIdentity::new((settings.host_id.clone(), settings.host_id_source)),
        )
    }
}

/// Settings that do not depend on this host, with these options of a file; without those that are empty.
pub fn settings(overrides: &[(&str, &str)]) -> Settings {
    let mut options: BTreeMap<&str, &str> =
        [("hostId", "node-1"), ("interval", "100ms"), ("history", "6s")].into();
    options.extend(overrides.iter().copied());
    options.retain(|_, value| !value.is_empty());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    // JSON is YAML.
    fs::write(&file, serde_json::to_string(&options).unwrap()).unwrap();
    Settings::new(Overrides::from_file(&file).unwrap()).unwrap()
}

/// A running agent on a socket in a plugin directory of its own.
pub struct Agent {
    pub root: TempDir,
    pub feed: Feed,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Agent {
    pub async fn start(world: &World, settings: &Settings) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self::start_in(root, world, settings).await
    }

    /// In a directory that another one may have used.
    pub async fn start_in(root: TempDir, world: &World, settings: &Settings) -> Self {
        let (socket, listener) = PluginSocket::claim(&plugin_dir(&root)).await.unwrap();
        let (sampler, feed) = world.sampler(settings);
        let stop = CancellationToken::new();
        let router = server::router(feed.clone(), watch::Sender::new(true).subscribe());
        let (renewed, listeners) = mpsc::channel(1);
        renewed.try_send(listener).unwrap();
        let keeping = socket.keep(renewed, stop.clone());
        let tasks = vec![
            tokio::spawn(sampler.run(stop.clone())),
            tokio::spawn(server::serve(listeners, router, stop.clone())),
            tokio::spawn(async { keeping.await.unwrap() }),
        ];
        Self {
            root,
            feed,
            stop,
            tasks,
        }
    }

    pub fn socket(&self) -> PathBuf {
        plugin_dir(&self.root).socket()
    }

    /// Stops it. Returns how long that took, and its directory.
    pub async fn stop(self) -> (Duration, TempDir) {
        let begin = Instant::now();
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        (begin.elapsed(), self.root)
    }
}

pub fn plugin_dir(root: &TempDir) -> PluginDir {
    root.path().join("plugins").to_str().unwrap().parse().unwrap()
}
