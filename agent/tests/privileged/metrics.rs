//! `/metrics` as Prometheus sees it: the real agent and a real nginx, read by a real Prometheus and judged by `promtool`
//! (both of Debian's package `prometheus`, .ci/setup test).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::live::{Agent, Nginx, end, free_port, wait_for};
use testkit::turn::Turn;

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// One agent at a time: each test has its own nginx, but its agent sees all of them.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// An agent that serves metrics on a port.
fn start_agent() -> (Agent, u16) {
    let port = free_port();
    let agent = Agent::start_with("tracepoint", &["--metrics-address", &port.to_string()]);
    (agent, port)
}

/// `GET <path>`: head and body.
fn get(port: u16, path: &str, accept: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    Ok((head.to_owned(), body.to_owned()))
}

/// Every counter and its value.
fn counters(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            series
                .split('{')
                .next()
                .is_some_and(|name| name.ends_with("_total"))
        })
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// The sum of the series that contain all of these.
fn sum(counters: &BTreeMap<String, f64>, words: &[impl AsRef<str>]) -> f64 {
    let matching = counters
        .iter()
        .filter(|(series, _)| words.iter().all(|word| series.contains(word.as_ref())));
    matching.map(|(_, value)| value).sum()
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (.ci/setup test)");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("promtool ends");
    // One that does not read its input says so by its exit code.
    let _written = writer.join().expect("the writer");
    output
}

fn said(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(stdout),
        String::from_utf8_lossy(stderr)
    )
}

#[track_caller]
fn promtool_accepts(arguments: &[&str], input: &str) {
    let output = promtool(arguments, input);
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}\n{input}",
        said(&output)
    );
    // A warning is an exit code of 0.
    let said = said(&output);
    assert!(
        arguments[1] != "metrics" || said.trim().is_empty(),
        "promtool: {said}"
    );
}

fn chart_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/scope-http-statistics/files")
        .join(name)
}

#[test]
fn promtool_has_nothing_to_say_against_the_metrics() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (agent, port) = start_agent();
    let nginx = Nginx::start();
    nginx.load(3, 24);
    wait_for("nginx in the metrics", || {
        let (_, text) = get(port, "/metrics", "*/*").ok()?;
        (sum(&counters(&text), &["http_server_requests", "\"nginx\""]) > 0.0).then_some(())
    });
    let (head, classic) = get(port, "/metrics", "text/plain").expect("an answer");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    promtool_accepts(&["check", "metrics"], &classic);
    // The check can fail.
    let bad = classic.replace("# TYPE http_server_requests_total counter", "# TYPE x y");
    assert!(!promtool(&["check", "metrics"], &bad).status.success(), "{bad}");

    let (head, open) = get(port, "/metrics", OPEN_METRICS).expect("an answer");
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    for line in [
        "scope_http_statistics_hook_info{hook=\"tracepoint\"} 1",
        "scope_http_statistics_counters_readable 1",
    ] {
        assert!(open.lines().any(|it| it == line), "{line}: {open}");
    }
    assert!(open.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")));
    // Nothing else is served to whoever may be on another host.
    for path in ["/report", "/totals", "/overview"] {
        let (head, _) = get(port, path, "*/*").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
    }
    nginx.stop();
    agent.stop();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn the_programs_run_time_is_told_while_the_kernel_measures_it() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // As `sysctl kernel.bpf_stats_enabled=1` does, until it is dropped.
    let measuring = agent::bpf::measure_run_times().expect("root, and Linux 5.8");
    let (agent, port) = start_agent();
    let nginx = Nginx::start();
    let workers = nginx.workers();
    let sent = nginx.load(3, 24);
    wait_for("the agent to count", || {
        (agent.totals().of(&workers).0 == sent).then_some(())
    });
    let (runs, times) = wait_for("run times in the metrics", || {
        let (_, text) = get(port, "/metrics", OPEN_METRICS).ok()?;
        let now = counters(&text);
        let of = |name: &str| -> BTreeMap<String, f64> {
            let name = format!("scope_http_statistics_bpf_program_{name}_total");
            now.iter()
                .filter_map(|(series, value)| Some((series.strip_prefix(&name)?.to_owned(), *value)))
                .collect()
        };
        let (runs, times) = (of("runs"), of("run_time_seconds"));
        // Each request and each response is at least one run.
        (runs.values().sum::<f64>() >= 2.0 * number(sent)).then_some((runs, times))
    });
    assert_eq!(runs.keys().collect::<Vec<_>>(), times.keys().collect::<Vec<_>>());
    for (program, runs) in &runs {
        let time = times[program];
        // A run takes more than nothing and less than a second.
        assert!(
            (time > 0.0) == (*runs > 0.0),
            "{program}: {time} s in {runs} runs"
        );
        assert!(time < *runs || *runs == 0.0, "{program}: {time} s in {runs} runs");
    }
    drop(measuring);
    nginx.stop();
    agent.stop();
}

