//! The agent against servers as they are in use, each with its own way to do I/O, driven by curl, wrk and ab: its
//! totals per code must be what the server's own log says.
//!
//! Debian's packages (.ci/setup test). On the host with the hook `tracepoint`, in a virtual machine with all hooks
//! (`VM_KERNELS`), or with those that `TEST_HOOKS` names.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;
use testkit::live::{Agent, Codes, children_of, end, for_each_hook, free_port, signal, wait_for};
use testkit::turn::Turn;

/// One agent at a time keeps the losses apart.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How the code stands in a line of a server's log.
type CodeOf = fn(&str) -> Option<&str>;

fn first_word(line: &str) -> Option<&str> {
    line.split(' ').next()
}

/// A running server.
struct Server {
    child: Child,
    directory: PathBuf,
    port: u16,
    code_of: CodeOf,
    /// Its children serve, not the process that was started.
    has_workers: bool,
}

/// What a server is started with.
struct Setup {
    directory: PathBuf,
    port: u16,
    /// Where its log is to go.
    log: PathBuf,
}

impl Setup {
    /// Writes a configuration and returns where it is.
    fn configure(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).expect("a configuration");
        path
    }
}

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/privileged/servers")
        .join(name)
}

/// Larger than a socket's buffer.
const LARGE: usize = 512 * 1024;

impl Server {
    #[track_caller]
    fn start(
        root: &Path,
        name: &str,
        code_of: CodeOf,
        has_workers: bool,
        command: impl FnOnce(&Setup) -> Command,
    ) -> Self {
        let directory = root.join(name);
        fs::create_dir(&directory).expect("a directory for the server");
        // For workers that are not root.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("an open directory");
        fs::create_dir(directory.join("pages")).expect("a directory for pages");
        fs::write(directory.join("pages/index.html"), "hello\n").expect("a page");
        fs::write(directory.join("pages/large.bin"), vec![b'x'; LARGE]).expect("a large page");
        let setup = Setup {
            log: directory.join("access.log"),
            port: free_port(),
            directory,
        };
        let output = File::create(setup.directory.join("output")).expect("a file for its output");
        let child = command(&setup)
            .current_dir(&setup.directory)
            .env("HOME", &setup.directory)
            // Apache ends all processes of its group.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("one file for both"))
            .stderr(output)
            .spawn()
            .expect("the server is installed (.ci/setup test)");
        let mut server = Self {
            child,
            directory: setup.directory,
            port: setup.port,
            code_of,
            has_workers,
        };
        // By connecting only: a request would have to be expected.
        wait_for("the server to listen", || {
            let ended = server.child.try_wait().expect("our child");
            assert!(ended.is_none(), "the server ended, {ended:?}: {}", server.said());
            TcpStream::connect(("127.0.0.1", setup.port)).ok()
        });
        if has_workers {
            wait_for("the server's workers", || (server.pids().len() > 1).then_some(()));
        }
        server
    }

    /// The processes that serve.
    fn pids(&self) -> BTreeSet<u32> {
        let pid = self.child.id();
        if self.has_workers {
            children_of(pid)
        } else {
            BTreeSet::from([pid])
        }
    }

    /// Final responses by code, as its log has them.
    fn logged(&self) -> Codes {
        let mut codes = Codes::new();
        for log in ["access.log", "output"] {
            let text = fs::read_to_string(self.directory.join(log)).unwrap_or_default();
            for code in text.lines().filter_map(|line| (self.code_of)(line)) {
                if code.len() == 3 && code.bytes().all(|it| it.is_ascii_digit()) {
                    *codes.entry(code.to_owned()).or_default() += 1;
                }
            }
        }
        codes
    }

    /// How many responses it has logged.
    fn lines(&self) -> u64 {
        self.logged().values().sum()
    }

