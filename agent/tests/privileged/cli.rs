//! The command line: what cannot be done is refused in one line that names the fix, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::turn::Turn;

const BINARY: &str = env!("CARGO_BIN_EXE_scope-http-statistics-agent");
/// The user `nobody`.
const NOBODY: u32 = 65534;
/// Long enough for a busy machine, whose verifier takes its time; nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(2);

fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args);
    command
}

/// The command must fail with this code and one line that begins with `error:` and contains all `words`.
#[track_caller]
fn refused(command: &mut Command, code: i32, words: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    assert_eq!(String::from_utf8(stdout).unwrap(), "", "{command:?}");
    assert!(stderr.starts_with("error: "), "{command:?}: {stderr:?}");
    assert_eq!(stderr.matches('\n').count(), 1, "{command:?}: {stderr:?}");
    for word in words {
        assert!(stderr.contains(word), "{command:?}: no {word:?} in {stderr:?}");
    }
    stderr
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

fn socket(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("http-statistics/http-statistics.sock")
}

#[test]
fn a_command_line_that_is_not_understood_is_refused() {
    let _turn = Turn::of(module_path!());
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--bogus"], &["--bogus", "--help"]),
        (&["--intervall", "1s"], &["--interval"]),
        (&["bogus"], &["bogus"]),
        (&["run", "extra"], &["extra"]),
        (&["--interval"], &["--interval", "value"]),
        (&["--interval", "soon"], &["soon", "500ms"]),
        (&["--interval", "1h"], &["100ms to 60s"]),
        (&["--history", "24h"], &["1s to 10m"]),
        (&["--hook", "uprobe"], &["auto, fentry, kprobe or tracepoint"]),
        (&["--status-codes", "200,9000"], &["9000", "100 to 599"]),
        (&["--host-id", "a;b"], &["a;b"]),
        (&["totals", "--output", "yaml"], &["yaml", "table", "json"]),
    ];
    for (args, words) in cases {
        refused(&mut agent(args), 2, words);
    }
}

#[test]
fn a_plugin_directory_without_room_for_a_socket_is_refused() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x".repeat(108));
    let path = path.to_str().unwrap();
    refused(&mut agent(&["run", "--plugin-dir", path]), 2, &["107", "shorter"]);
    let config = dir.path().join("agent.yaml");
    fs::write(&config, format!("pluginDir: {path}\n")).unwrap();
    let config = config.to_str().unwrap();
    refused(
        &mut agent(&["run", "--config", config]),
        1,
        &["line 1", "107", "shorter"],
    );
}

#[test]
fn bad_environment_is_refused() {
    let _turn = Turn::of(module_path!());
    refused(
        agent(&["check"]).env("SCOPE_HTTP_STATISTICS_HOOK", "uprobe"),
        2,
        &["--hook", "fentry"],
    );
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    let _turn = Turn::of(module_path!());
    refused(
        &mut agent(&["run", "--interval", "100ms", "--history", "10m"]),
        1,
        &["600"],
    );
}

#[test]
fn a_configuration_file_that_cannot_be_read_is_refused() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.yaml");
    let missing = missing.to_str().unwrap();
    refused(
        &mut agent(&["run", "--config", missing]),
        1,
        &[missing, "--config"],
    );
    let path = dir.path().to_str().unwrap();
    refused(&mut agent(&["run", "--config", path]), 1, &[path, "--config"]);
}

#[test]
fn a_bad_configuration_file_is_refused_with_its_line() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    let cases = [
        ("interval: 1s\nhok: auto\n", "line 2", "hook"),
        ("interval: 1s\nhook: uprobe\n", "line 2", "fentry"),
        ("# nothing\ninterval: never\n", "line 2", "500ms"),
        ("statusCodes: [20]\n", "line 1", "100 to 599"),
        ("interval: [\n", "line", ""),
    ];
    for (text, line, fix) in cases {
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        refused(&mut agent(&["run", "--config", path]), 1, &[path, line, fix]);
    }
}

