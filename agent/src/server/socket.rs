//! The socket on disk.
//!
//! Scope finds plugins by looking for sockets. One that nobody listens on shows as a broken plugin, and two agents
//! on one path would hide each other, so: a socket that nobody listens on is replaced, one that somebody listens on
//! is never touched, and what was created is removed at the end, but only if it is still ours.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use crate::config::PluginDir;

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

/// Directories we created, innermost last. Removed again when dropped, unless others put something in.
#[derive(Debug, Default)]
struct CreatedDirs(Vec<PathBuf>);

impl CreatedDirs {
    fn create(&mut self, path: &Path, mode: u32) -> Result<(), SocketError> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create(parent, 0o755)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => self.0.push(path.to_owned()),
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
}

impl Drop for CreatedDirs {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
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
    identity: (u64, u64),
}

impl BoundFile {
    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

impl Drop for BoundFile {
    fn drop(&mut self) {
        match Self::identity(&self.path) {
            Ok(identity) if identity == self.identity => {
                if let Err(error) = fs::remove_file(&self.path) {
                    warn!(path = %self.path.display(), %error, "failed to remove the socket");
                }
            }
            Ok(_) => warn!(path = %self.path.display(), "the socket is another's by now and stays"),
            Err(error) => debug!(path = %self.path.display(), %error, "the socket is gone already"),
        }
    }
}

/// Our socket. When dropped, it and the directories made for it are removed.
#[derive(Debug)]
pub struct PluginSocket {
    // Dropped in this order.
    _file: BoundFile,
    _dirs: CreatedDirs,
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
                dirs.0.push(dir);
            }
            SocketState::Absent => {}
        }
        let listener = UnixListener::bind(&path).map_err(listen_error)?;
        let identity = BoundFile::identity(&path).map_err(listen_error)?;
        let file = BoundFile { path, identity };
        drop(lock);
        Ok((
            Self {
                _file: file,
                _dirs: dirs,
            },
            listener,
        ))
    }
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
