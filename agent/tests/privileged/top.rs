//! `top` in a real terminal (tmux, .ci/setup test), over a real agent and a real nginx; and its plain output.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::live::{Agent, Nginx, wait_for};
use testkit::turn::Turn;

const BINARY: &str = env!("CARGO_BIN_EXE_scope-http-statistics-agent");
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// One agent at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A shell in a terminal, 80 by 24.
struct Terminal {
    /// Of a tmux of its own.
    socket: String,
}

impl Terminal {
    fn start(variables: &[(&str, &str)]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let terminal = Self {
            socket: format!("scope-http-statistics-{}-{number}", std::process::id()),
        };
        let (columns, lines) = (COLUMNS.to_string(), LINES.to_string());
        let mut tmux = terminal.command();
        // An agent of the surroundings must not be found by what they set.
        tmux.args([
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &lines,
        ]);
        tmux.arg("env -u NO_COLOR -u LC_ALL PS1='$ ' LANG=C.UTF-8 sh");
        for (name, value) in variables {
            tmux.env(name, value);
        }
        let status = tmux.status().expect("tmux is installed (.ci/setup test)");
        assert!(status.success(), "tmux: {status}");
        terminal
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.socket]).stdin(Stdio::null());
        command
    }

    /// Keys as tmux names them.
    #[track_caller]
    fn press(&self, keys: &[&str]) {
        let status = self
            .command()
            .arg("send-keys")
            .args(keys)
            .status()
            .expect("tmux runs");
        assert!(status.success(), "tmux: {status}");
    }

    /// Types a line.
    fn enter(&self, line: &str) {
        self.press(&["-l", line]);
        self.press(&["Enter"]);
    }

    fn capture_with(&self, arguments: &[&str]) -> String {
        let output = self
            .command()
            .args(["capture-pane", "-p"])
            .args(arguments)
            .output();
        String::from_utf8(output.expect("tmux runs").stdout).expect("UTF-8")
    }

    /// What is on the screen.
    fn capture(&self) -> String {
        self.capture_with(&[])
    }

    /// Waits for a screen that is as it should.
    #[track_caller]
    fn wait(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let screen = self.capture();
            if is(&screen) {
                return screen;
            }
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "waited in vain for {what}; the screen is\n{screen}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended = self.command().arg("kill-server").output();
    }
}

/// The words of the row that begins with this PID or name.
fn row(screen: &str, first: &str) -> Option<Vec<String>> {
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    screen
        .lines()
        .map(words)
        .find(|words| words.first().is_some_and(|word| word == first))
}

fn titles(screen: &str) -> String {
    let line = screen.lines().nth(3).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn name() -> String {
    format!("nginx-{}", std::process::id())
}

#[test]
fn a_terminal_shows_what_nginx_logs_and_takes_keys() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let agent = Agent::start("tracepoint");
    let nginx = Nginx::start_as(&name());
    let terminal = Terminal::start(&[]);
    let directory = agent.socket();
    let directory = directory.ancestors().nth(2).expect("the plugin directory");
    terminal.enter(&format!(
        "{BINARY} top --plugin-dir {}; echo ended with $?",
        directory.display()
    ));
    terminal.wait("the table", |screen| {
        titles(screen) == "PID COMMAND REQ/S 2XX/S 3XX/S 4XX/S 5XX/S REQUESTS MINUTE"
    });

    // Sorted by name our rows are found, however many others there are.
    let sent = nginx.load(6, 48);
    let logged = nginx.logged();
    terminal.press(&["/"]);
    terminal.enter(&name());
    // The workers are on the screen with all that they did, and with a minute's rates.
    let workers = nginx.workers();
    let total = |screen: &str| -> u64 {
        workers
            .iter()
            .filter_map(|pid| row(screen, &pid.to_string()))
            .map(|words| words[7].parse::<u64>().expect("REQUESTS"))
            .sum()
    };
    let screen = terminal.wait("all requests", |screen| total(screen) == sent);
    assert!(screen.contains(&format!("/ filter:{}", name())), "{screen}");
    for line in screen.lines() {
        assert!(line.chars().count() <= COLUMNS, "{line:?}");
    }
    let bars = |screen: &str| screen.contains('█');
    terminal.wait("a sparkline", bars);
    // The exact codes of the selected row.
    let first = terminal.capture();
    let detail = first.lines().nth(19).unwrap_or_default().to_owned();
    let pid: u32 = detail
        .split_whitespace()
        .nth(1)
        .and_then(|pid| pid.parse().ok())
        .expect("a PID");
    assert!(workers.contains(&pid), "{first}");
    let shown: Vec<&str> = first.lines().skip(21).take(2).collect();
    assert!(
        shown.iter().any(|line| line.contains("200 ")) && logged.contains_key("200"),
        "{first}"
    );

    // Colours on a terminal.
    assert!(
        terminal.capture_with(&["-e"]).contains("\u{1b}[38;5;2m"),
        "no green: {first}"
    );

    terminal.press(&["p"]);
    terminal.wait("the pause", |screen| screen.contains("PAUSED"));
    let more = nginx.load(1, 24);
    // It would have come by now.
    wait_for("the agent to count", || {
        (agent.totals().of(&workers).0 == sent + more).then_some(())
    });
    thread::sleep(Duration::from_secs(3));
    assert_eq!(total(&terminal.capture()), sent, "paused");
    terminal.press(&["p"]);
    terminal.wait("what came in between", |screen| total(screen) == sent + more);

    terminal.press(&["Escape"]);
    for title in ["CONTAINER", "POD", "PID"] {
        terminal.press(&["g"]);
        terminal.wait(title, |screen| titles(screen).starts_with(title));
    }
    terminal.press(&["s"]);
    terminal.wait("the order", |screen| screen.contains("sort:errors"));

    // However small it becomes, and large again.
    for (columns, lines) in [("20", "5"), ("200", "50")] {
        let resized = terminal
            .command()
            .args(["resize-window", "-x", columns, "-y", lines])
            .status();
        assert!(resized.expect("tmux runs").success());
        terminal.press(&["Down"]);
    }
    terminal.wait("the wide table", |screen| titles(screen).contains("WHERE"));

    agent.stop();
    terminal.wait("that the agent is gone", |screen| {
        screen.contains("no agent listens")
    });
    terminal.press(&["q"]);
    // The terminal is as before: it takes lines, and echoes.
    terminal.wait("the end", |screen| screen.contains("ended with 0"));
    terminal.enter("stty -a");
    let settings = terminal.wait("the settings", |screen| screen.contains("icanon"));
    let words: Vec<&str> = settings.split_whitespace().collect();
    assert!(words.contains(&"icanon") && words.contains(&"echo"), "{settings}");
    nginx.stop();
}

