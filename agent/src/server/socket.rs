//! The socket on disk.
//!
//! Scope finds plugins by looking for sockets. One that nobody listens on shows as a broken plugin, and two agents
//! on one path would hide each other, so: a socket that nobody listens on is replaced, one that somebody listens on
//! is never touched, and what was created is removed at the end, but only if it is still ours.
//!
//! Scope's directory may be replaced while the agent runs, or another file system mounted over it. Then the socket is out
//! of sight and is made anew ([`PluginSocket::keep`]).

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::PluginDir;

/// How often it is looked whether the socket is still in its place. Scope looks for plugins every 5 s.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A directory is missing and cannot be created.
    #[error("failed to create the directory {}: {cause}: {}", .path.display(), fix(.cause))]
    CreateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The plugin directory is a mount of a directory that was deleted since: nothing can be made in it ever again.
    #[error(
        "failed to use the directory {}: it was replaced after it had been mounted here, and what is seen here is the \
         deleted one: restart the agent's container",
        .path.display()
    )]
    Deleted {
        /// The directory.
        path: PathBuf,
    },
    /// The socket's directory cannot be used.
    #[error("failed to use the directory {}: {cause}: {}", .path.display(), fix(.cause))]
    UseDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Another process listens.
    #[error(
        "failed to listen on {}: {} listens there already: stop it, or choose another --plugin-dir",
        .path.display(), describe(*.pid)
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens, if that can be seen from our PID namespace.
        pid: Option<i32>,
    },
    /// There is something that is no socket.
    #[error("failed to listen on {}: it exists and is no socket: remove it, or choose another --plugin-dir", .path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// Anything else.
    #[error("failed to listen on {}: {cause}: {}", .path.display(), fix(.cause))]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

fn fix(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::PermissionDenied => {
            "run the agent as root (sudo), or with CAP_BPF and CAP_PERFMON and a --plugin-dir it may write to"
        }
        _ => "choose another --plugin-dir",
    }
}

fn describe(pid: Option<i32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "a process of another PID namespace".to_owned(),
    }
}

/// What is at a socket's path.
#[derive(Debug)]
pub enum SocketState {
    /// Nothing.
    Absent,
    /// A socket that nobody listens on.
    Stale,
    /// A socket that somebody listens on, who has this pid if it is in our PID namespace.
    Live(Option<i32>),
}

impl SocketState {
    /// Looks by connecting.
    ///
    /// # Errors
    /// When there is something else than a socket, or it may not be connected to.
    pub async fn of(path: &Path) -> Result<Self, SocketError> {
        let listen_error = |cause| SocketError::Listen {
            path: path.to_owned(),
            cause,
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {}
            Ok(_) => {
                return Err(SocketError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(listen_error(error)),
        }
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let pid = stream
                    .peer_cred()
                    .ok()
                    .and_then(|peer| peer.pid())
                    .filter(|pid| *pid > 0);
                Ok(Self::Live(pid))
            }
            // Its queue is full: somebody listens, if slowly.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Self::Live(None)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Self::Stale),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(listen_error(error)),
        }
    }
}

/// Device and inode of a file. Tells whether what is at a path is what was there before.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Directories we created, innermost last. Removed again when dropped, unless they are others' by now or others put
/// something in.
#[derive(Debug, Default)]
struct CreatedDirs(Vec<(PathBuf, FileId)>);

impl CreatedDirs {
    fn create(&mut self, path: &Path, mode: u32) -> Result<(), SocketError> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create(parent, 0o755)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => self.add(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(cause) => {
                return Err(SocketError::CreateDir {
                    path: path.to_owned(),
                    cause,
                });
            }
        }
        Ok(())
    }

    fn is_ours((path, id): &(PathBuf, FileId)) -> bool {
        file_id(path).is_ok_and(|now| now == *id)
    }

    fn add(&mut self, path: &Path) {
        if let Ok(id) = file_id(path) {
            self.0.push((path.to_owned(), id));
        }
    }
}

impl Drop for CreatedDirs {
    fn drop(&mut self) {
        for (path, _) in self.0.iter().rev().filter(|dir| Self::is_ours(dir)) {
            if let Err(error) = fs::remove_dir(path) {
                debug!(path = %path.display(), %error, "directory stays");
                return;
            }
        }
    }
}