#[test]
fn counters_equal_the_access_log_and_never_fall() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (agent, port) = start_agent();
    let mut before = BTreeMap::new();
    let mut look = || {
        let (_, text) = get(port, "/metrics", OPEN_METRICS).expect("an answer");
        let now = counters(&text);
        for (series, value) in &before {
            assert!(now.get(series) >= Some(value), "{series} was {value}: {text}");
        }
        before.clone_from(&now);
        now
    };
    // Nobody else's processes are called so.
    let name = format!("nginx-{}", std::process::id());
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    look();
    for _ in 0..3 {
        let nginx = Nginx::start_as(&name);
        let workers = nginx.workers();
        let mut sent = 0;
        // A process that is gone before the agent has seen it has no name.
        wait_for("both workers to have been seen", || {
            sent += nginx.load(4, 24);
            wait_for("the agent to count", || {
                (agent.totals().of(&workers).0 == sent).then_some(())
            });
            let seen = |worker: &u32| agent.totals().of(&BTreeSet::from([*worker])).0 > 0;
            workers.iter().all(seen).then_some(())
        });
        sent += nginx.load(4, 24);
        *expected.entry("requests".to_owned()).or_default() += sent;
        for (code, count) in nginx.logged() {
            *expected.entry(code).or_default() += count;
        }
        // It ends before the agent has looked again, or after: either way.
        nginx.stop();
        look();
    }
    let complete = |now: &BTreeMap<String, f64>| {
        expected
            .iter()
            .all(|(what, count)| sum(now, &words(&name, what)) >= number(*count))
    };
    wait_for("all of it in the metrics", || complete(&look()).then_some(()));
    // Nor do they while processes are forgotten.
    let mut now = look();
    for _ in 0..20 {
        now = look();
        thread::sleep(Duration::from_millis(200));
    }
    for (what, count) in &expected {
        let series = words(&name, what);
        assert!(
            (sum(&now, &series) - number(*count)).abs() < 0.5,
            "{series:?}: {count} {now:?}"
        );
    }
    agent.stop();
}

/// What the series of a status code, or of `requests`, of the processes of this name contain.
fn words(name: &str, what: &str) -> [String; 3] {
    let process = format!("process_executable_name=\"{name}\"");
    if what == "requests" {
        ["http_server_requests_total".to_owned(), process, String::new()]
    } else {
        let code = format!("http_response_status_code=\"{what}\"");
        ["http_server_responses_total".to_owned(), process, code]
    }
}

#[expect(clippy::cast_precision_loss, reason = "some hundred")]
fn number(count: u64) -> f64 {
    count as f64
}

/// A running Prometheus that scrapes one agent every second.
struct Prometheus {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Prometheus {
    fn start(agent: u16) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let configuration = directory.path().join("prometheus.yml");
        let rules = chart_file("rules.yaml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n  \
             - job_name: scope-http-statistics-agent\n    static_configs: [{{targets: ['127.0.0.1:{agent}']}}]\n",
            rules.display()
        );
        fs::write(&configuration, text).expect("a configuration");
        let port = free_port();
        let log = fs::File::create(directory.path().join("log")).expect("a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one log for both"))
            .stderr(log)
            .spawn()
            .expect("prometheus is installed (.ci/setup test)");
        Self {
            child,
            port,
            directory,
        }
    }

    fn api(&self, path: &str) -> Option<Value> {
        let (_, body) = get(self.port, &format!("/api/v1/{path}"), "*/*").ok()?;
        // Its answers may come in chunks; the document is from the first brace to the last.
        let document = body.get(body.find('{')?..=body.rfind('}')?)?;
        let answer: Value = serde_json::from_str(document).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The result of an expression.
    fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let query = expression.bytes().fold(String::new(), |query, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => query + &char::from(byte).to_string(),
            _ => query + &format!("%{byte:02X}"),
        });
        self.api(&format!("query?query={query}"))?["result"]
            .as_array()
            .cloned()
    }

    fn value(&self, expression: &str) -> Option<f64> {
        let result = self.query(expression)?;
        result.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        end(&mut self.child);
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let _ = writeln!(io::stderr(), "prometheus said:\n{log}");
        }
    }
}

