//! The agent against servers as they are in use, each with its own way to do I/O, driven by curl, wrk and ab: its
//! totals per code must be what the server's own log says.
//!
//! Debian's packages (.ci/setup test). On the host with the hook `tracepoint`, in a virtual machine with all hooks
//! (`VM_KERNELS`), or with those that `TEST_HOOKS` names. With `TEST_BATTERY=1` odd clients follow ([`battery`]).

mod battery;

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

use battery::Case;

/// One agent at a time keeps the losses apart.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How the code stands in a line of a server's log.
type CodeOf = fn(&str) -> Option<&str>;

fn first_word(line: &str) -> Option<&str> {
    line.split(' ').next()
}

/// The line of a log in the format that most know: `127.0.0.1 - - [1/Jan/2026:00:00:00 +0000] "GET / HTTP/1.1" 200 5`
fn common_code(line: &str) -> Option<&str> {
    line.split_once("] \"")?.1.split_once("\" ")?.1.split(' ').next()
}

/// Which processes serve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Processes {
    /// The one that was started.
    Itself,
    /// Its children.
    Workers,
    /// One for each connection, gone with it: compared is what the agent counted for all of the machine.
    PerConnection,
}

/// What of the mix a server can take.
#[derive(Clone, Copy)]
struct Mix {
    /// So many of wrk's requests come at a time.
    pipelined: u64,
    /// It takes bodies of requests, and has pages for that.
    uploads: bool,
    /// Chunked ones too.
    chunked_uploads: bool,
    /// It keeps connections, or does not in a way that wrk and ab understand.
    keeps: bool,
    /// What HEAD is sent for: some send bodies all the same, which is no HTTP.
    heads: &'static [&'static str],
}

/// What is known of a server.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    code_of: CodeOf,
    processes: Processes,
    mix: Mix,
    /// It serves and logs; asked once it listens.
    is_ready: fn(&Server) -> bool,
    /// Odd clients for which the log does not say what was sent, with its number of lines; what these received is the truth
    /// for all.
    odd: &'static [(Case, u64)],
    /// Odd clients that it does not answer.
    left_out: &'static [Case],
}

/// A server that takes everything, and logs what it sends.
const KIND: Kind = Kind {
    name: "",
    code_of: first_word,
    processes: Processes::Itself,
    mix: Mix {
        pipelined: 3,
        uploads: true,
        chunked_uploads: true,
        keeps: true,
        heads: &["/index.html", "/missing", "/large.bin"],
    },
    is_ready: |_| true,
    odd: &[],
    left_out: &[],
};

/// A server of files.
const STATIC: Mix = Mix {
    uploads: false,
    ..KIND.mix
};

