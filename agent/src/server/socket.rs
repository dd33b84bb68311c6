//! The socket on disk.
//!
//! Scope finds plugins by looking for sockets. One that nobody listens on shows as a broken plugin, and two agents
//! on one path would hide each other, so: a socket that nobody listens on is replaced, one that somebody listens on
//! is never touched, and what was created is removed at the end, but only if it is still ours.
//!
//! An agent that is to stand by waits for the other one to leave ([`PluginSocket::take_over`]). Looking, making and removing
//! happen while the directory is held ([`hold`]), so that whatever the order of leaving and coming, there is one socket.
//!
//! Scope's directory may be replaced while the agent runs, or another file system mounted over it. Then the socket is out
//! of sight and is made anew ([`PluginSocket::keep`]).

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
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
/// Pause between two attempts to have a socket that another one listens on; only if it would not say when it leaves.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(50);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A directory is missing and cannot be created.
    #[error("failed to create the directory {}: {}", .path.display(), fix(.source, option))]
    CreateDir {
        /// What asked for it.
        option: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    #[error("failed to use the directory {}: {}", .path.display(), fix(.source, PLUGIN_DIR))]
    UseDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process listens.
    #[error(
        "failed to listen on {}: {} listens there already: stop it, or choose another {option}",
        .path.display(), describe(*.pid)
    )]
    InUse {
        /// What asked for it.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// Who listens, if that can be seen from our PID namespace.
        pid: Option<i32>,
    },
    /// There is something that is no socket.
    #[error("failed to listen on {}: it exists and is no socket: remove it, or choose another {option}", .path.display())]
    NotASocket {
        /// What asked for it.
        option: &'static str,
        /// What is there.
        path: PathBuf,
    },
    /// Anything else.
    #[error("failed to listen on {}: {}", .path.display(), fix(.source, option))]
    Listen {
        /// What asked for it.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The option that says where the plugin's socket is.
pub const PLUGIN_DIR: &str = "--plugin-dir";

fn fix(cause: &io::Error, option: &str) -> String {
    match cause.kind() {
        ErrorKind::PermissionDenied => format!(
            "run the agent as root (sudo), or with CAP_BPF and CAP_PERFMON and a {option} it may write to"
        ),
        _ => format!("choose another {option}"),
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
    /// Looks by connecting. `option` is what says where to look.
    ///
    /// # Errors
    /// When there is something else than a socket, or it may not be connected to.
    pub async fn of(path: &Path, option: &'static str) -> Result<Self, SocketError> {
        let listen_error = |source| SocketError::Listen {
            option,
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => {}
            Ok(_) => {
                return Err(SocketError::NotASocket {
                    option,
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
            // Reset: who listened left before it took us.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(Self::Stale)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(listen_error(error)),
        }
    }
}

/// How often others may make or remove a directory while we make it, before that is an error.
const OTHERS_MEANWHILE: usize = 100;

/// Device and inode of a file. Tells whether what is at a path is what was there before.
type FileId = (u64, u64);

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Directories we created, innermost last. Removed again when dropped, unless they are others' by now or others put
/// something in.
#[derive(Debug, Default)]
pub(super) struct CreatedDirs(Vec<(PathBuf, FileId)>);

impl CreatedDirs {
    /// Makes `path` and what is missing above it. `option` is what asks for it.
    pub(super) fn create(&mut self, path: &Path, mode: u32, option: &'static str) -> Result<(), SocketError> {
        // Agents that leave take along what they made.
        let mut others = 0..OTHERS_MEANWHILE;
        loop {
            if path.is_dir() {
                return Ok(());
            }
            if let Some(parent) = path.parent() {
                self.create(parent, 0o755, option)?;
            }
            let source = match DirBuilder::new().mode(mode).create(path) {
                Ok(()) => {
                    self.add(path);
                    return Ok(());
                }
                Err(source) => source,
            };
            let may_have_changed = path.is_dir()
                || fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
            let is_of_others = matches!(source.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound);
            if !(is_of_others && may_have_changed) || others.next().is_none() {
                return Err(SocketError::CreateDir {
                    option,
                    path: path.to_owned(),
                    source,
                });
            }
        }
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

/// The file that was bound. Removed when dropped, if it is still the one.
#[derive(Debug)]
pub(super) struct BoundFile {
    path: PathBuf,
    id: SocketId,
}

/// A bound file, and when it was bound, in seconds and nanoseconds: what another agent binds in its place may get the very
/// inode that has just become free.
type SocketId = (FileId, i64, i64);

fn socket_id(path: &Path) -> io::Result<SocketId> {
    // Nobody writes to a socket's file, so it was modified when it was made.
    fs::symlink_metadata(path).map(|metadata| {
        (
            (metadata.dev(), metadata.ino()),
            metadata.mtime(),
            metadata.mtime_nsec(),
        )
    })
}

impl BoundFile {
    /// Listens at `path`, which `option` names. Also says whether there was a socket that nobody listened on.
    ///
    /// # Errors
    /// When somebody listens there, or something is in the way.
    pub(super) async fn bind(
        path: PathBuf,
        option: &'static str,
    ) -> Result<(Self, UnixListener, bool), SocketError> {
        let listen_error = |source| SocketError::Listen {
            option,
            path: path.clone(),
            source,
        };
        let state = SocketState::of(&path, option).await?;
        match state {
            SocketState::Live(pid) => return Err(SocketError::InUse { option, path, pid }),
            SocketState::Stale => fs::remove_file(&path).map_err(listen_error)?,
            SocketState::Absent => {}
        }
        let listener = UnixListener::bind(&path).map_err(listen_error)?;
        let id = socket_id(&path).map_err(listen_error)?;
        Ok((Self { path, id }, listener, matches!(state, SocketState::Stale)))
    }
}

impl Drop for BoundFile {
    fn drop(&mut self) {
        match socket_id(&self.path) {
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
    held: Option<File>,
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        // Who comes now must not take a directory that is about to be removed.
        self.held = match lock_directory(&self.plugin_dir.socket_dir()) {
            Ok(DirectoryLock::Held(held)) => Some(held),
            // It is about to bind, or to find our socket.
            Ok(DirectoryLock::Others(dir)) => dir.lock().ok().map(|()| dir),
            Ok(DirectoryLock::Gone) | Err(_) => None,
        };
    }
}

impl PluginSocket {
    /// Listens at `plugin_dir`'s socket, in a directory that only we may enter.
    ///
    /// # Errors
    /// When another agent listens there, or files or permissions are in the way. Nothing is left behind.
    pub async fn claim(plugin_dir: &PluginDir) -> Result<(Self, UnixListener), SocketError> {
        let mut dirs = CreatedDirs::default();
        let dir = plugin_dir.socket_dir();
        dirs.create(plugin_dir.path(), 0o755, PLUGIN_DIR)?;
        if is_deleted(plugin_dir.path()) {
            let path = plugin_dir.path().to_owned();
            return Err(SocketError::Deleted { path });
        }
        let use_error = |source| SocketError::UseDir {
            path: dir.clone(),
            source,
        };
        let held = loop {
            dirs.create(&dir, 0o700, PLUGIN_DIR)?;
            match lock_directory(&dir).map_err(use_error)? {
                DirectoryLock::Held(held) => break held,
                // Not by blocking: who holds it may need this thread to go on.
                DirectoryLock::Others(_) => sleep(TAKE_OVER_PAUSE).await,
                // An agent that left took it along.
                DirectoryLock::Gone => {}
            }
        };
        make_private(&held).map_err(use_error)?;

        let (file, listener, was_stale) = BoundFile::bind(plugin_dir.socket(), PLUGIN_DIR).await?;
        if was_stale {
            // Who left its socket could not remove its directory either. Now it is ours to remove.
            dirs.add(&dir);
        }
        drop(held);
        Ok((
            Self {
                file,
                dirs,
                plugin_dir: plugin_dir.clone(),
                held: None,
            },
            listener,
        ))
    }

    /// The same, but while another agent listens there, waits until it leaves or is killed.
    ///
    /// # Errors
    /// When files or permissions are in the way.
    pub async fn take_over(plugin_dir: &PluginDir) -> Result<(Self, UnixListener), SocketError> {
        loop {
            match Self::claim(plugin_dir).await {
                Ok((mut socket, listener)) => {
                    // Who left could not remove it while we were about to come.
                    socket.dirs.add(&plugin_dir.socket_dir());
                    return Ok((socket, listener));
                }
                Err(SocketError::InUse { path, .. }) => until_left(&path).await,
                Err(error) => return Err(error),
            }
        }
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
            if socket_id(path).is_ok_and(|id| id == self.file.id) {
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

/// A directory that is to be held.
enum DirectoryLock {
    /// Until the file is closed.
    Held(File),
    /// Another agent does; not for long.
    Others(File),
    /// It is not there any more.
    Gone,
}

/// Holds a directory, which one agent does at a time: two that start at once must not both find a socket stale, nor may one
/// come while another one leaves.
fn lock_directory(dir: &Path) -> io::Result<DirectoryLock> {
    let gone = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Ok(DirectoryLock::Gone),
        _ => Err(error),
    };
    let file = match File::open(dir) {
        Ok(file) => file,
        Err(error) => return gone(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(DirectoryLock::Others(file)),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let held = file.metadata()?;
    match fs::metadata(dir) {
        Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => Ok(DirectoryLock::Held(file)),
        Ok(_) => Ok(DirectoryLock::Gone),
        Err(error) => gone(error),
    }
}

/// Only we may enter the directory.
fn make_private(dir: &File) -> io::Result<()> {
    if dir.metadata()?.permissions().mode() & 0o777 != 0o700 {
        dir.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Until who listens at `path` closes our connection, which it does when it stops, and the kernel when it is killed. Also
/// when it has waited long enough for a request; then there is still somebody.
async fn until_left(path: &Path) {
    sleep(TAKE_OVER_PAUSE).await;
    let Ok(stream) = UnixStream::connect(path).await else {
        return;
    };
    let mut farewell = [0; 1024];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut farewell) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
