//! Whose requests these are: real servers in real containers and cgroups. Root, and runc (.ci/setup test).
//!
//! On the host, whichever cgroup layout it has, and with `VM_KERNELS=6.12 cargo test --test privileged -- containers::` in a guest
//! with cgroup v2 only. The names come from an API server as in tests/it/pods.rs.

use std::collections::BTreeMap;
use std::env;
use std::ffi::CString;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent::process::{Cgroups, V1};
use agent::workload::Place;
use serde_json::Value;
use tempfile::TempDir;
use testkit::apiserver::{ApiServer, NODE, pod};
use testkit::containers::{
    Cgroup, Container, Network, Server, Truth, digits, free_port, hierarchies, is_unified, new_uid,
    write_site,
};
use testkit::live::{Agent, wait_for};
use testkit::results::record;
use testkit::turn::Turn;

/// Where kubelet and a runtime put a pod's container.
struct Layout {
    name: &'static str,
    /// `{uid}` for the pod's UID, `{_uid}` for the same with `_`, `{id}` for the container's.
    path: &'static str,
    is_static: bool,
}

const LAYOUTS: [Layout; 7] = [
    Layout {
        name: "containerd-cgroupfs",
        path: "kubepods/burstable/pod{uid}/{id}",
        is_static: false,
    },
    Layout {
        name: "crio-cgroupfs",
        path: "kubepods/besteffort/pod{uid}/crio-{id}",
        is_static: false,
    },
    Layout {
        name: "static-cgroupfs",
        path: "kubepods/burstable/pod{uid}/{id}",
        is_static: true,
    },
    Layout {
        name: "containerd-systemd",
        path: "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope",
        is_static: false,
    },
    Layout {
        name: "crio-systemd",
        path: "kubepods.slice/kubepods-pod{_uid}.slice/crio-{id}.scope/container",
        is_static: false,
    },
    Layout {
        name: "docker-systemd",
        path: "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/docker-{id}.scope",
        is_static: false,
    },
    Layout {
        name: "kind",
        path: "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/cri-containerd-{id}.scope",
        is_static: false,
    },
];

/// The hooks to try, as in tests/privileged/hooks.rs; one is enough here, since none knows of containers.
fn hook() -> String {
    env::var("TEST_HOOKS")
        .ok()
        .and_then(|hooks| hooks.split_whitespace().next().map(str::to_owned))
        .unwrap_or_else(|| "tracepoint".to_owned())
}

/// One agent at a time: an emulated machine has no room for more.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The agent, and the API server that names what it counts.
struct Node {
    _turn: MutexGuard<'static, ()>,
    runtime: tokio::runtime::Runtime,
    server: ApiServer,
    agent: Agent,
}

impl Node {
    fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let server = {
            let _entered = runtime.enter();
            ApiServer::start()
        };
        let kubeconfig = server.kubeconfig().display().to_string();
        let agent = Agent::start_with(&hook(), &["--node-name", NODE, "--kubeconfig", &kubeconfig]);
        Self {
            _turn: turn,
            runtime,
            server,
            agent,
        }
    }

    /// What was counted where `field` is `value`.
    fn counted(&self, field: &str, value: &str) -> Truth {
        let (requests, codes) = self.agent.totals().of_place(field, value);
        Truth { requests, codes }
    }

    /// Waits for the right counts, then long enough for wrong ones.
    #[track_caller]
    fn expect(&self, field: &str, value: &str, truth: &Truth) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.counted(field, value) != *truth && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(self.counted(field, value), *truth, "{field} {value}");
    }

    fn stop(self) {
        self.agent.stop();
        self.runtime.shutdown_background();
    }
}