/// A running server.
struct Server {
    kind: Kind,
    child: Child,
    directory: PathBuf,
    port: u16,
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
    fn start(root: &Path, name: &str, kind: Kind, command: impl FnOnce(&Setup) -> Command) -> Self {
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
            kind,
            child,
            directory: setup.directory,
            port: setup.port,
        };
        // By connecting only: a request would have to be expected.
        wait_for("the server to listen", || {
            let ended = server.child.try_wait().expect("our child");
            assert!(ended.is_none(), "the server ended, {ended:?}: {}", server.said());
            TcpStream::connect(("127.0.0.1", setup.port)).ok()
        });
        wait_for("the server to be ready", || {
            (!server.pids().is_empty() && (kind.is_ready)(&server)).then_some(())
        });
        server
    }

    /// The processes that serve.
    fn pids(&self) -> BTreeSet<u32> {
        let pid = self.child.id();
        if self.kind.processes == Processes::Workers {
            children_of(pid)
        } else {
            BTreeSet::from([pid])
        }
    }

    /// Requests and final responses as the agent has them.
    fn counted(&self, agent: &Agent) -> (u64, Codes) {
        let totals = agent.totals();
        let (requests, mut codes) = if self.kind.processes == Processes::PerConnection {
            totals.of_all()
        } else {
            totals.of(&self.pids())
        };
        codes.retain(|code, _| !code.starts_with('1'));
        (requests, codes)
    }

    /// Final responses by code, as its log has them.
    fn logged(&self) -> Codes {
        let mut codes = Codes::new();
        for log in ["access.log", "output"] {
            let text = fs::read_to_string(self.directory.join(log)).unwrap_or_default();
            for code in text.lines().filter_map(|line| (self.kind.code_of)(line)) {
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
    fn assert_counted(&self, agent: &Agent, hook: &str, sent: u64) {
        let name = self.kind.name;
        let logged = wait_for("the server to log the last request", || {
            let logged = self.logged();
            let lines: u64 = logged.values().sum();
            assert!(
                lines <= sent,
                "{name} logs {lines} requests, {sent} were sent: {logged:?}"
            );
            (lines == sent).then_some(logged)
        });
        let codes = if self.kind.mix.uploads { 4 } else { 3 };
        assert!(logged.len() >= codes, "not much of a mix: {logged:?}");
        // What a server logs before it has been sent may be sent a moment later.
        let counted = || self.counted(agent);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while counted() != (sent, logged.clone()) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(
            (counted(), agent.totals().losses()),
            ((sent, logged), Vec::new()),
            "{hook}: the agent with its losses (left) and the log of {name} (right); processes {:?}, {:?}; it said\n{}",
            self.pids(),
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

/// Requests of every kind that the server takes by curl, wrk and ab; how many.
#[track_caller]
fn drive(server: &Server, directory: &Path) -> u64 {
    let (port, mix) = (server.port, server.kind.mix);
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
        if paths.is_empty() {
            return;
        }
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
    let page = server.directory.join("pages/index.html").display().to_string();
    for _ in 0..3 {
        curl(&[], &pages);
        curl(&["--head"], mix.heads);
        curl(&["--http1.0"], &["/index.html", "/chunked"]);
        // A server of files says 304.
        curl(&["--time-cond", &page], &["/index.html"]);
        if !mix.uploads {
            continue;
        }
        curl(&["--data", "a=b"], &["/form", "/form"]);
        curl(
            &["--data-binary", &file, "--header", "Expect: 100-continue"],
            &["/form", "/form"],
        );
        if !mix.chunked_uploads {
            continue;
        }
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

    let depths = [1, mix.pipelined];
    for depth in depths.into_iter().filter(|_| mix.keeps) {
        let (threads, wanted) = (4, 84);
        let mut wrk = Command::new("wrk");
        wrk.args([format!("--threads={threads}"), format!("--connections={threads}")])
            .args(["--duration=60s", "--timeout=60s", "--script"])
            .arg(source("load.lua"))
            .arg(url("/"))
            .args([
                "--",
                &wanted.to_string(),
                &depth.to_string(),
                if mix.uploads { "uploads" } else { "" },
            ]);
        let wrk = wrk
            .stdout(Stdio::piped())
            .spawn()
            .expect("wrk is installed (.ci/setup)");
        let requests = threads * wanted;
        // Its threads end by themselves, its main thread sleeps on.
        wait_for("the server to log what wrk has sent", || {
            (server.lines() >= sent + requests).then_some(())
        });
        let tasks = format!("/proc/{}/task", wrk.id());
        wait_for("wrk to receive the last response", || {
            (fs::read_dir(&tasks).expect("wrk runs").count() == 1).then_some(())
        });
        signal(&wrk, libc::SIGINT);
        let output = wrk.wait_with_output().expect("wrk ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!(" {requests} requests in")), "{text}");
        assert!(!text.contains("Socket errors"), "{text}");
        sent += requests;
    }

    for (keep, path) in [(false, "/index.html"), (true, "/missing"), (true, "/large.bin")] {
        let requests = 120;
        let mut ab = Command::new("ab");
        ab.args(["-q", "-l", "-n", &requests.to_string(), "-c", "8"]);
        if keep && mix.keeps {
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
fn totals_agree(kind: Kind, command: impl Fn(&Setup) -> Command) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_hook(|hook| {
        let root = TempDir::new().expect("a temporary directory");
        let agent = Agent::start(hook);
        let server = Server::start(root.path(), "server", kind, &command);
        let sent = drive(&server, root.path());
        server.assert_counted(&agent, hook, sent);
        battery::run(&server, &agent, hook);
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
    let kind = Kind {
        name: "Apache httpd, prefork",
        processes: Processes::Workers,
        ..KIND
    };
    totals_agree(kind, |setup| apache(setup, "prefork"));
}

#[test]
fn apache_with_threads_and_events() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Apache httpd, event",
        processes: Processes::Workers,
        ..KIND
    };
    totals_agree(kind, |setup| apache(setup, "event"));
}

/// A static server in one process, with CGI.
#[test]
fn lighttpd() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "lighttpd",
        ..KIND
    };
    totals_agree(kind, |setup| {
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
    let kind = Kind {
        name: "gunicorn",
        processes: Processes::Workers,
        mix: Mix {
            pipelined: 1,
            ..KIND.mix
        },
        // What came with one request waits until more comes.
        left_out: &[Case::Pipeline],
        ..KIND
    };
    totals_agree(kind, |setup| {
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
    let kind = Kind {
        name: "uvicorn",
        code_of: uvicorn_code,
        ..KIND
    };
    totals_agree(kind, |setup| {
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
    let kind = Kind {
        name: "Node.js",
        ..KIND
    };
    totals_agree(kind, node);
}

/// `{"level":"info",…,"status":200,…}`
fn caddy_code(line: &str) -> Option<&str> {
    line.split_once("\"status\":")?.1.get(..3)
}

/// Go: goroutines on threads.
#[test]
fn caddy() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Caddy (Go)",
        code_of: caddy_code,
        ..KIND
    };
    totals_agree(kind, |setup| {
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

/// One thread of Java's for each of a pool, with `java.nio` below.
#[test]
fn java() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "the JDK's HttpServer",
        mix: Mix {
            pipelined: 1,
            ..KIND.mix
        },
        // A bad request does not come to the application, which logs.
        odd: &[(Case::CutHead, 0)],
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("java");
        command
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(source("Application.java"))
            .arg(setup.port.to_string())
            .arg(&setup.log);
        command
    });
}

/// Ruby: an event loop in front of threads.
#[test]
fn puma() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "puma",
        code_of: common_code,
        mix: Mix {
            pipelined: 1,
            ..KIND.mix
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("puma");
        command
            .args([
                "--threads",
                "4:4",
                "--environment",
                "production",
                "--log-requests",
            ])
            .args(["--bind", &format!("tcp://127.0.0.1:{}", setup.port)])
            .arg(source("config.ru"));
        command
    });
}

/// Ruby: a thread for each connection.
#[test]
fn webrick() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "WEBrick",
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("ruby");
        command
            .arg(source("webrick.rb"))
            .arg(setup.port.to_string())
            .arg(&setup.log);
        command
    });
}

/// `[Tue Dec  1 00:00:00 2026] 127.0.0.1:1 [200]: GET /`
fn php_code(line: &str) -> Option<&str> {
    line.split_once("]: ")?.0.rsplit_once('[').map(|(_, code)| code)
}

/// PHP's own: one request at a time, a connection for each.
#[test]
fn php() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "PHP's server",
        code_of: php_code,
        mix: Mix {
            pipelined: 1,
            keeps: false,
            ..KIND.mix
        },
        // It closes the connection on a head that comes in pieces, without a response.
        left_out: &[Case::Dripped],
        ..KIND
    };
    totals_agree(kind, |setup| {
        // For all that is no file. With a router it would not log.
        fs::copy(source("index.php"), setup.directory.join("pages/index.php")).expect("a page");
        let mut command = Command::new("php");
        command.args(["-S", &format!("127.0.0.1:{}", setup.port), "-t", "pages"]);
        command
    });
}

/// Perl: one connection at a time, a request for each; heads and bodies by calls of their own.
#[test]
fn perl() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Perl's HTTP::Daemon",
        mix: Mix {
            pipelined: 1,
            // One connection of wrk's that says nothing would block all others.
            keeps: false,
            ..KIND.mix
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("perl");
        command
            .arg(source("daemon.pl"))
            .arg(setup.port.to_string())
            .arg(&setup.log);
        command
    });
}

/// An application of Python's, with a server of its own: its file, the port and the log.
fn python(setup: &Setup, file: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(source(file))
        .arg(setup.port.to_string())
        .arg(&setup.log)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn aiohttp() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "aiohttp",
        // The end of the client's side ends the connection, without the response that is logged.
        odd: &[(Case::CutBody, 2), (Case::HalfClosed, 1)],
        ..KIND
    };
    totals_agree(kind, |setup| python(setup, "aiohttp_app.py"));
}

#[test]
fn tornado() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Tornado",
        ..KIND
    };
    totals_agree(kind, |setup| python(setup, "tornado_app.py"));
}