    /// The end of what it printed.
    fn said(&self) -> String {
        let text = fs::read_to_string(self.directory.join("output")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Compares with the agent when the log has so many lines. A code below 200 is no line of its own.
    #[track_caller]
    fn assert_counted(&self, agent: &Agent, hook: &str, name: &str, sent: u64) {
        let logged = wait_for("the server to log the last request", || {
            let logged = self.logged();
            let lines: u64 = logged.values().sum();
            assert!(
                lines <= sent,
                "{name} logs {lines} requests, {sent} were sent: {logged:?}"
            );
            (lines == sent).then_some(logged)
        });
        assert!(logged.len() > 3, "not much of a mix: {logged:?}");
        // What a server logs before it has been sent may be sent a moment later.
        let pids = self.pids();
        let counted = || {
            let (requests, mut codes) = agent.totals().of(&pids);
            codes.retain(|code, _| !code.starts_with('1'));
            (requests, codes)
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while counted() != (sent, logged.clone()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(
            (counted(), agent.totals().losses()),
            ((sent, logged), Vec::new()),
            "{hook}: the agent with its losses (left) and the log of {name} (right); processes {pids:?}, {:?}; it said\n{}",
            agent.totals(),
            self.said()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
        // What it left behind, if it had to be killed.
        let group = self.child.id().try_into().expect("a pid is positive");
        // SAFETY: takes no pointers; the group is the server's own.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
}

/// Runs a client to its end; what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("curl, wrk and ab are installed (.ci/setup)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Requests of every kind by curl, wrk and ab, of which wrk's come in so many at a time; how many.
#[track_caller]
fn drive(server: &Server, directory: &Path, pipelined: u64) -> u64 {
    let port = server.port;
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let pages = [
        "/index.html",
        "/missing",
        "/moved",
        "/empty",
        "/broken",
        "/large.bin",
        "/chunked",
    ];
    let upload = directory.join("upload");
    fs::write(&upload, "GET / HTTP/1.1\r\n\r\n".repeat(5000)).expect("something to send");
    let mut sent = 0;
    let mut curl = |arguments: &[&str], paths: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--write-out",
                "%{http_code}\\n",
            ])
            .args(arguments);
        for path in paths {
            command.args(["--output", "/dev/null"]).arg(url(path));
        }
        // The client's own count of responses.
        let codes = run(&mut command);
        assert_eq!(codes.lines().count(), paths.len(), "{command:?}: {codes}");
        sent += paths.len() as u64;
    };
    let file = format!("@{}", upload.display());
    for _ in 0..3 {
        curl(&[], &pages);
        curl(&["--head"], &["/index.html", "/missing", "/large.bin"]);
        curl(&["--http1.0"], &["/index.html", "/chunked"]);
        curl(&["--data", "a=b"], &["/form", "/form"]);
        curl(
            &["--data-binary", &file, "--header", "Expect: 100-continue"],
            &["/form", "/form"],
        );
        curl(
            &["--data-binary", &file, "--header", "Transfer-Encoding: chunked"],
            &["/form", "/form"],
        );
        curl(
            &[
                "--data-binary",
                &file,
                "--header",
                "Transfer-Encoding: chunked",
                "--header",
                "Expect: 100-continue",
            ],
            &["/form"],
        );
    }

    for depth in [1, pipelined] {
        let (threads, wanted) = (4, 84);
        let mut wrk = Command::new("wrk");
        wrk.args([format!("--threads={threads}"), format!("--connections={threads}")])
            .args(["--duration=60s", "--timeout=60s", "--script"])
            .arg(source("load.lua"))
            .arg(url("/"))
            .args(["--", &wanted.to_string(), &depth.to_string()]);
        let wrk = wrk
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed (.ci/setup)");
        let requests = threads * wanted;
        // Its threads end by themselves, its main thread sleeps on.
        wait_for("the server to log what wrk has sent", || {
            (server.lines() >= sent + requests).then_some(())
        });
        signal(&wrk, libc::SIGINT);
        let output = wrk.wait_with_output().expect("wrk ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!(" {requests} requests in")), "{text}");
        assert!(!text.contains("Socket errors"), "{text}");
        sent += requests;
    }

    for (keeps, path) in [(false, "/index.html"), (true, "/missing"), (true, "/large.bin")] {
        let requests = 120;
        let mut ab = Command::new("ab");
        ab.args(["-q", "-l", "-n", &requests.to_string(), "-c", "8"]);
        if keeps {
            ab.arg("-k");
        }
        let text = run(ab.arg(url(path)));
        assert!(
            text.lines()
                .any(|it| it.starts_with("Complete requests:") && it.ends_with(&requests.to_string())),
            "{text}"
        );
        sent += requests;
    }
    sent
}

/// One server of its own for each hook.
fn totals_agree(name: &str, code_of: CodeOf, has_workers: bool, command: impl Fn(&Setup) -> Command) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_hook(|hook| {
        let root = TempDir::new().expect("a temporary directory");
        let agent = Agent::start(hook);
        let server = Server::start(root.path(), "server", code_of, has_workers, &command);
        let sent = drive(&server, root.path(), if name == "gunicorn" { 1 } else { 3 });
        server.assert_counted(&agent, hook, name, sent);
        drop(server);
        agent.stop();
    });
}

/// Apache httpd with one of its ways to share the work; static pages by `mmap` and `sendfile`, and a CGI program.
fn apache(setup: &Setup, model: &str) -> Command {
    let Setup { directory, port, log } = setup;
    let modules = "/usr/lib/apache2/modules";
    let script = directory.join("form");
    fs::write(
        &script,
        "#!/bin/sh\ncat >/dev/null\nprintf 'Status: %s\\r\\nContent-Type: text/plain\\r\\n\\r\\n' \"$CODE\"\n\
         [ \"$CODE\" = 204 ] || printf 'HTTP/1.1 500 No\\r\\n\\r\\n%.0s' 1 2 3\n",
    )
    .expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
    let directory = directory.display();
    // No process comes or goes by the load: what one that is gone has counted is its cgroup's.
    let processes = if model == "event" {
        "ServerLimit 2\nMaxRequestWorkers 50"
    } else {
        "MaxSpareServers 256"
    };
    let configuration = setup.configure(
        "apache.conf",
        &format!(
            "ServerRoot {directory}\nServerName test\nPidFile {directory}/pid\nErrorLog {directory}/error.log\n\
             LoadModule mpm_{model}_module {modules}/mod_mpm_{model}.so\n\
             LoadModule authz_core_module {modules}/mod_authz_core.so\nLoadModule alias_module {modules}/mod_alias.so\n\
             LoadModule env_module {modules}/mod_env.so\nLoadModule cgi_module {modules}/mod_cgi.so\n\
             Listen 127.0.0.1:{port}\nUser www-data\nGroup www-data\nStartServers 2\n{processes}\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
             DocumentRoot {directory}/pages\nEnableSendfile on\nEnableMMAP on\nLogFormat %>s code\nCustomLog {log} code\n\
             Redirect 301 /moved /index.html\n\
             ScriptAlias /form {directory}/form\nScriptAlias /chunked {directory}/form\nScriptAlias /empty {directory}/form\n\
             ScriptAlias /broken {directory}/form\n\
             <Location /form>\nSetEnv CODE 201\n</Location>\n<Location /chunked>\nSetEnv CODE 200\n</Location>\n\
             <Location /empty>\nSetEnv CODE 204\n</Location>\n<Location /broken>\nSetEnv CODE 500\n</Location>\n",
            log = log.display()
        ),
    );
    let mut command = Command::new("apache2");
    command.args(["-DFOREGROUND", "-f"]).arg(configuration);
    command
}

#[test]
fn apache_with_processes() {
    let _turn = Turn::of(module_path!());
    totals_agree("Apache httpd, prefork", first_word, true, |setup| {
        apache(setup, "prefork")
    });
}

#[test]
fn apache_with_threads_and_events() {
    let _turn = Turn::of(module_path!());
    totals_agree("Apache httpd, event", first_word, true, |setup| {
        apache(setup, "event")
    });
}

/// A static server in one process, with CGI.
#[test]
fn lighttpd() {
    let _turn = Turn::of(module_path!());
    totals_agree("lighttpd", first_word, false, |setup| {
        let directory = setup.directory.display();
        let script = "#!/bin/sh\ncat >/dev/null\nprintf 'Status: 201\\r\\nContent-Type: text/plain\\r\\n\\r\\n'\n\
            printf 'HTTP/1.1 500 No\\r\\n\\r\\n%.0s' 1 2 3\n";
        for (name, code) in [("form", "201"), ("chunked", "200"), ("broken", "500")] {
            fs::write(
                setup.directory.join("pages").join(name),
                script.replace("201", code),
            )
            .expect("a script");
        }
        let configuration = setup.configure(
            "lighttpd.conf",
            &format!(
                "server.modules = (\"mod_redirect\", \"mod_access\", \"mod_rewrite\", \"mod_cgi\", \"mod_accesslog\")\n\
                 server.document-root = \"{directory}/pages\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
                 server.max-keep-alive-requests = 100000\nserver.stream-response-body = 1\n\
                 accesslog.filename = \"{log}\"\naccesslog.format = \"%s\"\nurl.redirect = (\"^/moved$\" => \"/index.html\")\n\
                 url.redirect-code = 301\n\
                 $HTTP[\"url\"] =~ \"^/(form|chunked|broken)$\" {{ cgi.assign = (\"\" => \"/bin/sh\") }}\n",
                port = setup.port,
                log = setup.log.display()
            ),
        );
        let mut command = Command::new("lighttpd");
        command.arg("-D").arg("-f").arg(configuration);
        command
    });
}

/// WSGI: two processes with threads.
#[test]
fn gunicorn() {
    let _turn = Turn::of(module_path!());
    totals_agree("gunicorn", first_word, true, |setup| {
        let mut command = Command::new("/usr/bin/gunicorn");
        command
            .args(["--workers", "2", "--threads", "4", "--keep-alive", "60", "--bind"])
            .arg(format!("127.0.0.1:{}", setup.port))
            .arg("--access-logfile")
            .arg(&setup.log)
            .args(["--access-logformat", "%(s)s", "--worker-tmp-dir"])
            .arg(&setup.directory)
            .arg("--chdir")
            .arg(source(""))
            .arg("wsgi:application")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    });
}

/// `INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK`
fn uvicorn_code(line: &str) -> Option<&str> {
    line.rsplit_once("\" ")?.1.split(' ').next()
}

/// ASGI: one event loop.
#[test]
fn uvicorn() {
    let _turn = Turn::of(module_path!());
    totals_agree("uvicorn", uvicorn_code, false, |setup| {
        let mut command = Command::new("/usr/bin/uvicorn");
        command
            .args([
                "--host",
                "127.0.0.1",
                "--port",
                &setup.port.to_string(),
                "--no-use-colors",
                "--timeout-keep-alive",
                "60",
            ])
            .arg("--app-dir")
            .arg(source(""))
            .arg("asgi:application")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    });
}

fn node(setup: &Setup) -> Command {
    let mut command = Command::new("node");
    command
        .arg(source("app.js"))
        .arg(setup.port.to_string())
        .arg(&setup.log);
    command
}

#[test]
fn node_js() {
    let _turn = Turn::of(module_path!());
    totals_agree("Node.js", first_word, false, node);
}

/// `{"level":"info",…,"status":200,…}`
fn caddy_code(line: &str) -> Option<&str> {
    line.split_once("\"status\":")?.1.get(..3)
}

/// Go: goroutines on threads.
#[test]
fn caddy() {
    let _turn = Turn::of(module_path!());
    totals_agree("Caddy (Go)", caddy_code, false, |setup| {
        let configuration = setup.configure(
            "Caddyfile",
            &format!(
                "{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n\
                 log {{\n output file {log}\n format json\n}}\n root * {pages}\n\
                 redir /moved /index.html 301\n respond /empty 204\n respond /broken \"broken\" 500\n\
                 respond /form \"taken\" 201\n\
                 respond /chunked \"HTTP/1.1 500 Not a response\" 200\n\
                 file_server\n}}\n",
                port = setup.port,
                log = setup.log.display(),
                pages = setup.directory.join("pages").display(),
            ),
        );
        let mut command = Command::new("caddy");
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(configuration);
        command
    });
}

/// A proxy in front of Node.js: each counts what it has served itself. One thread: of several that log at a time,
/// `HAProxy` lets one go without after a few attempts (`fd_write_frag_line`, counted as `DroppedLogs`).
#[test]
fn haproxy_in_front_of_node_js() {
    let _turn = Turn::of(module_path!());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_hook(|hook| {
        let root = TempDir::new().expect("a temporary directory");
        let agent = Agent::start(hook);
        let behind = Server::start(root.path(), "node", first_word, false, node);
        let front = Server::start(root.path(), "haproxy", first_word, false, |setup| {
            let configuration = setup.configure(
                "haproxy.cfg",
                &format!(
                    "global\n nbthread 1\n log stdout format raw local0\ndefaults\n mode http\n log global\n log-format %ST\n\
                     option splice-auto\n option dontlognull\n option http-ignore-probes\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
                     frontend front\n bind 127.0.0.1:{}\n default_backend behind\n\
                     backend behind\n server node 127.0.0.1:{}\n",
                    setup.port, behind.port
                ),
            );
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(configuration);
            command
        });
        let sent = drive(&front, root.path(), 3);
        front.assert_counted(&agent, hook, "HAProxy", sent);
        behind.assert_counted(&agent, hook, "Node.js behind HAProxy", sent);
        drop(front);
        drop(behind);
        agent.stop();
    });
}
