//! A control plane of our own: etcd, API server and the controllers that matter, without nodes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::until;

/// Where `.ci/kubernetes` leaves its programs.
fn programs() -> Result<PathBuf> {
    let cache = std::env::var_os("SCOPE_HTTP_STATISTICS_CACHE").map_or_else(
        || {
            let home = std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
            home.map(|home| home.join("scope-http-statistics"))
        },
        |cache| Some(PathBuf::from(cache)),
    );
    let directory = cache
        .context("neither SCOPE_HTTP_STATISTICS_CACHE nor HOME is set")?
        .join("kubernetes");
    ensure!(
        directory.join("kube-apiserver").exists(),
        "there is no control plane in {}: run `.ci/setup test`",
        directory.display()
    );
    Ok(directory)
}

/// A process that ends with us: also when we are killed, since it is started from the main thread.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self {
            child,
            name: program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            log: log.to_owned(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error, with the end of its log, if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.name, self.last_lines(20));
        }
        Ok(())
    }

    pub(crate) fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub(crate) fn last_lines(&self, count: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args(["-s", signal, &self.id().to_string()])
            .status()?;
        ensure!(status.success(), "failed to send {signal} to {}", self.name);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The cluster under test.
pub(crate) struct Cluster {
    pub(crate) admin: Client,
    /// Of the administrator, and where others are written.
    pub(crate) kubeconfig: Kubeconfig,
    pub(crate) directory: TempDir,
    own: Option<Own>,
}

/// What a cluster of our own has more.
struct Own {
    etcd: Process,
    api_server: Option<Process>,
    api_arguments: Vec<String>,
    /// Started when the API server is ready, without which they end.
    controllers: Option<Process>,
    programs: PathBuf,
}

/// Returns it and its URL.
fn start_etcd(programs: &Path, directory: &Path) -> Result<(Process, String)> {
    let (etcd_port, etcd_peer_port) = (free_port()?, free_port()?);
    let etcd_url = format!("http://127.0.0.1:{etcd_port}");
    let peer_url = format!("http://127.0.0.1:{etcd_peer_port}");
    let etcd = Process::start(
        &programs.join("etcd"),
        &[
            format!("--data-dir={}", directory.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            "--logger=zap".to_owned(),
            "--quota-backend-bytes=2147483648".to_owned(),
        ],
        &[("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)],
        &directory.join("etcd.log"),
    )?;
    Ok((etcd, etcd_url))
}

fn start_controllers(programs: &Path, directory: &Path) -> Result<Process> {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    Process::start(
        &programs.join("kube-controller-manager"),
        &[
            format!("--kubeconfig={}", path("admin.kubeconfig")),
            // Not nodelifecycle: nobody keeps our nodes alive.
            concat!(
                "--controllers=daemonset,deployment,replicaset,statefulset,job,cronjob,",
                "garbagecollector,namespace,serviceaccount,serviceaccount-token"
            )
            .to_owned(),
            format!("--service-account-private-key-file={}", path("sa.key")),
            "--leader-elect=false".to_owned(),
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=2000".to_owned(),
            format!("--secure-port={}", free_port()?),
            "--port=0".to_owned(),
            format!("--cert-dir={}", path("certificates")),
        ],
        &[],
        &directory.join("controllers.log"),
    )
}

const ADMIN_TOKEN: &str = "admin-token";

impl Cluster {
    /// The cluster of `SCOPE_HTTP_STATISTICS_TEST_KUBECONFIG`, or one of our own.
    pub(crate) async fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let theirs = std::env::var_os("SCOPE_HTTP_STATISTICS_TEST_KUBECONFIG");
        if let Some(path) = theirs.filter(|path| !path.is_empty()) {
            let kubeconfig = Kubeconfig::read_from(path)?;
            let admin = client(&kubeconfig).await?;
            return Ok(Self {
                admin,
                kubeconfig,
                directory,
                own: None,
            });
        }
        let programs = programs()?;
        let path = |name: &str| directory.path().join(name);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();

        let (etcd, etcd_url) = start_etcd(&programs, directory.path())?;
        let key = text(path("sa.key"));
        let generated = Command::new("openssl")
            .args(["genrsa", "-out", &key, "2048"])
            .stderr(Stdio::null())
            .status()
            .context("openssl")?;
        ensure!(generated.success(), "openssl failed");
        fs::write(
            path("tokens"),
            format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"),
        )?;
        fs::write(
            path("audit-policy"),
            json!({
                "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
                "rules": [{"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]}],
            })
            .to_string(),
        )?;
        let port = free_port()?;
        let api_arguments = vec![
            format!("--etcd-servers={etcd_url}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", text(path("certificates"))),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={key}"),
            format!("--service-account-key-file={key}"),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", text(path("tokens"))),
            "--allow-privileged=true".to_owned(),
            format!("--audit-policy-file={}", text(path("audit-policy"))),
            format!("--audit-log-path={}", text(path("audit.log"))),
        ];
        let api_server = Process::start(
            &programs.join("kube-apiserver"),
            &api_arguments,
            &[],
            &path("api-server.log"),
        )?;

        let kubeconfig = kubeconfig(&format!("https://127.0.0.1:{port}"), ADMIN_TOKEN)?;
        fs::write(path("admin.kubeconfig"), serde_json::to_string(&kubeconfig)?)?;
        let mut cluster = Self {
            admin: client(&kubeconfig).await?,
            kubeconfig,
            directory,
            own: Some(Own {
                etcd,
                api_server: Some(api_server),
                api_arguments,
                controllers: None,
                programs,
            }),
        };
        cluster.wait_until_ready().await?;
        if let Some(own) = &mut cluster.own {
            own.controllers = Some(start_controllers(&own.programs, cluster.directory.path())?);
        }
        Ok(cluster)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            if let Some(own) = &mut self.own {
                own.etcd.check()?;
                if let Some(api_server) = &mut own.api_server {
                    api_server.check()?;
                }
            }
            let request = axum::http::Request::get("/readyz").body(Vec::new())?;
            match self.admin.request_text(request).await {
                Ok(text) if text == "ok" => return Ok(()),
                _ if start.elapsed() > Duration::from_mins(2) => {
                    bail!("the API server does not become ready")
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Sends a signal to the controllers of a cluster of our own.
    pub(crate) fn signal_controllers(&self, signal: &str) -> Result<()> {
        let own = self.own.as_ref().context("not a cluster of our own")?;
        own.controllers.as_ref().context("no controllers")?.signal(signal)
    }

    /// Whether it is ours to break.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(own) = &mut self.own {
            own.etcd.check()?;
            if let Some(controllers) = &mut own.controllers {
                controllers.check()?;
            }
        }
        Ok(())
    }

    /// Stops the API server, lets `meanwhile` pass, and starts it again.
    pub(crate) async fn restart_api_server(&mut self, meanwhile: Duration) -> Result<()> {
        let Some(own) = &mut self.own else {
            bail!("not our cluster");
        };
        drop(own.api_server.take());
        tokio::time::sleep(meanwhile).await;
        own.api_server = Some(Process::start(
            &own.programs.join("kube-apiserver"),
            &own.api_arguments,
            &[],
            &self.directory.path().join("api-server.log"),
        )?);
        self.wait_until_ready().await
    }

    /// A kubeconfig file for a token.
    pub(crate) fn write_kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let mut kubeconfig = self.kubeconfig.clone();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(serde_json::from_value(json!({"token": token}))?);
        }
        let path = self.directory.path().join(name);
        fs::write(&path, serde_json::to_string(&kubeconfig)?)?;
        Ok(path)
    }

    /// What `user` has written since the beginning, as `VERB RESOURCE NAME CODE`.
    pub(crate) fn writes(&self, user: &str) -> Result<Vec<String>> {
        let log = File::open(self.directory.path().join("audit.log"))?;
        let mut writes = Vec::new();
        for line in BufReader::new(log).lines() {
            let Ok(entry) = serde_json::from_str::<Value>(&line?) else {
                continue; // not yet written to its end
            };
            if entry["user"]["username"] != user {
                continue;
            }
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &entry["objectRef"];
            let mut resource = word(&object["resource"]);
            if let Some(subresource) = object["subresource"].as_str() {
                resource = format!("{resource}/{subresource}");
            }
            writes.push(format!(
                "{} {resource} {} {}",
                word(&entry["verb"]),
                word(&object["name"]),
                entry["responseStatus"]["code"]
            ));
        }
        Ok(writes)
    }
}

fn kubeconfig(server: &str, token: &str) -> Result<Kubeconfig> {
    // The API server makes a certificate for itself at its start; there is nobody to sign it.
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }))?)
}

