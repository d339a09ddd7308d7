//! A unix socket's file: made with the right mode from the start, a stale one replaced only when nobody listens, removed
//! at the end, by a [`Janitor`] where that end is a kill. What goes over the socket is its owner's business.

mod janitor;
#[cfg(test)]
mod janitor_tests;
#[cfg(test)]
mod tests;

use janitor::Ready;
pub use janitor::{Janitor, sweep};

use crate::access::can_create;
use crate::diagnosis::{of_call, of_file};
use crate::lock_file::{Attempt, FileAccess, LockFile};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use resources::{Diagnosis, ErrorKind};
use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections that wait to be accepted; the kernel allows fewer if `net.core.somaxconn` says so.
const BACKLOG: i32 = 1024;
/// How long another process may take to make its socket at the same path.
const OTHER_MAKER: Duration = Duration::from_secs(2);
/// What the name of the lock has more than that of the socket, behind a dot that hides it.
const LOCK: &str = ".numavisor-lock";

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The file's mode.
    pub mode: u32,
    /// Its group, if not the process's.
    pub group: Option<u32>,
}

impl Access {
    /// The owner alone.
    pub const OWNER: Self = Self { mode: 0o600, group: None };
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// Somebody answers there.
    #[error("{0}: another process is listening there")]
    InUse(PathBuf),
    /// Somebody is about to.
    #[error("{path}: another process is creating or removing a socket there and holds the lock {lock}")]
    InTheMaking {
        /// Where.
        path: PathBuf,
        /// What it has locked.
        lock: PathBuf,
    },
    /// It is something else.
    #[error("{0}: exists and is not a socket, must be a socket or a new path")]
    NotASocket(PathBuf),
    /// The directory that it would be in cannot be used.
    #[error("{path}: {call}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What was asked of it.
        call: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The host refused.
    #[error("{path}: {call}: {source}")]
    Host {
        /// Where.
        path: PathBuf,
        /// What was asked of it.
        call: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl SocketFileError {
    /// What kind of failure it is, and its stable code.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::InUse(_) => Diagnosis::new(ErrorKind::InUse, "socket_in_use"),
            Self::InTheMaking { .. } => Diagnosis::new(ErrorKind::Transient, "socket_busy"),
            Self::NotASocket(_) => Diagnosis::new(ErrorKind::Invalid, "not_a_socket"),
            Self::Directory { source, .. } => of_file(source),
            Self::Host { source, .. } => match source.raw_os_error() {
                // A name that no socket can have.
                Some(libc::ENAMETOOLONG | libc::EINVAL) => of_file(source),
                _ => of_call(source),
            },
        }
    }
}

/// One file among those that had its path: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn at(path: &Path) -> io::Result<Self> {
        std::fs::symlink_metadata(path).map(|meta| Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// The file of a socket that listens. It goes when this is dropped, if it is still the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
    janitor: Janitor,
}

impl SocketFile {
    /// Listens at `path`. What a dead process left there is replaced; `janitor` removes the file if this process is killed.
    ///
    /// # Errors
    /// Somebody listens there, it is something else, or a system call fails.
    pub fn listen(
        path: &Path,
        access: Access,
        janitor: &Janitor,
    ) -> Result<(UnixListener, Self), SocketFileError> {
        let janitor = janitor.ready();
        let address = UnixAddr::new(path).map_err(|error| refused(path, "bind")(error.into()))?;
        open_parent(path)?;
        let only_one = lock(path)?;
        let listening = Self::make(path, &address, access, &janitor);
        only_one.remove();
        listening
    }

    /// Why [`listen`](Self::listen) would refuse now.
    ///
    /// # Errors
    /// The same.
    pub fn check(path: &Path) -> Result<(), SocketFileError> {
        UnixAddr::new(path).map_err(|error| refused(path, "bind")(error.into()))?;
        open_parent(path)?;
        can_create(parent(path)).map_err(directory(path, "access"))?;
        is_left_behind(path).map(drop)
    }