#[test]
fn flags_come_before_environment_before_file() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    fs::write(&path, "hostId: from-file\n").unwrap();
    let host_id = |command: &mut Command| {
        let Output { stdout, .. } = command.output().unwrap();
        let check: Value = serde_json::from_slice(&stdout).unwrap();
        let rows = check["checks"].as_array().unwrap();
        let row = rows.iter().find(|row| row["check"] == "host id").unwrap();
        row["detail"]
            .as_str()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut check = agent(&["check", "--output", "json", "--config", path.to_str().unwrap()]);
    check.env("NODE_NAME", "from-node-name");
    assert_eq!(host_id(&mut check), "from-file");
    check.env("SCOPE_HTTP_STATISTICS_HOST_ID", "from-environment");
    assert_eq!(host_id(&mut check), "from-environment");
    check.args(["--host-id", "from-flag"]);
    assert_eq!(host_id(&mut check), "from-flag");
    let mut check = agent(&["check", "--output", "json"]);
    assert_eq!(
        host_id(check.env("NODE_NAME", "from-node-name")),
        "from-node-name"
    );
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(host_id(check.env_remove("NODE_NAME")), name.trim());
}

#[test]
fn commands_that_need_an_agent_say_how_to_start_one() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let commands: [&[&str]; 5] = [
        &["totals"],
        &["totals", "--output", "json"],
        &["report"],
        &["report", "--table"],
        &["healthcheck"],
    ];
    for command in commands {
        refused(
            agent(command).args(["--plugin-dir", path]),
            1,
            &["no agent listens", path, "run"],
        );
    }
    assert!(is_empty(dir.path()));
}

#[test]
fn a_second_agent_is_refused_by_the_firsts_pid() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("http-statistics")).unwrap();
    let _first = UnixListener::bind(socket(&dir)).unwrap();
    let path = dir.path().to_str().unwrap();
    let owner = format!("process {} ", std::process::id());
    refused(
        &mut agent(&["run", "--plugin-dir", path]),
        1,
        &[&owner, "--plugin-dir"],
    );
    assert!(socket(&dir).exists());
}

/// Else a container would be ready before its agent is there, because the one that it replaces answers.
#[test]
fn who_has_a_socket_of_its_own_is_not_taken_for_another() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let _other = Running::start_and_wait(path);
    let own = tempfile::tempdir().unwrap();
    let own = own.path().join("own.sock");
    for command in [
        &["healthcheck"][..],
        &["healthcheck", "--ready"],
        &["totals"],
        &["report"],
    ] {
        let mut command = agent(command);
        command
            .args(["--plugin-dir", path])
            .arg("--standby-socket")
            .arg(&own);
        refused(&mut command, 1, &["no agent listens", own.to_str().unwrap()]);
    }
    let inside = dir.path().join("own.sock");
    refused(
        agent(&["run", "--plugin-dir", path])
            .arg("--standby-socket")
            .arg(&inside),
        1,
        &["takes every socket for a plugin", "another place"],
    );
}

#[test]
fn what_is_no_socket_is_refused() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("http-statistics")).unwrap();
    fs::write(socket(&dir), "precious").unwrap();
    let path = dir.path().to_str().unwrap();
    refused(
        &mut agent(&["run", "--plugin-dir", path]),
        1,
        &["no socket", "remove it"],
    );
    assert_eq!(fs::read_to_string(socket(&dir)).unwrap(), "precious");
}

/// The agent as `nobody`, who cannot enter the build's directory: from a copy.
fn as_nobody(dir: &TempDir) -> Command {
    let copy = dir.path().join("agent");
    // Not by this process: other tests' children would inherit the file while it is open for writing, and nobody could
    // execute it (ETXTBSY).
    assert!(
        Command::new("cp")
            .arg(BINARY)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    for path in [dir.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

#[test]
fn without_root_the_capabilities_are_named() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let mut command = as_nobody(&dir);
    let plugins = dir.path().join("plugins");
    let path = plugins.to_str().unwrap();
    refused(
        command.args(["run", "--plugin-dir", path]),
        1,
        &["sudo", "CAP_BPF", "CAP_PERFMON"],
    );
    assert!(!plugins.exists());

    fs::create_dir(&plugins).unwrap();
    fs::set_permissions(&plugins, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&mut command, 1, &["sudo", "CAP_BPF", "CAP_PERFMON"]);

    let output = as_nobody(&dir).arg("hook").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && told.starts_with("none\n") && told.contains("CAP_BPF"),
        "{told}"
    );
    assert!(is_empty(&plugins), "its socket is removed again");
}

#[test]
fn a_configuration_file_without_permission_is_refused() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let mut command = as_nobody(&dir);
    let config = dir.path().join("agent.yaml");
    fs::write(&config, "interval: 1s\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    refused(
        command.arg("--config").arg(&config),
        1,
        &["Permission denied", "--config"],
    );
}