pub(crate) async fn client(kubeconfig: &Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The operator, as a process with the rights of its service account.
pub(crate) struct Operator {
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Operator {
    pub(crate) fn start(cluster: &Cluster, kubeconfig: &Path) -> Result<Self> {
        Self::start_pod(cluster, kubeconfig, "operator", &[])
    }

    /// As the pod `name`, with more arguments.
    pub(crate) fn start_pod(
        cluster: &Cluster,
        kubeconfig: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let port = free_port()?;
        let mut all = vec![
            format!("--namespace={}", crate::NAMESPACE),
            format!("--listen=127.0.0.1:{port}"),
        ];
        all.extend(arguments.iter().copied().map(str::to_owned));
        let process = Process::start(
            Path::new(env!("CARGO_BIN_EXE_scope-http-statistics-operator")),
            &all,
            &[("KUBECONFIG", &kubeconfig.to_string_lossy()), ("HOSTNAME", name)],
            &cluster.directory.path().join(format!("{name}.log")),
        )?;
        Ok(Self { process, port })
    }

    /// Code and body of a path of its server.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let code = text.split(' ').nth(1).context("no status line")?.parse()?;
        Ok((code, text.split_once("\r\n\r\n").context("no body")?.1.to_owned()))
    }

    pub(crate) async fn wait_until_ready(&mut self) -> Result<()> {
        until("the operator is ready", async || {
            self.process.check()?;
            Ok(matches!(self.get("/readyz"), Ok((200, _))).then_some(()))
        })
        .await
    }

    /// Sum of the values of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get("/metrics")?;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    /// Memory that it has used at most, in KiB.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        self.memory("VmHWM")
    }

    /// Memory in KiB, by its name in `proc_pid_status(5)`.
    pub(crate) fn memory(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .with_context(|| format!("no {name}"))?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    /// Hundredths of a second that it was on a processor: fields 14 and 15 of `proc_pid_stat(5)`.
    pub(crate) fn clock_ticks(&self) -> Result<u64> {
        let line = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = line.rsplit_once(')').context("no command in its stat")?;
        let times = fields.split_whitespace().skip(14 - 3).take(2);
        times.map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
    }

    /// Ends it as Kubernetes does; returns how long it took.
    pub(crate) async fn stop(mut self) -> Result<Duration> {
        let start = std::time::Instant::now();
        self.process.signal("TERM")?;
        let status = until("the operator has ended", async || self.process.ended()).await?;
        ensure!(
            status.success(),
            "it ended with {status}:\n{}",
            self.process.last_lines(20)
        );
        Ok(start.elapsed())
    }
}