    /// Listens at a path that nobody else makes, replaces or sweeps meanwhile.
    fn make(
        path: &Path,
        address: &UnixAddr,
        access: Access,
        janitor: &Ready<'_>,
    ) -> Result<(UnixListener, Self), SocketFileError> {
        let host = |call| move |error: nix::Error| refused(path, call)(error.into());
        remove_stale(path)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(host("socket"))?;
        // The file gets the descriptor's mode (less the umask), so it is never open to others.
        fchmod(&fd, Mode::from_bits_truncate(Access::OWNER.mode)).map_err(host("fchmod"))?;
        bind(fd.as_raw_fd(), address).map_err(host("bind"))?;
        let identity = Identity::at(path).map_err(refused(path, "lstat"))?;
        let made = Self { path: path.to_owned(), identity, janitor: janitor.keep(path, identity) };
        chown(path, None, access.group).map_err(refused(path, "chown"))?;
        std::fs::set_permissions(path, Permissions::from_mode(access.mode))
            .map_err(refused(path, "chmod"))?;
        listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(host("listen"))?;
        Ok((fd.into(), made))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own there, when somebody removed ours; or somebody may remove it just now.
        if Identity::at(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
        self.janitor.forget(&self.path, self.identity);
    }
}

/// Connects without waiting: a listener whose backlog is full is as good as none.
pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Both directions of a connection are over.
pub(crate) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let told = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    told && polled.iter().any(|fd| fd.revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)))
}

fn refused(path: &Path, call: &'static str) -> impl FnOnce(io::Error) -> SocketFileError {
    move |source| SocketFileError::Host { path: path.to_owned(), call, source }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is wrong with the directory is said of the directory.
fn open_parent(path: &Path) -> Result<(), SocketFileError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
    options.open(parent(path)).map(drop).map_err(directory(path, "open"))
}

fn directory(path: &Path, call: &'static str) -> impl FnOnce(io::Error) -> SocketFileError {
    let path = parent(path).to_owned();
    move |source| SocketFileError::Directory { path, call, source }
}

/// Where the lock of a socket is: beside it, so that it is the same however the directory is reached.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(LOCK);
    path.with_file_name(name)
}

/// Nobody else makes, replaces or sweeps a socket at this path while it is held. The file of the lock is ours alone, and
/// [removed](LockFile::remove) after.
fn lock(path: &Path) -> Result<LockFile, SocketFileError> {
    let (at, deadline) = (lock_path(path), Instant::now() + OTHER_MAKER);
    loop {
        match LockFile::attempt(&at, FileAccess { mode: 0o600, group: None }).map_err(refused(&at, "open"))? {
            Attempt::Locked(lock) => return Ok(lock),
            Attempt::Busy(_) | Attempt::Gone if Instant::now() > deadline => {
                return Err(SocketFileError::InTheMaking { path: path.to_owned(), lock: at });
            }
            Attempt::Busy(_) | Attempt::Gone => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a socket's file outlived who listened.
fn is_stale(path: &Path) -> bool {
    // To connect to any other kind of file is refused as well.
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && connect_to(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), SocketFileError> {
    match is_left_behind(path)? {
        true => std::fs::remove_file(path).map_err(refused(path, "unlink")),
        false => Ok(()),
    }
}

/// Whether there is a socket that nobody listens on; else there is nothing, or it cannot be replaced.
fn is_left_behind(path: &Path) -> Result<bool, SocketFileError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refused(path, "lstat")(error)),
        Ok(meta) if !meta.file_type().is_socket() => Err(SocketFileError::NotASocket(path.to_owned())),
        Ok(_) => match connect_to(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(refused(path, "connect")(error))
            }
            // Answered, or too many wait to be.
            _ => Err(SocketFileError::InUse(path.to_owned())),
        },
    }
}