/// Green threads.
#[test]
fn gevent() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "gevent",
        code_of: common_code,
        ..KIND
    };
    totals_agree(kind, |setup| python(setup, "gevent_app.py"));
}

#[test]
fn twisted() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Twisted",
        code_of: common_code,
        mix: STATIC,
        // It logs a response when it has been sent whole, and of this pipeline one less than it answers.
        odd: &[(Case::Pipeline, 4), (Case::AbandonedResponse, 0)],
        ..KIND
    };
    totals_agree(kind, |setup| {
        fs::create_dir(setup.directory.join("pages/moved")).expect("a directory");
        let mut command = Command::new("/usr/bin/twist3");
        command
            .args(["--log-format", "text", "web", "--path", "pages", "--logfile"])
            .arg(&setup.log)
            .args(["--port", &format!("tcp:{}:interface=127.0.0.1", setup.port)])
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    });
}

/// Processes with threads; a connection for each request.
#[test]
fn uwsgi() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "uWSGI",
        processes: Processes::Workers,
        mix: Mix {
            pipelined: 1,
            // It does not read them.
            chunked_uploads: false,
            keeps: false,
            ..KIND.mix
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("uwsgi");
        command
            .args(["--plugin", "python3", "--master", "--die-on-term"])
            .args(["--processes", "2", "--threads", "2"])
            .args(["--http-socket", &format!("127.0.0.1:{}", setup.port)])
            .arg("--chdir")
            .arg(source(""))
            .args([
                "--wsgi-file",
                "wsgi.py",
                "--log-format",
                "%(status) %(method) %(uri)",
            ])
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    });
}