/// The agent in a mount namespace of its own, where `script` has mounted something. It finds `dir` as `$1`.
fn after_mounting(script: &str, dir: &Path, args: &[&str]) -> Command {
    let script = format!("{script} && agent=$0 && shift && exec \"$agent\" \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, BINARY])
        .arg(dir)
        .args(args);
    command
}

#[test]
fn without_btf_the_kernel_option_is_named() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let (empty, short) = (dir.path().join("empty"), dir.path().join("short"));
    fs::write(&empty, "").unwrap();
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    fs::write(&short, &btf[..btf.len() / 2]).unwrap();
    let plugins = dir.path().join("plugins");
    let run = ["run", "--plugin-dir", plugins.to_str().unwrap()];
    for script in [
        "mount -t tmpfs none /sys/kernel/btf",
        "mount --bind \"$1/empty\" /sys/kernel/btf/vmlinux",
        "mount --bind \"$1/short\" /sys/kernel/btf/vmlinux",
    ] {
        let mut command = after_mounting(script, dir.path(), &run);
        refused(&mut command, 1, &["vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
        assert!(!plugins.exists(), "{script}");
    }
}

#[test]
fn a_read_only_plugin_directory_is_refused() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let read_only = "mount -t tmpfs -o ro none \"$1\"";
    let mut run = after_mounting(read_only, dir.path(), &["run", "--plugin-dir", path]);
    refused(&mut run, 1, &["Read-only file system", "--plugin-dir"]);

    let mut check = after_mounting(read_only, dir.path(), &["check", "--plugin-dir", path]);
    let Output { status, stdout, .. } = check.output().unwrap();
    let table = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(1), "{table}");
    let row = table
        .lines()
        .find(|line| line.starts_with("plugin directory"))
        .unwrap();
    assert!(
        row.contains("missing") && row.contains("Read-only file system"),
        "{row}"
    );
}

/// A real agent. Killed when dropped.
struct Running(Child);

impl Running {
    fn start(plugin_dir: &str) -> Self {
        let mut command = agent(&["run", "--plugin-dir", plugin_dir]);
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn start_and_wait(plugin_dir: &str) -> Self {
        let mut running = Self::start(plugin_dir);
        wait_for("the agent to be ready", || {
            assert_eq!(running.0.try_wait().unwrap(), None, "it needs root and BTF");
            let mut healthcheck = agent(&["healthcheck", "--ready", "--plugin-dir", plugin_dir]);
            healthcheck.output().unwrap().status.success()
        });
        running
    }

    /// The ids of the programs that it holds.
    fn programs(&self) -> BTreeSet<u32> {
        let id = |info: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        };
        fs::read_dir(format!("/proc/{}/fdinfo", self.0.id()))
            .unwrap()
            .filter_map(|descriptor| id(&fs::read_to_string(descriptor.ok()?.path()).ok()?))
            .collect()
    }