#[test]
fn every_container_gets_its_own_requests_and_every_pod_the_sum() {
    let _turn = Turn::of(module_path!());
    let begin = Instant::now();
    let node = Node::start();
    let root = Cgroup::root();
    let mut pods: Vec<(&Layout, String, [Container; 2])> = Vec::new();
    for layout in &LAYOUTS {
        let uid = if layout.is_static { digits(32) } else { new_uid() };
        let path = layout
            .path
            .replace("{uid}", &uid)
            .replace("{_uid}", &uid.replace('-', "_"));
        let path = format!("{}/{path}", root.path());
        let containers =
            [Server::Prefork, Server::ProcessPerRequest].map(|server| Container::start(&path, server));
        node.server.apply(object(layout, &uid, &containers));
        pods.push((layout, uid, containers));
    }
    for (number, (_, _, containers)) in pods.iter_mut().enumerate() {
        containers[0].drive(7 + number);
        containers[1].drive(20 + number);
    }
    // A command in a running container is the container. A virtual machine's tests run in a chroot, out of which
    // runc cannot find a running container's root.
    if env::var_os("TEST_KERNEL").is_none() {
        let exec = pods[0].2[0].exec(Server::Prefork);
        pods[0].2[0].truth.drive(exec, 5);
    }

    for (layout, uid, containers) in &pods {
        let mut sum = Truth::default();
        for container in containers {
            node.expect("container_id", &container.id, &container.truth);
            add(&mut sum, &container.truth);
        }
        node.expect("pod_uid", uid, &sum);
        node.expect("pod", layout.name, &sum);
    }
    // Totals are read when asked for, a report is of the latest tick: it may still be without the last container.
    let report = wait_for("all pods and containers in the report", || {
        let report = node.agent.report();
        let is_there = |topology: &str, id: String| !report[topology]["nodes"][&id].is_null();
        let are_there = |(_, uid, containers): &(_, String, [Container; 2])| {
            let mut ids = containers.iter().map(|it| format!("{};<container>", it.id));
            is_there("Pod", format!("{uid};<pod>")) && ids.all(|id| is_there("Container", id))
        };
        pods.iter().all(are_there).then_some(report)
    });
    for (layout, uid, containers) in &pods {
        check_report(&report, layout.name, uid, containers);
        record(layout.name, Ok(()), begin.elapsed());
    }
    drop(pods);
    node.stop();
}

fn add(sum: &mut Truth, other: &Truth) {
    sum.requests += other.requests;
    for (code, count) in &other.codes {
        *sum.codes.entry(code.clone()).or_default() += count;
    }
}

fn object(layout: &Layout, uid: &str, [web, cgi]: &[Container; 2]) -> Value {
    let containers = [(web.id.as_str(), "web"), (cgi.id.as_str(), "cgi")];
    if !layout.is_static {
        return pod(uid, "shop", layout.name, &containers);
    }
    let mut mirror = pod(&new_uid(), "shop", layout.name, &containers);
    mirror["metadata"]["annotations"] = serde_json::json!({
        "kubernetes.io/config.hash": uid, "kubernetes.io/config.mirror": uid, "kubernetes.io/config.source": "file"
    });
    mirror
}

fn check_report(report: &Value, name: &str, uid: &str, [web, cgi]: &[Container; 2]) {
    let latest = |node: &Value, key: &str| node["latest"][key]["value"].as_str().map(str::to_owned);
    let pod_id = format!("{uid};<pod>");
    let pod = &report["Pod"]["nodes"][&pod_id];
    assert_eq!(latest(pod, "kubernetes_name").as_deref(), Some(name));
    assert_eq!(latest(pod, "kubernetes_namespace").as_deref(), Some("shop"));
    for (container, called) in [(web, "web"), (cgi, "cgi")] {
        let node = &report["Container"]["nodes"][format!("{};<container>", container.id)];
        assert_eq!(
            latest(node, "docker_container_name").as_deref(),
            Some(called),
            "{name}"
        );
        assert_eq!(node["parents"]["pod"], serde_json::json!([pod_id]), "{name}");
    }
    // nginx's workers live, and are in their container.
    let processes = report["Process"]["nodes"].as_object().expect("processes");
    let workers: Vec<&Value> = processes
        .values()
        .filter(|node| latest(node, "docker_container_id").as_ref() == Some(&web.id))
        .collect();
    assert!(!workers.is_empty(), "{name}");
    for worker in workers {
        assert_eq!(latest(worker, "http_statistics_pod").as_deref(), Some(name));
        assert_eq!(
            latest(worker, "http_statistics_container").as_deref(),
            Some("web")
        );
    }
}