/// The file that was bound, by device and inode. Removed when dropped, if it is still the one.
#[derive(Debug)]
struct BoundFile {
    path: PathBuf,
    id: FileId,
}

impl Drop for BoundFile {
    fn drop(&mut self) {
        match file_id(&self.path) {
            Ok(id) if id == self.id => {
                if let Err(error) = fs::remove_file(&self.path) {
                    warn!(path = %self.path.display(), %error, "failed to remove the socket");
                }
            }
            Ok(_) => debug!(path = %self.path.display(), "the socket is another's by now and stays"),
            Err(error) => debug!(path = %self.path.display(), %error, "the socket is gone already"),
        }
    }
}

/// Our socket. When dropped, it and the directories made for it are removed.
#[derive(Debug)]
pub struct PluginSocket {
    // Dropped in this order.
    file: BoundFile,
    dirs: CreatedDirs,
    plugin_dir: PluginDir,
}

impl PluginSocket {
    /// Listens at `plugin_dir`'s socket, in a directory that only we may enter.
    ///
    /// # Errors
    /// When another agent listens there, or files or permissions are in the way. Nothing is left behind.
    pub async fn claim(plugin_dir: &PluginDir) -> Result<(Self, UnixListener), SocketError> {
        let mut dirs = CreatedDirs::default();
        let dir = plugin_dir.socket_dir();
        dirs.create(plugin_dir.path(), 0o755)?;
        if is_deleted(plugin_dir.path()) {
            let path = plugin_dir.path().to_owned();
            return Err(SocketError::Deleted { path });
        }
        dirs.create(&dir, 0o700)?;
        let lock = lock(&dir).map_err(|cause| SocketError::UseDir {
            path: dir.clone(),
            cause,
        })?;

        let path = plugin_dir.socket();
        let listen_error = |cause| SocketError::Listen {
            path: path.clone(),
            cause,
        };
        match SocketState::of(&path).await? {
            SocketState::Live(pid) => return Err(SocketError::InUse { path, pid }),
            SocketState::Stale => {
                fs::remove_file(&path).map_err(listen_error)?;
                // Who left its socket could not remove its directory either. Now it is ours to remove.
                dirs.add(&dir);
            }
            SocketState::Absent => {}
        }
        let listener = UnixListener::bind(&path).map_err(listen_error)?;
        let id = file_id(&path).map_err(listen_error)?;
        let file = BoundFile { path, id };
        drop(lock);
        Ok((
            Self {
                file,
                dirs,
                plugin_dir: plugin_dir.clone(),
            },
            listener,
        ))
    }

    /// Looks after the socket until `shutdown`: when it is not in its place any more, makes a new one and hands out its
    /// listener, as soon as that is possible. At the end it is removed.
    ///
    /// # Errors
    /// When that can never be possible again.
    pub async fn keep(
        mut self,
        listeners: mpsc::Sender<UnixListener>,
        shutdown: CancellationToken,
    ) -> Result<(), SocketError> {
        let mut obstacle = String::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(LOOK_INTERVAL) => {}
            }
            let path = &self.file.path;
            if file_id(path).is_ok_and(|id| id == self.file.id) {
                continue;
            }
            match Self::claim(&self.plugin_dir).await {
                Ok((mut new, listener)) => {
                    info!(path = %path.display(), "the socket was gone; here it is again");
                    // What is left of the directories made before is still to be removed at the end.
                    let left = self.dirs.0.drain(..).filter(CreatedDirs::is_ours);
                    new.dirs.0.splice(0..0, left);
                    self = new;
                    obstacle.clear();
                    // Nobody serves: the agent is about to stop.
                    let _stopping = listeners.send(listener).await;
                }
                Err(error @ SocketError::Deleted { .. }) => return Err(error),
                Err(error) => {
                    let error = error.to_string();
                    if error != obstacle {
                        warn!(error, "the socket is gone; trying to make a new one");
                        obstacle = error;
                    }
                }
            }
        }
    }
}

/// Whether a directory has no name any more. Only a mount makes one visible.
fn is_deleted(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Makes the directory ours alone, and holds it until the returned file is closed: two agents that start at once
/// must not both find the socket stale.
fn lock(dir: &Path) -> io::Result<File> {
    let file = File::open(dir)?;
    file.lock()?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(file)
}