#[test]
fn top_counts_itself_where_no_agent_runs() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = TempDir::new().expect("a temporary directory");
    let nginx = Nginx::start_as(&name());
    let terminal = Terminal::start(&[]);
    // In ASCII and without colours, where that is asked for.
    terminal.enter(&format!(
        "NO_COLOR=1 LC_ALL=C {BINARY} top --hook tracepoint --filter {} --plugin-dir {}; echo ended with $?",
        name(),
        directory.path().display()
    ));
    terminal.wait("it to attach", |screen| screen.contains("attached by top"));
    let sent = nginx.load(2, 24);
    let workers = nginx.workers();
    terminal.wait("all requests", |screen| {
        let totals = workers
            .iter()
            .filter_map(|pid| row(screen, &pid.to_string())?.get(7)?.parse::<u64>().ok());
        totals.sum::<u64>() == sent
    });
    let plain = terminal.wait("a sparkline", |screen| screen.contains('#'));
    assert!(!plain.contains('█'), "{plain}");
    let escapes = terminal.capture_with(&["-e"]);
    for color in ["38;", "31m", "32m", "33m", "36m"] {
        assert!(!escapes.contains(color), "{escapes:?}");
    }
    assert!(is_empty(directory.path()), "it serves nobody");
    terminal.press(&["C-c"]);
    // The shell's own screen is back.
    terminal.wait("the end", |screen| {
        screen.contains("ended with 0") && !screen.contains("REQ/S")
    });
    nginx.stop();
}

#[test]
fn top_ends_with_its_terminal() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = TempDir::new().expect("a temporary directory");
    let terminal = Terminal::start(&[]);
    terminal.enter(&format!(
        "exec {BINARY} top --hook tracepoint --plugin-dir {}",
        directory.path().display()
    ));
    terminal.wait("it to attach", |screen| screen.contains("attached by top"));
    let pid = terminal
        .command()
        .args(["display-message", "-p", "#{pane_pid}"])
        .output()
        .expect("tmux runs")
        .stdout;
    let process = format!("/proc/{}", String::from_utf8_lossy(&pid).trim());
    assert!(Path::new(&process).join("exe").exists(), "{process}");
    drop(terminal);
    wait_for("top to end", || (!Path::new(&process).exists()).then_some(()));
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory)
        .expect("the directory")
        .next()
        .is_none()
}

fn top(directory: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(BINARY)
        .arg("top")
        .args(arguments)
        .arg("--plugin-dir")
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .expect("top runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn scripts_get_plain_tables_and_json() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let agent = Agent::start("tracepoint");
    let nginx = Nginx::start_as(&name());
    let sent = nginx.load(3, 24);
    let workers = nginx.workers();
    let socket = agent.socket();
    let directory = socket.ancestors().nth(2).expect("the plugin directory");
    let filter = name();
    let json = wait_for("all requests", || {
        let output = top(
            directory,
            &[
                "--once", "--output", "json", "--filter", &filter, "--sort", "total",
            ],
        );
        let listing: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let rows = listing["rows"].as_array().expect("rows");
        let total: u64 = rows.iter().filter_map(|row| row["requests"].as_u64()).sum();
        (total == sent).then_some(listing)
    });
    assert_eq!(json["by"], "process");
    assert_eq!(json["hook"], "tracepoint");
    let mut responses = testkit::live::Codes::new();
    for row in json["rows"].as_array().expect("rows") {
        assert_eq!(row["name"], filter.as_str());
        let pid = row["pid"].as_u64().expect("a PID");
        assert!(workers.iter().any(|worker| u64::from(*worker) == pid), "{row}");
        for (code, count) in row["responses"].as_object().expect("responses") {
            *responses.entry(code.clone()).or_default() += count.as_u64().expect("a count");
        }
    }
    assert_eq!(responses, nginx.logged(), "code by code");

    for (arguments, title) in [
        (&["--once"][..], "PID"),
        (&["--once", "--output", "table", "--by", "container"], "CONTAINER"),
        (&["--once", "--by", "pod"], "POD"),
    ] {
        let output = top(directory, arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.trim_start().starts_with(title), "{arguments:?}: {text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(
            text.contains("not counted: ") && text.contains("hook: tracepoint"),
            "{text}"
        );
    }
    agent.stop();

    // With no agent it attaches itself, and waits for one tick.
    let empty = TempDir::new().expect("a temporary directory");
    let output = top(
        empty.path(),
        &["--once", "--output", "json", "--hook", "tracepoint"],
    );
    let listing: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(listing["date"].is_string(), "{listing}");
    assert!(is_empty(empty.path()));
    nginx.stop();
}
