//! Start and stop.

use std::future::pending;
use std::io;
use std::net::SocketAddr;

use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::controller;
use crate::default_resource::DefaultResource;
use crate::leader::{Candidate, Leadership};
use crate::metrics::Metrics;
use crate::server;

/// Why the operator cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operator neither runs in a cluster nor was told of one.
    #[error("failed to find an API server: run in a cluster, or set KUBECONFIG")]
    Config(#[from] kube::config::InferConfigError),
    /// The kubeconfig, or what the pod was given, cannot be used.
    #[error("failed to connect to the API server: check KUBECONFIG")]
    Client(#[from] kube::Error),
    /// Another process has the port, or the host has no such address.
    #[error("failed to listen on {address}: choose another address with --listen")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// No more connections can be accepted.
    #[error("failed to serve /healthz, /readyz and /metrics")]
    Serve(#[source] io::Error),
    /// There is no runtime, or no handler of signals.
    #[error("failed to start: raise the limits of processes and open files (ulimit -u, ulimit -n)")]
    Start(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT. `namespace` is where the agents go; without one, where the operator runs. With
/// `leader_election` it works only while it holds the `Lease` there. `default_resource` is applied as soon as that is
/// possible.
///
/// # Errors
/// When it cannot start. What goes wrong later is retried.
pub(crate) fn run(
    namespace: Option<String>,
    listen: SocketAddr,
    leader_election: bool,
    default_resource: Option<&DefaultResource>,
) -> Result<(), Error> {
    // One thread: it waits most of the time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Start)?;
        let mut config = Config::infer().await?;
        // What writes retries by itself, with a backoff that grows and shows in the status.
        config.default_retry = false;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        let listener = TcpListener::bind(listen).await.map_err(|source| Error::Listen {
            address: listen,
            source,
        })?;
        let address = listener.local_addr().map_err(Error::Serve)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), namespace, %address, "started");

        let metrics = Metrics::default();
        let (waiting, waiting_for) = watch::channel(Some("the API server"));
        let server = server::serve(listener, metrics.clone(), waiting_for, stop.clone());
        // Boxed, since these futures are large.
        let work = |leadership| {
            let applying = default_resource
                .cloned()
                .map(|resource| Box::pin(resource.apply(client.clone())));
            let controller = Box::pin(controller::run(
                client.clone(),
                namespace.clone(),
                metrics.clone(),
                leadership,
                waiting.clone(),
                stop.clone(),
            ));
            async {
                let applying = async {
                    if let Some(applying) = applying {
                        applying.await;
                    }
                    // The work ends with the controller only.
                    pending::<()>().await;
                };
                tokio::select! {
                    () = controller => {}
                    () = applying => {}
                }
            }
        };
        let signals = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
        };
        // Whichever of the three ends first stops the others.
        let controller = async {
            if leader_election {
                let candidate = Candidate::new(client.clone(), &namespace);
                candidate.run(&waiting, &stop, work).await;
            } else {
                work(Leadership::unlimited()).await;
            }
            stop.cancel();
        };
        let server = async {
            let result = server.await;
            stop.cancel();
            result.map_err(Error::Serve)
        };
        let signals = async {
            tokio::select! {
                () = signals => {}
                () = stop.cancelled() => {}
            }
        };
        let (result, (), ()) = tokio::join!(server, controller, signals);
        tracing::info!("stopped");
        result
    })
}
