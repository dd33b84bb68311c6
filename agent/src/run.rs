//! Runs the agent: takes the socket, or stands by until that is free, attaches the programs, samples and serves until a
//! signal.

use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::bpf::{self, Attachments};
use crate::config::{Live, LogLevel, NodeName, Settings};
use crate::host::HostIdentity;
use crate::pods;
use crate::process::Processes;
use crate::reload::{self, ConfigFile};
use crate::sampler::{Feed, Sampler};
use crate::server::{self, MetricsPort, PortError, SocketError, SocketOwnership, StandbySocket};
use crate::workload::Directory;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// No port for metrics.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No programs in the kernel.
    #[error(transparent)]
    Attach(#[from] bpf::Error),
    /// Signals cannot be waited for.
    #[error("failed to wait for signals: {0}: raise the limit of open files (ulimit -n)")]
    Signals(io::Error),
    /// A part of the agent ended on its own.
    #[error("the agent's {0} ended unexpectedly: this is a bug; please report it")]
    Ended(&'static str),
    /// A part of the agent panicked.
    #[error("a part of the agent failed: {0}: this is a bug; please report it")]
    Failed(JoinError),
}

/// `SIGTERM` and `SIGINT`. From the moment it exists, they no longer end the process at once.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Attached programs, and what reads, names and keeps what they count.
#[derive(Debug)]
pub(crate) struct Counting {
    /// What is known.
    pub(crate) feed: Feed,
    parts: JoinSet<RunError>,
    shutdown: CancellationToken,
    _attachments: Attachments,
}

impl Counting {
    /// Attaches the programs and starts the rest.
    ///
    /// # Errors
    /// When the programs cannot be attached.
    pub(crate) async fn start(settings: &Settings, live: watch::Receiver<Live>) -> Result<Self, RunError> {
        let (counters, attachments) =
            block_in_place(|| bpf::attach(settings.fixed.hook, settings.fixed.map_sizes()))?;
        let attached = Instant::now();
        log_start(settings, &attachments);

        let directory = watch::Sender::<Arc<Directory>>::default();
        let processes = Processes::new(Path::new("/proc"));
        let (sampler, feed) = Sampler::new(
            counters,
            attached,
            processes,
            directory.subscribe(),
            live,
            HostIdentity::new((settings.host_id.clone(), settings.host_id_source)),
        );
        let shutdown = CancellationToken::new();
        let mut parts = JoinSet::new();
        let sampling = sampler.run(shutdown.clone());
        parts.spawn(async {
            sampling.await;
            RunError::Ended("sampler")
        });
        let node = settings.fixed.node_name.as_ref().map(NodeName::as_str);
        let sources = pods::Sources::find(node, settings.fixed.kubeconfig.as_deref()).await;
        let naming = pods::run(sources, directory, shutdown.clone());
        parts.spawn(async {
            naming.await;
            RunError::Ended("names of pods")
        });
        Ok(Self {
            feed,
            parts,
            shutdown,
            _attachments: attachments,
        })
    }

    /// Waits for the first part to end, which none should.
    pub(crate) async fn failure(&mut self) -> RunError {
        match self.parts.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => RunError::Failed(error),
            None => pending().await,
        }
    }

    /// Ends all parts and detaches the programs.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while self.parts.join_next().await.is_some() {}
    }
}

/// Runs until `SIGTERM` or `SIGINT`, and takes over what changes in `file`. Whatever the outcome, the programs are
/// detached and the socket is removed.
///
/// # Errors
/// When the socket cannot be had, the programs cannot be attached, or a part of the agent fails.
pub async fn run(
    settings: &Settings,
    file: Option<ConfigFile>,
    set_log_level: impl Fn(LogLevel) + Send + 'static,
) -> Result<(), RunError> {
    let mut signals = StopSignals::new().map_err(RunError::Signals)?;
    // The sockets first: a second agent must be refused, or know that it stands by, before it attaches anything. Our own
    // before all, or who asks whether we are well could get the other agent's answer.
    let own = match &settings.fixed.standby_socket {
        Some(socket) => Some(StandbySocket::bind(socket).await?),
        None => None,
    };
    let ownership = SocketOwnership::take(&settings.fixed.plugin_dir, own.is_some()).await?;
    let live = watch::Sender::new(settings.live.clone());
    let port = match own {
        None => MetricsPort::open(live.subscribe()).await?,
        // While we stand by, Prometheus would count the same requests twice. The other agent may have the port, also when it
        // serves in another plugin directory and goes only once we are ready.
        Some(_) => MetricsPort::later(live.subscribe()),
    };
    let mut counting = Counting::start(settings, live.subscribe()).await?;
    let Counting {
        feed,
        parts,
        shutdown,
        ..
    } = &mut counting;

    let serving = watch::Sender::new(false);
    let router = server::router(feed.clone(), serving.subscribe());
    // Removed when everything has ended.
    let _own = own.map(|(socket, listener)| {
        let serving = serve(listener, router.clone(), shutdown.clone());
        parts.spawn(serving);
        socket
    });
    let (taken, listeners) = mpsc::channel(1);
    let serving_plugin = server::serve(listeners, router, shutdown.clone());
    parts.spawn(async {
        serving_plugin.await;
        RunError::Ended("server")
    });
    let mut our_turn = serving.subscribe();
    let (metrics_router, stop) = (server::metrics_router(feed.clone()), shutdown.clone());
    parts.spawn(async move {
        // Who does not have the turn at the end had no port.
        if our_turn.wait_for(|serving| *serving).await.is_ok() {
            port.serve(metrics_router, stop).await;
        }
        RunError::Ended("server of metrics")
    });
    let keeping = ownership.keep(taken, serving, shutdown.clone());
    parts.spawn(async {
        keeping
            .await
            .map_or_else(RunError::Socket, |()| RunError::Ended("socket"))
    });
    // Without a file nothing changes, but those who wait for changes need somebody who could.
    let mut unchanged = None;
    if let Some(file) = file {
        let following = file.follow(reload::PERIOD, live, set_log_level, shutdown.clone());
        parts.spawn(async {
            following.await;
            RunError::Ended("watch of its configuration file")
        });
    } else {
        unchanged = Some(live);
    }

    let outcome = tokio::select! {
        name = signals.recv() => { info!(signal = name, "stopping"); Ok(()) }
        error = counting.failure() => Err(error),
    };
    counting.stop().await;
    drop(unchanged);
    outcome
}

/// Serves on one socket for good.
async fn serve(listener: UnixListener, router: Router, shutdown: CancellationToken) -> RunError {
    let (sender, listeners) = mpsc::channel(1);
    // There is room for it.
    let _sent = sender.try_send(listener);
    server::serve(listeners, router, shutdown).await;
    RunError::Ended("server")
}

fn log_start(settings: &Settings, attachments: &Attachments) {
    let rejected: Vec<String> = attachments.rejected().iter().map(ToString::to_string).collect();
    let rejected = (!rejected.is_empty()).then(|| rejected.join("; "));
    info!(
        hook = %attachments.hook(),
        rejected,
        kernel = bpf::kernel_release(),
        preemptible = attachments.is_preemptible(),
        host_id = %settings.host_id,
        host_id_source = settings.host_id_source.describe(),
        socket = %settings.fixed.plugin_dir.socket().display(),
        metrics_address = settings.live.metrics_address.map(tracing::field::display),
        "counting HTTP requests"
    );
    if let Some(reason) = attachments.few_return_probes() {
        info!(
            reason,
            "few return probes are ready: where many threads use unix sockets at once, some calls may be missed, and are \
             counted as program_missed"
        );
    }
}
