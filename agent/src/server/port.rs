//! The TCP port for metrics: opened, moved and closed as the configuration says.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Listener, serve};
use crate::config::{Live, MetricsAddress};
use crate::error_chain::error_chain;

/// Time between two attempts to have a port that is not free.
const RETRY: Duration = Duration::from_secs(5);

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve metrics on {address}: choose another --metrics-address, or stop what listens there")]
pub struct PortError {
    /// Where.
    address: SocketAddr,
    /// Why.
    source: io::Error,
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<u32>)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, None))
    }
}

/// The port while the agent runs.
#[derive(Debug)]
pub struct MetricsPort {
    live: watch::Receiver<Live>,
    address: Option<MetricsAddress>,
    listener: Option<TcpListener>,
}

impl MetricsPort {
    /// Opens the port if one is configured.
    ///
    /// # Errors
    /// When it cannot be had. While the agent runs, that is no reason to end: it goes on trying then.
    pub async fn open(live: watch::Receiver<Live>) -> Result<Self, PortError> {
        let mut port = Self::later(live);
        if let Some(address) = port.address {
            port.listener = Some(listen(address).await?);
        }
        Ok(port)
    }

    /// The same, but it is opened only when it is served on: until then, another agent may have it.
    #[must_use]
    pub fn later(mut live: watch::Receiver<Live>) -> Self {
        let address = live.borrow_and_update().metrics_address;
        Self {
            live,
            address,
            listener: None,
        }
    }

    /// Serves on it until `shutdown`, wherever it is.
    pub async fn serve(mut self, router: Router, shutdown: CancellationToken) {
        let mut failed = false;
        while !shutdown.is_cancelled() {
            let Some(address) = self.address else {
                self.wait_for_change(&shutdown).await;
                continue;
            };
            let listener = match self.listener.take() {
                Some(listener) => Ok(listener),
                None => listen(address).await,
            };
            match listener {
                Ok(listener) => {
                    if failed {
                        info!(%address, "metrics are served now");
                    }
                    failed = false;
                    self.serve_here(listener, router.clone(), &shutdown).await;
                }
                Err(error) => {
                    if !failed {
                        error!(
                            error = error_chain(&error),
                            "metrics are not served; trying again"
                        );
                    }
                    failed = true;
                    tokio::select! {
                        () = sleep(RETRY) => {}
                        () = self.wait_for_change(&shutdown) => failed = false,
                    }
                }
            }
        }
    }

    /// Serves until the address changes. The old one is closed then: the new one may need its port.
    async fn serve_here(&mut self, listener: TcpListener, router: Router, shutdown: &CancellationToken) {
        let (sender, listeners) = mpsc::channel(1);
        // There is room for it.
        let _sent = sender.try_send(listener);
        let moved = shutdown.child_token();
        let serving = serve(listeners, router, moved.clone());
        let changing = async {
            self.wait_for_change(shutdown).await;
            moved.cancel();
        };
        tokio::join!(serving, changing);
    }

    /// Until the configured address is another one, or `shutdown`.
    async fn wait_for_change(&mut self, shutdown: &CancellationToken) {
        let before = self.address;
        let changed = self.live.wait_for(|live| live.metrics_address != before);
        let address = tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changed => changed.ok().map(|live| live.metrics_address),
        };
        match address {
            Some(address) => self.address = address,
            // Nobody can change it any more.
            None => shutdown.cancelled().await,
        }
    }
}

async fn listen(address: MetricsAddress) -> Result<TcpListener, PortError> {
    let address = address.get();
    let listening = TcpListener::bind(address).await;
    listening.map_err(|source| PortError { address, source })
}