/// A pod with `hostNetwork`, one with a network of its own, and a process of the host's; the pods even on the same port.
#[test]
fn a_pod_on_the_hosts_network_is_neither_the_host_nor_another_pod() {
    let _turn = Turn::of(module_path!());
    let node = Node::start();
    let root = Cgroup::root();
    let [on_hosts, on_own] = [(); 2].map(|()| new_uid());
    let path = |uid: &str| format!("{}/kubepods/burstable/pod{uid}/{{id}}", root.path());
    let mut first = Container::start(&path(&on_hosts), Server::Prefork);
    let mut second = Container::start_on(Network::Own, first.port, &path(&on_own), Server::Prefork);
    let mut object = pod(&on_hosts, "shop", "ingress", &[(&first.id, "web")]);
    object["spec"]["hostNetwork"] = true.into();
    node.server.apply(object);
    node.server
        .apply(pod(&on_own, "shop", "behind", &[(&second.id, "web")]));
    let service = Cgroup::new(&format!("{}/web.service", root.path()));
    let site = TempDir::new().expect("a temporary directory");
    let mut host = Process::start(Server::Prefork, site.path(), &service);
    let mut truth = Truth::default();

    first.drive(7);
    truth.drive(host.port, 11);
    second.drive(5);
    first.drive(2);
    for (uid, name, container) in [(&on_hosts, "ingress", &first), (&on_own, "behind", &second)] {
        node.expect("container_id", &container.id, &container.truth);
        node.expect("pod_uid", uid, &container.truth);
        node.expect("pod", name, &container.truth);
    }
    node.expect("cgroup", service.path(), &truth);
    // The host's process is shown as what it is: in no container.
    let ids: Vec<String> = host.all().iter().map(|pid| format!(";{pid}")).collect();
    let shown = wait_for("the host's process in the report", || {
        let report = node.agent.report();
        let mut nodes = report["Process"]["nodes"].as_object().expect("processes").iter();
        let found = nodes.find(|(id, _)| ids.iter().any(|pid| id.ends_with(pid)))?;
        Some(found.1.clone())
    });
    assert!(shown["latest"].get("docker_container_id").is_none(), "{shown}");
    assert!(shown.get("parents").is_none(), "{shown}");
    host.kill();
    drop((first, second));
    node.stop();
}

/// On a host with v1, runtimes may leave v2 alone. Who lives through a reading is known there by name, before its end and
/// after; who does not may be without one, but is counted and never another's.
#[test]
fn in_v1_alone_nobody_is_lost() {
    let _turn = Turn::of(module_path!());
    if is_unified() {
        return; // There is no v1 here.
    }
    let node = Node::start();
    let root = Cgroup::root();
    let site = TempDir::new().expect("a temporary directory");
    let [(lasting, first), (brief, second)] = [(); 2].map(|()| {
        let (uid, id) = (new_uid(), digits(64));
        let path = format!("{}/kubepods/burstable/pod{uid}/{id}", root.path());
        node.server.apply(pod(&uid, "shop", "web-0", &[(&id, "web")]));
        (uid, Cgroup::in_v1(&path))
    });
    let mut server = Process::start(Server::Prefork, site.path(), &first);
    let mut truth = Truth::default();
    truth.drive(server.port, 8);
    node.expect("pod_uid", &lasting, &truth);
    truth.drive(server.port, 3);
    server.kill();
    first.remove();
    node.expect("pod_uid", &lasting, &truth);

    let site = TempDir::new().expect("a temporary directory");
    let mut server = Process::start(Server::ProcessPerRequest, site.path(), &second);
    truth = Truth::default();
    truth.drive(server.port, 9);
    node.expect("pod_uid", &brief, &truth);
    server.kill();
    node.stop();
}

/// One pod: its sandbox, of which no status tells, an init container that has ended, an ephemeral one, and its own.
#[test]
fn containers_of_all_kinds_are_told_apart_and_are_the_pod() {
    let _turn = Turn::of(module_path!());
    let node = Node::start();
    let root = Cgroup::root();
    let uid = new_uid();
    let path = format!("{}/kubepods/burstable/pod{uid}/{{id}}", root.path());
    let start = || Container::start(&path, Server::ProcessPerRequest);
    let mut sandbox = start();
    let mut init = start();
    node.server.apply(pod(&uid, "shop", "web-0", &[]));
    init.drive(4);
    sandbox.drive(3);
    node.expect("container_id", &init.id, &init.truth);
    let (init_id, init_truth) = (init.id.clone(), init.truth.clone());
    drop(init);
    let (mut web, mut debug) = (start(), start());
    let mut object = pod(&uid, "shop", "web-0", &[(&web.id, "web")]);
    let statuses =
        |id: &str, name: &str| pod("", "", "", &[(id, name)])["status"]["containerStatuses"].take();
    object["status"]["initContainerStatuses"] = statuses(&init_id, "migrate");
    object["status"]["ephemeralContainerStatuses"] = statuses(&debug.id, "debugger");
    node.server.apply(object);
    web.drive(6);
    debug.drive(5);

    let mut sum = init_truth.clone();
    for (container, name) in [(&sandbox, None), (&web, Some("web")), (&debug, Some("debugger"))] {
        node.expect("container_id", &container.id, &container.truth);
        if let Some(name) = name {
            node.expect("container", name, &container.truth);
        }
        add(&mut sum, &container.truth);
    }
    node.expect("container", "migrate", &init_truth);
    node.expect("pod_uid", &uid, &sum);
    node.expect("pod", "web-0", &sum);
    drop((sandbox, web, debug));
    node.stop();
}

