//! Real containers, made by runc in the cgroups in which kubelet and the container runtimes have them.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::live::{Codes, wait_for};

/// What a runtime allows a container by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// From this machine, so that a container needs no image.
const SHARED: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc"];

/// Digits that no other run has.
pub fn digits(count: usize) -> String {
    let parts = std::iter::repeat_with(|| format!("{:016x}", RandomState::new().hash_one(0)));
    let text: String = parts.take(count.div_ceil(16)).collect();
    text[..count].to_owned()
}

pub fn new_uid() -> String {
    let digits = digits(32);
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

/// Whether only cgroup v2 is in use.
pub fn is_unified() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").expect("/proc");
    own.lines().all(|line| line.starts_with("0::"))
}

/// Mount points of all hierarchies, each with the type and the options of its file system.
pub fn hierarchies() -> Vec<(PathBuf, String, String)> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup")
                .then(|| (PathBuf::from(point), kind.to_owned(), options.to_owned()))
        })
        .collect()
}

/// A cgroup below which a test has all of its own. Removed in the end.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    /// Not in the v2 hierarchy.
    is_v1: bool,
}

impl Cgroup {
    /// As kubelet's `--cgroup-root`.
    pub fn root() -> Self {
        Self::new(&format!("/http-statistics-{}", digits(8)))
    }

    /// One that belongs to another, in all hierarchies.
    pub fn new(path: &str) -> Self {
        Self::make(path, false)
    }

    /// The same in those of v1 only, and in the root of v2, as on hosts that do not use that.
    pub fn in_v1(path: &str) -> Self {
        Self::make(path, true)
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        hierarchies()
            .into_iter()
            .filter(|(_, kind, _)| !self.is_v1 || kind == "cgroup")
            .map(|(mount, ..)| mount.join(self.path.trim_start_matches('/')))
    }

    fn make(path: &str, is_v1: bool) -> Self {
        let cgroup = Self {
            path: path.to_owned(),
            is_v1,
        };
        for directory in cgroup.directories() {
            let mut made = PathBuf::new();
            for part in &directory {
                made.push(part);
                if fs::create_dir(&made).is_ok() {
                    // Without processors and memory, nothing can be put into a cpuset of v1.
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let above = made.parent().expect("below a mount").join(file);
                        if let Ok(set) = fs::read_to_string(above) {
                            let _ = fs::write(made.join(file), set);
                        }
                    }
                }
            }
        }
        cgroup
    }

    /// Moves a process here.
    pub fn take(&self, pid: u32) {
        for directory in self.directories() {
            fs::write(directory.join("cgroup.procs"), pid.to_string()).expect("a cgroup to move to");
        }
        let unused = hierarchies()
            .into_iter()
            .filter(|(_, kind, _)| self.is_v1 && kind == "cgroup2");
        for (mount, ..) in unused {
            fs::write(mount.join("cgroup.procs"), pid.to_string()).expect("the root to move to");
        }
    }

    /// Removes it as soon as its processes are gone.
    pub fn remove(&self) {
        for directory in self.directories() {
            wait_for("a cgroup without processes", || {
                match fs::remove_dir(&directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
                    _ => Some(()),
                }
            });
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.directories() {
            remove_below(&directory);
        }
    }
}

fn remove_below(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

/// What runs in a container.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    /// nginx with two workers, which live on.
    Prefork,
    /// A process for each request, which ends with it: busybox's httpd, started by a listener that never reads.
    ProcessPerRequest,
}

impl Server {
    /// The command that serves `directory`.
    pub fn command(self, directory: &Path, port: u16) -> Vec<String> {
        let directory = directory.display();
        match self {
            Self::Prefork => format!("nginx -e stderr -p {directory} -c {directory}/nginx.conf"),
            Self::ProcessPerRequest => {
                format!("busybox nc -ll -p {port} -e /bin/busybox httpd -i -h {directory}/www")
            }
        }
        .split(' ')
        .map(str::to_owned)
        .collect()
    }
}

/// Files to serve: `www/index.html`, and nginx's configuration.
pub fn write_site(directory: &Path, port: u16) {
    fs::create_dir_all(directory.join("www")).expect("a directory");
    fs::write(directory.join("www/index.html"), "hello\n").expect("a page");
    let prefix = directory.display();
    let configuration = format!(
        "daemon off; user root; worker_processes 2; pid {prefix}/pid;
        events {{ worker_connections 64; }}
        http {{
            access_log off;
            client_body_temp_path {prefix}/1; proxy_temp_path {prefix}/2; fastcgi_temp_path {prefix}/3;
            uwsgi_temp_path {prefix}/4; scgi_temp_path {prefix}/5;
            server {{ listen 127.0.0.1:{port}; root {prefix}/www; }}
        }}"
    );
    fs::write(directory.join("nginx.conf"), configuration).expect("a configuration");
}

/// Asks for `path` on a connection of its own; the status code.
pub fn get(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let code = line.split(' ').nth(1).map(str::to_owned);
    answer.read_to_end(&mut Vec::new())?;
    code.ok_or_else(|| io::Error::other(format!("not HTTP: {line:?}")))
}