    /// Sends the signal, returns the exit code.
    #[track_caller]
    fn signal(mut self, name: &str) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
        wait_for("the agent to end", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// The kernel frees programs some time after their last user is gone.
#[track_caller]
fn wait_until_unloaded(programs: &BTreeSet<u32>) {
    assert!(!programs.is_empty());
    wait_for("the kernel to forget the agent's programs", || {
        !aya::programs::loaded_programs()
            .flatten()
            .any(|program| programs.contains(&program.id()))
    });
}

#[test]
fn an_agent_that_is_killed_leaves_nothing_that_the_next_one_minds() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let first = Running::start_and_wait(path);
    let owner = format!("process {} ", first.0.id());
    refused(
        &mut agent(&["run", "--plugin-dir", path]),
        1,
        &[&owner, "stop it"],
    );
    let programs = first.programs();
    assert_eq!(first.signal("KILL"), None);
    wait_until_unloaded(&programs);
    assert!(socket(&dir).exists());

    let second = Running::start_and_wait(path);
    let programs = second.programs();
    assert_eq!(second.signal("INT"), Some(0));
    wait_until_unloaded(&programs);
    assert!(is_empty(dir.path()), "also what the first one left is gone");
}

/// Scope's probe in miniature: a process that polls, with this environment.
struct Poller(Child);

impl Poller {
    fn start(socket: &Path, host_name: &str) -> Self {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--rate",
                "5/s",
                "--output",
                "/dev/null",
                "--unix-socket",
            ])
            .arg(socket)
            .arg("http://plugin/report?api_version=1&probe_id=99f6914cc717fa5&n=[1-1000]")
            .env("SCOPE_HOSTNAME", host_name);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_running_agent_goes_by_the_name_that_scopes_probe_has_for_this_host() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let agent = Running::start_and_wait(path);
    let row = || {
        let (_, found) = check(&["check", "--output", "json", "--plugin-dir", path]);
        let rows = found["checks"].as_array().unwrap();
        let row = rows.iter().find(|row| row["check"] == "host id").unwrap();
        row["detail"].as_str().unwrap().to_owned()
    };
    assert!(row().contains("no probe of Scope polls"), "{}", row());
    let _poller = Poller::start(&socket(&dir), "from-the-probe");
    wait_for("the probe's name", || {
        row().starts_with("from-the-probe (SCOPE_HOSTNAME of Scope's probe) in the running agent")
    });
    assert_eq!(agent.signal("TERM"), Some(0));
}

/// In a container the plugin directory is a mount. One that was deleted and made anew on the host can only be seen by a new
/// container.
#[test]
fn an_agent_whose_mounted_directory_was_deleted_ends() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let (host, mount) = (dir.path().join("host"), dir.path().join("mount"));
    for path in [&host, &mount] {
        fs::create_dir(path).unwrap();
    }
    let plugins = mount.to_str().unwrap();
    let mut command = after_mounting(
        "mount --bind \"$1/host\" \"$1/mount\"",
        dir.path(),
        &["run", "--plugin-dir", plugins],
    );
    let mut agent = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    wait_for("the socket", || {
        host.join("http-statistics/http-statistics.sock").exists()
    });
    fs::remove_dir_all(&host).unwrap();
    fs::create_dir(&host).unwrap();
    wait_for("the agent to end", || agent.0.try_wait().unwrap().is_some());
    assert_eq!(agent.0.wait().unwrap().code(), Some(1));
    let mut log = String::new();
    agent.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with("error: ") && last.contains("restart the agent's container"),
        "{log}"
    );
}

#[test]
fn an_agent_that_is_still_starting_can_be_stopped() {
    let _turn = Turn::of(module_path!());
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let starting = Running::start(dir.path().to_str().unwrap());
        wait_for("the socket", || socket(&dir).exists());
        assert_eq!(starting.signal(signal), Some(0), "{signal}");
        assert!(is_empty(dir.path()), "{signal}");
    }
}

fn check(args: &[&str]) -> (i32, Value) {
    let Output {
        status,
        stdout,
        stderr,
    } = agent(args).output().unwrap();
    assert_eq!(String::from_utf8(stderr).unwrap(), "");
    (status.code().unwrap(), serde_json::from_slice(&stdout).unwrap())
}

/// Hooks of this machine, and whether they can be used.
fn hooks() -> Vec<(String, bool)> {
    let (_, found) = check(&["check", "--output", "json"]);
    let rows = found["checks"].as_array().unwrap();
    let hook = |row: &Value| {
        let name = row["check"].as_str()?.strip_prefix("hook ")?;
        Some((name.to_owned(), row["state"] == "ok"))
    };
    rows.iter().filter_map(hook).collect()
}