/// Files by an event loop for each thread.
#[test]
fn h2o() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "h2o",
        mix: STATIC,
        ..KIND
    };
    totals_agree(kind, |setup| {
        let configuration = setup.configure(
            "h2o.conf",
            &format!(
                "num-threads: 2\nlisten:\n  host: 127.0.0.1\n  port: {}\naccess-log:\n  path: {}\n  format: '%s'\n\
                 hosts:\n  default:\n    paths:\n      /:\n        file.dir: pages\n\
                 \x20     /moved:\n        redirect:\n          status: 301\n          url: /index.html\n",
                setup.port,
                setup.log.display()
            ),
        );
        let mut command = Command::new("h2o");
        command.arg("-c").arg(configuration);
        command
    });
}

/// Files by threads, one for each connection.
#[test]
fn civetweb() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "CivetWeb",
        code_of: common_code,
        mix: Mix {
            heads: &["/index.html", "/large.bin"],
            keeps: false,
            ..STATIC
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        let mut command = Command::new("civetweb");
        command
            .args(["-listening_ports", &format!("127.0.0.1:{}", setup.port)])
            .args(["-document_root", "pages", "-num_threads", "16"])
            .args(["-enable_keep_alive", "yes", "-keep_alive_timeout_ms", "60000"])
            .arg("-access_log_file")
            .arg(&setup.log);
        command
    });
}

/// A connection that says nothing is logged, but answered with `UNKNOWN 400`, which is no HTTP.
fn mini_httpd_code(line: &str) -> Option<&str> {
    (!line.contains("\"UNKNOWN  UNKNOWN\""))
        .then(|| common_code(line))
        .flatten()
}

/// Files: a forked child for each connection.
#[test]
fn mini_httpd() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "mini_httpd",
        code_of: mini_httpd_code,
        processes: Processes::PerConnection,
        mix: Mix {
            pipelined: 1,
            keeps: false,
            heads: &["/index.html", "/large.bin"],
            ..STATIC
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        fs::create_dir(setup.directory.join("pages/moved")).expect("a directory");
        let mut command = Command::new("mini_httpd");
        command
            .args(["-D", "-h", "127.0.0.1", "-p", &setup.port.to_string()])
            .args(["-d", "pages", "-u", "root", "-i", "pid", "-l"])
            .arg(&setup.log);
        command
    });
}

/// `127.0.0.1:1: response:200`
fn busybox_code(line: &str) -> Option<&str> {
    line.split_once(" response:").map(|(_, code)| code)
}

/// Files: an executed program for each connection, which is its standard input and output.
#[test]
fn busybox_under_tcpsvd() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "BusyBox httpd under tcpsvd",
        code_of: busybox_code,
        processes: Processes::PerConnection,
        mix: Mix {
            pipelined: 1,
            keeps: false,
            heads: &[],
            ..STATIC
        },
        ..KIND
    };
    totals_agree(kind, |setup| {
        fs::create_dir(setup.directory.join("pages/moved")).expect("a directory");
        let mut command = Command::new("tcpsvd");
        command
            // Without looking for the name of its address.
            .args(["-l", "localhost", "127.0.0.1", &setup.port.to_string()])
            .args(["busybox", "httpd", "-i", "-vv", "-h", "pages"]);
        command
    });
}

/// Node.js behind a proxy.
const BEHIND: Kind = Kind {
    name: "Node.js behind a proxy",
    ..KIND
};

/// A proxy in front of Node.js, which is told where that listens: each counts what it has served itself.
fn totals_agree_in_front_of_node_js(kind: Kind, command: impl Fn(&Setup, u16) -> Command) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_hook(|hook| {
        let root = TempDir::new().expect("a temporary directory");
        let agent = Agent::start(hook);
        let behind = Server::start(root.path(), "node", BEHIND, node);
        let front = Server::start(root.path(), "proxy", kind, |setup| command(setup, behind.port));
        let sent = drive(&front, root.path());
        front.assert_counted(&agent, hook, sent);
        behind.assert_counted(&agent, hook, sent);
        battery::run(&front, &agent, hook);
        drop(front);
        drop(behind);
        agent.stop();
    });
}