/// What the kernel calls a cgroup is found in the file systems, in each hierarchy that is mounted here: so a process that
/// is gone is told by the id that it was counted under.
#[test]
fn a_cgroup_is_found_by_the_kernels_id() {
    let _turn = Turn::of(module_path!());
    let root = Cgroup::root();
    let (uid, id) = (new_uid(), digits(64));
    let path = format!("{}/kubepods/pod{uid}/{id}", root.path());
    let _made = Cgroup::new(&path);
    let place = Place {
        cgroup: Some(path.as_str().into()),
        container: id.parse().ok(),
        pod: uid.parse().ok(),
    };
    let mut found = 0;
    for (mount, kind, options) in hierarchies() {
        let mark = match kind.as_str() {
            "cgroup2" => 0,
            _ if options.split(',').any(|option| option == "pids") => V1,
            _ => continue,
        };
        let kernel_id = file_handle(&mount.join(path.trim_start_matches('/')));
        let mut cgroups = Cgroups::new(Path::new("/proc"));
        assert_eq!(cgroups.place(kernel_id | mark, None), place, "{kind}");
        found += 1;
    }
    assert_eq!(found, if is_unified() { 1 } else { 2 });
}

/// What `name_to_handle_at(2)` tells: in the file systems of cgroups the id that programs see.
fn file_handle(path: &Path) -> u64 {
    /// `struct file_handle` with room for an id.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }

    let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
    let mut handle = Handle {
        bytes: 8,
        kind: 0,
        id: [0; 8],
    };
    let mut mount = 0;
    // SAFETY: the name ends with a zero, and the handle has the room that it says.
    let done = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            name.as_ptr(),
            std::ptr::from_mut(&mut handle).cast(),
            &raw mut mount,
            0,
        )
    };
    assert_eq!(done, 0, "{}: {}", path.display(), io::Error::last_os_error());
    u64::from_ne_bytes(handle.id)
}

#[test]
fn a_restarted_container_and_a_pod_made_again_are_new_ones() {
    let _turn = Turn::of(module_path!());
    let node = Node::start();
    let root = Cgroup::root();
    let path = |uid: &str| format!("{}/kubepods/burstable/pod{uid}/{{id}}", root.path());
    let first = new_uid();
    let mut before = Container::start(&path(&first), Server::Prefork);
    node.server
        .apply(pod(&first, "shop", "web-0", &[(&before.id, "web")]));
    before.drive(6);
    node.expect("container_id", &before.id, &before.truth);
    let (old_id, old) = (before.id.clone(), before.truth.clone());
    drop(before);

    // The container's next life: a new id in the same pod.
    let mut after = Container::start(&path(&first), Server::Prefork);
    node.server
        .apply(pod(&first, "shop", "web-0", &[(&after.id, "web")]));
    after.drive(9);
    node.expect("container_id", &after.id, &after.truth);
    node.expect("container_id", &old_id, &old);
    let mut sum = old.clone();
    add(&mut sum, &after.truth);
    node.expect("pod_uid", &first, &sum);
    drop(after);

    // The pod's next life: the same name, another UID.
    let second = new_uid();
    node.server.delete(&first);
    let mut again = Container::start(&path(&second), Server::ProcessPerRequest);
    node.server
        .apply(pod(&second, "shop", "web-0", &[(&again.id, "web")]));
    again.drive(4);
    node.expect("pod_uid", &second, &again.truth);
    node.expect("pod_uid", &first, &sum);
    drop(again);
    node.stop();
}