/// What was asked for and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub requests: u64,
    pub codes: Codes,
}

impl Truth {
    /// Asks `count` times, every third time for what is not there.
    pub fn drive(&mut self, port: u16, count: usize) {
        for number in 0..count {
            let path = if number % 3 == 2 {
                "/missing"
            } else {
                "/index.html"
            };
            let code = get(port, path).expect("an answer");
            self.requests += 1;
            *self.codes.entry(code).or_default() += 1;
        }
    }
}

/// Which network a container is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The node's, so that most tests need none; pods with `hostNetwork` are there.
    Node,
    /// One of its own, with nothing but a loopback device.
    Own,
}

/// A running container. Killed and removed when dropped.
pub struct Container {
    pub id: String,
    pub port: u16,
    pub truth: Truth,
    directory: TempDir,
    /// Its network, if that is its own.
    network: Option<File>,
}

impl Container {
    /// Starts `server` in the cgroup `path`, in which `{id}` is the container's id, and waits until it listens.
    pub fn start(path: &str, server: Server) -> Self {
        Self::start_on(Network::Node, free_port(), path, server)
    }

    /// The same on this network and port.
    pub fn start_on(network: Network, port: u16, path: &str, server: Server) -> Self {
        let mut container = Self {
            id: digits(64),
            port,
            truth: Truth::default(),
            directory: TempDir::new().expect("a temporary directory"),
            network: None,
        };
        let directory = container.directory.path();
        write_site(directory, container.port);
        let bundle = directory.join("bundle");
        for shared in SHARED.iter().chain(&["/proc", "/dev"]) {
            fs::create_dir_all(bundle.join(format!("rootfs{shared}"))).expect("a root");
        }
        let command = server.command(directory, container.port);
        let mut config = config(&command, directory, &path.replace("{id}", &container.id));
        if network == Network::Own {
            let namespaces = config["linux"]["namespaces"].as_array_mut();
            namespaces.expect("it has some").push(json!({"type": "network"}));
        }
        fs::write(bundle.join("config.json"), config.to_string()).expect("a configuration");
        let pid_file = directory.join("first.pid");
        container.runc(&[
            "run",
            "--detach",
            "--bundle",
            &bundle.display().to_string(),
            "--pid-file",
            &pid_file.display().to_string(),
            &container.id,
        ]);
        if network == Network::Own {
            let pid = fs::read_to_string(pid_file).expect("a pid");
            let namespace = File::open(format!("/proc/{pid}/ns/net"));
            container.network = Some(namespace.expect("the container runs"));
        }
        // By connecting only: a request would have to be counted.
        container.within(|| {
            wait_for("a container's server", || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
            })
        });
        container
    }

    /// Does something in the container's network.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let Some(network) = &self.network else {
            return act();
        };
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: it changes the network of this thread, which ends here, and no memory.
                let entered = unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", io::Error::last_os_error());
                act()
            });
            inside.join().expect("it did what it was to do")
        })
    }

    /// Runs `server` on another port in the same container, as `kubectl exec` does.
    pub fn exec(&self, server: Server) -> u16 {
        let port = free_port();
        let mut arguments = vec!["exec".to_owned(), "--detach".to_owned(), self.id.clone()];
        let site = self.directory.path().join("exec");
        write_site(&site, port);
        arguments.extend(server.command(&site, port));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.runc(&arguments);
        wait_for("a server in a container", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        port
    }

    pub fn drive(&mut self, count: usize) {
        let (mut truth, port) = (std::mem::take(&mut self.truth), self.port);
        self.truth = self.within(|| {
            truth.drive(port, count);
            truth
        });
    }

    fn runc(&self, arguments: &[&str]) {
        let log = self.directory.path().join("log");
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let status = Command::new("runc")
            .arg("--root")
            .arg(self.directory.path().join("state"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("one log for both streams"))
            .stderr(output)
            .status()
            .expect("runc is installed (.ci/setup test)");
        let said = fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "runc {arguments:?}: {status}\n{said}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("runc")
            .arg("--root")
            .arg(self.directory.path().join("state"))
            .args(["delete", "--force", &self.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// On the node's network. No `oomScoreAdj`: not every machine that runs tests may set it.
fn config(command: &[String], directory: &Path, cgroup: &str) -> Value {
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        json!({"destination": directory, "type": "bind", "source": directory, "options": ["bind", "rw"]}),
    ];
    mounts.extend(SHARED.iter().map(
        |shared| json!({"destination": shared, "type": "bind", "source": shared, "options": ["rbind", "ro"]}),
    ));
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
    ];
    if is_unified() {
        // As containerd and CRI-O do there.
        namespaces.push(json!({"type": "cgroup"}));
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/",
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        },
        "root": {"path": "rootfs", "readonly": false},
        "mounts": mounts,
        "linux": {"cgroupsPath": cgroup, "namespaces": namespaces},
    })
}