/// One thread: of several that log at a time, `HAProxy` lets one go without after a few attempts (`fd_write_frag_line`,
/// counted as `DroppedLogs`).
#[test]
fn haproxy_in_front_of_node_js() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "HAProxy",
        ..KIND
    };
    totals_agree_in_front_of_node_js(kind, |setup, behind| {
        let configuration = setup.configure(
            "haproxy.cfg",
            &format!(
                "global\n nbthread 1\n log stdout format raw local0\ndefaults\n mode http\n log global\n log-format %ST\n\
                 option splice-auto\n option dontlognull\n option http-ignore-probes\n timeout connect 60s\n timeout client 60s\n timeout server 60s\n\
                 frontend front\n bind 127.0.0.1:{}\n default_backend behind\n\
                 backend behind\n server node 127.0.0.1:{behind}\n",
                setup.port
            ),
        );
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(configuration);
        command
    });
}

/// One event loop.
#[test]
fn squid_in_front_of_node_js() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "squid",
        ..KIND
    };
    totals_agree_in_front_of_node_js(kind, |setup, behind| {
        let directory = setup.directory.display();
        for log in ["access.log", "cache.log"] {
            let path = setup.directory.join(log);
            fs::write(&path, "").expect("a log");
            // It is not root by then.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("an open log");
        }
        let service = format!("scope{}", setup.port);
        // What one left that was killed.
        for file in fs::read_dir("/dev/shm").expect("/dev/shm").flatten() {
            if file
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{service}-"))
            {
                let _ = fs::remove_file(file.path());
            }
        }
        let configuration = setup.configure(
            "squid.conf",
            &format!(
                "http_port 127.0.0.1:{port} accel defaultsite=test no-vhost\n\
                 cache_peer 127.0.0.1 parent {behind} 0 no-query originserver no-digest no-netdb-exchange\n\
                 http_access allow all\ncache deny all\nlogformat code %>Hs %rm %ru\n\
                 access_log stdio:{directory}/access.log logformat=code\nbuffered_logs off\n\
                 cache_log {directory}/cache.log\ncoredump_dir {directory}\npid_filename none\nnetdb_filename none\n\
                 pinger_enable off\nshutdown_lifetime 0 seconds\nmax_filedescriptors 1024\n",
                port = setup.port,
            ),
        );
        let mut command = Command::new("squid");
        command.args(["-N", "-n", &service, "-f"]).arg(configuration);
        command
    });
}

/// A thread of a pool for each connection that has something to say.
#[test]
fn varnish_in_front_of_node_js() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "Varnish",
        processes: Processes::Workers,
        is_ready: |server| {
            // Who writes its log has found it.
            server.pids().iter().any(|pid| {
                let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
                command.trim() == "varnishncsa" && maps.contains("/_.vsm_child/_.Log")
            })
        },
        ..KIND
    };
    totals_agree_in_front_of_node_js(kind, |setup, behind| {
        let configuration = setup.configure(
            "node.vcl",
            &format!(
                "vcl 4.1;\nbackend node {{ .host = \"127.0.0.1\"; .port = \"{behind}\"; }}\n\
                 sub vcl_recv {{ return (pass); }}\n"
            ),
        );
        // Its log is in memory, for others to write.
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(
                "varnishncsa -n \"$1/state\" -t off -F '%s %m %U' -w \"$2\" &\n\
                 exec varnishd -F -n \"$1/state\" -a \"$3\" -f \"$4\" -s malloc,64m",
            )
            .arg("sh")
            .arg(&setup.directory)
            .arg(&setup.log)
            .arg(format!("127.0.0.1:{}", setup.port))
            .arg(configuration);
        command
    });
}

/// libev.
#[test]
fn nghttpx_in_front_of_node_js() {
    let _turn = Turn::of(module_path!());
    let kind = Kind {
        name: "nghttpx",
        processes: Processes::Workers,
        ..KIND
    };
    totals_agree_in_front_of_node_js(kind, |setup, behind| {
        let mut command = Command::new("nghttpx");
        command
            .args(["--conf", "/dev/null", "--workers", "1"])
            .arg(format!("--frontend=127.0.0.1,{};no-tls", setup.port))
            .arg(format!("--backend=127.0.0.1,{behind}"))
            .arg("--accesslog-file")
            .arg(&setup.log)
            .args(["--accesslog-format", "$status $request"]);
        command
    });
}