#[test]
fn a_hook_that_cannot_be_used_here_is_refused() {
    let _turn = Turn::of(module_path!());
    let hooks = hooks();
    assert_eq!(hooks.len(), 3);
    for (hook, usable) in hooks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let (code, found) = check(&["check", "--output", "json", "--hook", &hook, "--plugin-dir", path]);
        assert_eq!(
            (code == 0, found["can_run"].as_bool().unwrap()),
            (usable, usable),
            "{hook}: {found}"
        );
        if !usable {
            refused(
                &mut agent(&["run", "--hook", &hook, "--plugin-dir", path]),
                1,
                &[&hook, "--hook auto"],
            );
        }
        assert!(is_empty(dir.path()));
    }
}

/// What the operator's init container does, and what it is believed to mean.
#[test]
fn the_hook_that_is_told_beforehand_is_the_one_that_the_agent_takes() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("termination-log");
    let path = file.to_str().unwrap();
    let asked = |args: &[&str]| {
        let output = agent(&[&["hook", "--into", path][..], args].concat())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
        fs::read_to_string(&file).unwrap()
    };
    let plugins = tempfile::tempdir().unwrap();
    let running = Running::start_and_wait(plugins.path().to_str().unwrap());
    let (_, totals) = check(&[
        "totals",
        "--output",
        "json",
        "--plugin-dir",
        plugins.path().to_str().unwrap(),
    ]);
    let told = asked(&[]);
    assert_eq!(told.lines().next(), totals["hook"].as_str(), "{told}");
    drop(running);

    for (hook, usable) in hooks() {
        let told = asked(&["--hook", &hook]);
        let first = if usable { hook.as_str() } else { "none" };
        assert_eq!(told.lines().next(), Some(first), "{told}");
        assert!(usable || told.contains("--hook auto"), "{told}");
    }
    let missing = dir.path().join("missing/file");
    refused(
        &mut agent(&["hook", "--into", missing.to_str().unwrap()]),
        1,
        &["missing/file", "--into"],
    );
}

/// Those of the operator's `securityMode: Capabilities`.
#[test]
fn three_capabilities_open_the_same_hook_as_all() {
    let _turn = Turn::of(module_path!());
    let hook = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        told.lines().next().unwrap().to_owned()
    };
    let with_all = hook(&mut agent(&["hook"]));
    assert_ne!(with_all, "none", "it needs root and BTF");
    let mut few = Command::new("setpriv");
    few.args([
        "--bounding-set=-all,+bpf,+perfmon,+sys_nice",
        "--no-new-privs",
        BINARY,
        "hook",
    ]);
    assert_eq!(hook(&mut few), with_all);
    // Without them, the kernel says no: the test can fail.
    let mut fewer = Command::new("setpriv");
    fewer.args(["--bounding-set=-all,+bpf,+sys_nice", BINARY, "hook"]);
    assert_eq!(hook(&mut fewer), "none");
}

#[test]
fn check_is_a_table_with_a_row_for_everything() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let Output { stdout, .. } = agent(&["check", "--plugin-dir", dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    let table = String::from_utf8(stdout).unwrap();
    let mut lines = table.lines();
    let titles = lines.next().unwrap();
    let state = titles.find("STATE").unwrap();
    let rows: Vec<&str> = lines.collect();
    for what in [
        "kernel",
        "BTF",
        "capabilities",
        "hook fentry",
        "hook kprobe",
        "hook tracepoint",
        "host id",
    ] {
        assert!(rows.iter().any(|row| row.starts_with(what)), "{what}: {table}");
    }
    for row in rows {
        let state = row[state..].split(' ').next().unwrap();
        assert!(["ok", "missing", "warning"].contains(&state), "{row}");
    }
}

#[test]
fn check_sees_what_is_in_the_way_of_the_socket() {
    let _turn = Turn::of(module_path!());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, found) = check(&[
        "check",
        "--output",
        "json",
        "--plugin-dir",
        file.to_str().unwrap(),
    ]);
    assert_eq!(code, 1);
    let rows = found["checks"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["check"] == "plugin directory")
        .unwrap();
    assert_eq!(row["state"], "missing", "{row}");
}