/// The expressions of all panels of the dashboard, its variables filled in.
fn dashboard_expressions() -> Vec<String> {
    let text = fs::read_to_string(chart_file("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    expressions
        .map(|expression| {
            expression
                .replace("$__rate_interval", "5s")
                .replace("$namespace", ".*")
                .replace("$pod", ".*")
                .replace("$instance", ".*")
        })
        .collect()
}

#[test]
fn a_real_prometheus_scrapes_what_the_log_says_and_every_panel_has_something_to_show() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (agent, port) = start_agent();
    let prometheus = Prometheus::start(port);
    wait_for("the first scrape", || {
        (prometheus.value("up{job=\"scope-http-statistics-agent\"}") == Some(1.0)).then_some(())
    });
    let name = format!("nginx-{}", std::process::id());
    let nginx = Nginx::start_as(&name);
    let sent = nginx.load(4, 48);
    let logged = nginx.logged();
    let selector = format!("process_executable_name=\"{name}\"");
    wait_for("all requests in Prometheus", || {
        let requests = prometheus.value(&format!("sum(http_server_requests_total{{{selector}}})"))?;
        (requests >= number(sent)).then_some(())
    });
    let by_code = format!("sum by (http_response_status_code) (http_server_responses_total{{{selector}}})");
    let expected: BTreeMap<String, String> = logged
        .iter()
        .map(|(code, count)| (code.clone(), count.to_string()))
        .collect();
    wait_for("the responses of nginx's log in Prometheus", || {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let responses: BTreeMap<String, String> = prometheus
            .query(&by_code)?
            .iter()
            .map(|it| {
                (
                    text(&it["metric"]["http_response_status_code"]),
                    text(&it["value"][1]),
                )
            })
            .collect();
        (responses == expected).then_some(())
    });
    let metadata = prometheus.api("metadata").expect("metadata");
    for (name, kind) in [
        ("http_server_requests", "counter"),
        ("scope_http_statistics_hook", "info"),
        ("scope_http_statistics_tick_duration_seconds", "histogram"),
    ] {
        assert_eq!(metadata[name][0]["type"], kind, "{metadata}");
    }

    let expressions = dashboard_expressions();
    assert!(expressions.len() >= 8, "{expressions:?}");
    for expression in expressions {
        wait_for(&expression, || {
            // There must be something to see while there is traffic.
            nginx.load(1, 8);
            let result = prometheus.query(&expression)?;
            (!result.is_empty()).then_some(())
        });
    }
    let rules = prometheus.api("rules").expect("the rules are loaded");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    assert!(rules.len() >= 4, "{rules:?}");
    for rule in &rules {
        wait_for("the rules to be evaluated", || {
            let rules = prometheus.api("rules")?;
            let rules = rules["groups"][0]["rules"].as_array()?.clone();
            let now = rules.iter().find(|now| now["name"] == rule["name"])?.clone();
            (now["health"] == "ok").then_some(())
        });
    }
    nginx.stop();
    drop(prometheus);
    agent.stop();
}

#[test]
fn the_alert_rules_are_right() {
    let _turn = Turn::of(module_path!());
    let rules = chart_file("rules.yaml");
    promtool_accepts(&["check", "rules", rules.to_str().expect("text")], "");
    // What fires, and what does not.
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/privileged/metrics/rules.yaml");
    promtool_accepts(&["test", "rules", tests.to_str().expect("text")], "");
}

#[test]
fn the_port_is_refused_if_it_is_taken() {
    let _turn = Turn::of(module_path!());
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let directory = TempDir::new().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"))
        .args(["run", "--metrics-address", &port, "--plugin-dir"])
        .arg(directory.path())
        .output()
        .expect("the agent runs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains(&port) && said(&output).contains("another --metrics-address"),
        "{}",
        said(&output)
    );
    assert!(
        fs::read_dir(directory.path())
            .expect("the directory")
            .next()
            .is_none(),
        "it leaves nothing"
    );
}

#[test]
fn the_port_moves_with_the_configuration_file() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("agent.yaml");
    let configure = |text: &str| fs::write(&file, text).expect("a configuration");
    configure("interval: 1s\n");
    let agent = Agent::start_with("tracepoint", &["--config", file.to_str().expect("text")]);
    let serves = |address: &str| {
        TcpStream::connect(address).is_ok_and(|mut stream| {
            let asked = write!(stream, "GET /metrics HTTP/1.0\r\n\r\n");
            let mut answer = String::new();
            asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 200")
        })
    };
    let (first, second) = (free_port(), free_port());
    configure(&format!("metricsAddress: {first}\n"));
    wait_for("the first port", || {
        serves(&format!("127.0.0.1:{first}")).then_some(())
    });
    // The same port, of more addresses: the old one must go first.
    configure(&format!("metricsAddress: 0.0.0.0:{first}\n"));
    wait_for("all addresses", || {
        serves(&format!("127.0.0.2:{first}")).then_some(())
    });
    // One that is taken is waited for, and the agent goes on.
    let taken = std::net::TcpListener::bind(("127.0.0.1", second)).expect("a port");
    configure(&format!("metricsAddress: {second}\n"));
    wait_for("a line about it", || {
        agent.log().contains("metrics are not served").then_some(())
    });
    assert!(!serves(&format!("127.0.0.1:{first}")));
    drop(taken);
    wait_for("the second port", || {
        serves(&format!("127.0.0.1:{second}")).then_some(())
    });
    configure("interval: 1s\n");
    wait_for("no port", || {
        TcpStream::connect(("127.0.0.1", second)).is_err().then_some(())
    });
    agent.stop();
}
