//! Standing by: one agent replaces another without a gap.
//!
//! An agent with a socket of its own ([`StandbySocket`]) that finds the plugin's socket taken attaches and samples like any
//! other, answers on its own socket, and takes the plugin's as soon as the other agent leaves it. What it has sampled until
//! then is in its first report to Scope. Its own socket stays until it ends, so that it can be told from the other one.
//!
//! docs/adr/0004-agents-stand-by.md says why so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::pin::pin;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::socket::{BoundFile, CreatedDirs, PluginSocket, SocketError};
use crate::config::{self, PluginDir};

/// The option that says where our own socket is.
const STANDBY_SOCKET: &str = "--standby-socket";
/// Who stands by longer than this is not there to replace an agent that is about to stop.
const LONG: Duration = Duration::from_mins(10);

/// Our own socket. When dropped, it and the directories made for it are removed.
#[derive(Debug)]
pub struct StandbySocket {
    // Dropped in this order.
    _file: BoundFile,
    _dirs: CreatedDirs,
}

impl StandbySocket {
    /// Listens there; only we may connect.
    ///
    /// # Errors
    /// When another agent listens there, or files or permissions are in the way.
    pub async fn bind(socket: &config::StandbySocket) -> Result<(Self, UnixListener), SocketError> {
        let path = socket.path().to_owned();
        let mut dirs = CreatedDirs::default();
        if let Some(parent) = path.parent() {
            dirs.create(parent, 0o700, STANDBY_SOCKET)?;
        }
        let (file, listener, _) = BoundFile::bind(path.clone(), STANDBY_SOCKET).await?;
        let private = Permissions::from_mode(0o600);
        fs::set_permissions(&path, private).map_err(|source| SocketError::Listen {
            option: STANDBY_SOCKET,
            path,
            source,
        })?;
        let socket = Self {
            _file: file,
            _dirs: dirs,
        };
        Ok((socket, listener))
    }
}

/// The plugin's socket, or another agent's turn with it.
#[derive(Debug)]
pub enum SocketOwnership {
    /// Ours.
    Ours(PluginSocket, UnixListener),
    /// Another's, until it leaves.
    Others(PluginDir),
}

impl SocketOwnership {
    /// Listens at `plugin_dir`'s socket, or stands by if `may_stand_by` and another agent listens there.
    ///
    /// # Errors
    /// When neither is possible.
    pub async fn take(plugin_dir: &PluginDir, may_stand_by: bool) -> Result<Self, SocketError> {
        match PluginSocket::claim(plugin_dir).await {
            Ok((socket, listener)) => Ok(Self::Ours(socket, listener)),
            Err(SocketError::InUse { path, pid, .. }) if may_stand_by => {
                info!(
                    socket = %path.display(),
                    pid,
                    "standing by: another agent serves; taking over when it leaves"
                );
                Ok(Self::Others(plugin_dir.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// Hands out the listener of the plugin's socket as soon as it is ours, says so in `serving`, and looks after the socket
    /// until `shutdown`.
    ///
    /// # Errors
    /// When it can never be ours.
    pub async fn keep(
        self,
        listeners: mpsc::Sender<UnixListener>,
        serving: watch::Sender<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), SocketError> {
        let (socket, listener) = match self {
            Self::Ours(socket, listener) => (socket, listener),
            Self::Others(plugin_dir) => {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    taken = stand_by(&plugin_dir) => taken?,
                }
            }
        };
        // Nobody serves: the agent is about to stop.
        let _stopping = listeners.send(listener).await;
        serving.send_replace(true);
        socket.keep(listeners, shutdown).await
    }
}

async fn stand_by(plugin_dir: &PluginDir) -> Result<(PluginSocket, UnixListener), SocketError> {
    let mut taking_over = pin!(PluginSocket::take_over(plugin_dir));
    let taken = tokio::select! {
        taken = &mut taking_over => taken,
        () = sleep(LONG) => {
            warn!("still standing by: are there two agents on this host that are both to stay?");
            taking_over.await
        }
    };
    if taken.is_ok() {
        info!(socket = %plugin_dir.socket().display(), "taken over: the other agent has left");
    }
    taken
}