#[test]
fn a_process_that_moves_is_counted_where_it_was_at_the_time() {
    let _turn = Turn::of(module_path!());
    let node = Node::start();
    let root = Cgroup::root();
    let places = [(); 2].map(|()| {
        let (uid, id) = (new_uid(), digits(64));
        let cgroup = Cgroup::new(&format!("{}/kubepods/pod{uid}/{id}", root.path()));
        (uid, cgroup)
    });
    let site = TempDir::new().expect("a temporary directory");
    let mut server = Process::start(Server::Prefork, site.path(), &places[0].1);
    let mut truths = [Truth::default(), Truth::default()];
    truths[0].drive(server.port, 8);
    node.expect("pod_uid", &places[0].0, &truths[0]);
    for pid in server.all() {
        places[1].1.take(pid);
    }
    truths[1].drive(server.port, 5);
    node.expect("pod_uid", &places[1].0, &truths[1]);
    node.expect("pod_uid", &places[0].0, &truths[0]);
    server.kill();
    node.expect("pod_uid", &places[1].0, &truths[1]);
    node.expect("pod_uid", &places[0].0, &truths[0]);
    node.stop();
}

/// A server without a container, in a cgroup.
struct Process {
    child: Child,
    port: u16,
}

impl Process {
    fn start(server: Server, site: &Path, cgroup: &Cgroup) -> Self {
        let port = free_port();
        write_site(site, port);
        let command = server.command(site, port);
        // It begins where it is to be, as in a container: the shell waits until it was moved.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read line && exec \"$@\"", "sh"])
            .args(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        cgroup.take(child.id());
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"go\n").expect("the shell waits");
        wait_for("a server", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self { child, port }
    }

    /// Its pid, and then its children's.
    fn all(&self) -> Vec<u32> {
        let pid = self.child.id();
        let path = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        [pid].into_iter().chain(children).collect()
    }

    /// At once, with all of its children; itself first, for it would replace them.
    fn kill(&mut self) {
        for pid in self.all() {
            let _gone = Command::new("kill")
                .args(["-9", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn number(variable: &str, default: u32) -> u32 {
    env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Pods come and go: `TEST_PODS` in all, `TEST_PODS_PER_SECOND`. Each lives three seconds, is asked all the time, and is
/// killed right after an answer; then its cgroup is removed.
#[test]
fn pods_that_come_and_go_lose_nothing() {
    const LIFE: Duration = Duration::from_secs(3);
    let _turn = Turn::of(module_path!());
    let (count, rate) = (number("TEST_PODS", 40), number("TEST_PODS_PER_SECOND", 4));
    let node = Node::start();
    let root = Cgroup::root();
    let begin = Instant::now();
    let truths: BTreeMap<String, Truth> = thread::scope(|scope| {
        let pods: Vec<_> = (0..count)
            .map(|number| {
                let due = begin + Duration::from_secs(1) * number / rate;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (node, root) = (&node, &root);
                scope.spawn(move || {
                    let (uid, id) = (new_uid(), digits(64));
                    let name = format!("pod-{number}");
                    node.server.apply(pod(&uid, "churn", &name, &[(&id, "web")]));
                    let parent = Cgroup::new(&format!("{}/kubepods/burstable/pod{uid}", root.path()));
                    let cgroup = Cgroup::new(&format!("{}/{id}", parent.path()));
                    let site = TempDir::new().expect("a temporary directory");
                    let kind = match number % 2 {
                        0 => Server::Prefork,
                        _ => Server::ProcessPerRequest,
                    };
                    let mut server = Process::start(kind, site.path(), &cgroup);
                    let (born, mut truth) = (Instant::now(), Truth::default());
                    while born.elapsed() < LIFE {
                        truth.drive(server.port, 3);
                        thread::sleep(Duration::from_millis(20));
                    }
                    server.kill();
                    cgroup.remove();
                    parent.remove();
                    node.server.delete(&uid);
                    (uid, truth)
                })
            })
            .collect();
        pods.into_iter().map(|pod| pod.join().expect("a pod")).collect()
    });
    assert_eq!(truths.len(), usize::try_from(count).expect("a small number"));
    for (uid, truth) in &truths {
        node.expect("pod_uid", uid, truth);
    }
    for number in 0..count {
        let name = format!("pod-{number}");
        assert!(
            node.counted("pod", &name).requests > 0,
            "{name} has lost its name"
        );
    }
    node.stop();
}
