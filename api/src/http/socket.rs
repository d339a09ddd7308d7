//! The socket's file: made with the right mode from the start, a stale one replaced only when nobody listens, removed
//! at the end; or the socket that systemd listens on for us.

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Group;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The path that stands for the socket that systemd passes.
const FROM_SYSTEMD: &str = "systemd";
/// Who but the owner may connect, unless said.
const OWNER_ONLY: u32 = 0o600;
/// Connections that wait to be accepted; the kernel allows fewer if `net.core.somaxconn` says so.
const BACKLOG: i32 = 1024;
/// How long another process may take to make its socket in the same directory.
const OTHER_MAKER: Duration = Duration::from_secs(2);

/// Where to listen, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// The file, or `systemd`.
    pub path: PathBuf,
    /// Its mode; 0600 if not said, 0660 if a group is.
    pub mode: Option<u32>,
    /// Its group, by name or number.
    pub group: Option<String>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("--api-socket: {0}: another process listens there")]
    InUse(PathBuf),
    /// It is something else.
    #[error("--api-socket: {0}: exists and is not a socket, must be a path for a new socket")]
    NotASocket(PathBuf),
    /// No such group.
    #[error("--api-socket-group: `{0}` is not a group of this host")]
    NoSuchGroup(String),
    /// Nothing was passed.
    #[error("--api-socket: systemd: {0}")]
    NotPassed(String),
    /// The host refused.
    #[error("--api-socket: {path}: {call}: {source}")]
    Host {
        /// Where.
        path: PathBuf,
        /// What was asked of it.
        call: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that listens. Its file goes when it is dropped, if it is still the same.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    file: Option<(PathBuf, (u64, u64))>,
}

impl Socket {
    /// Makes the socket, or takes the one that was passed.
    pub fn open(spec: &SocketSpec) -> Result<Self, SocketError> {
        if spec.path == Path::new(FROM_SYSTEMD) {
            let pid = std::process::id();
            return passed(pid, |name| std::env::var(name).ok());
        }
        let host = |call: &'static str, source: io::Error| SocketError::Host {
            path: spec.path.clone(),
            call,
            source,
        };
        let group = spec.group.as_deref().map(group_id).transpose()?;
        let _only_one = lock_directory(&spec.path).map_err(|error| host("flock", error))?;
        remove_stale(&spec.path)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(|error| host("socket", error.into()))?;
        // The file gets the descriptor's mode (less the umask), so it is never open to others.
        let bits = Mode::from_bits_truncate(OWNER_ONLY);
        fchmod(&fd, bits).map_err(|error| host("fchmod", error.into()))?;
        let address = UnixAddr::new(&spec.path).map_err(|error| host("bind", error.into()))?;
        bind(fd.as_raw_fd(), &address).map_err(|error| host("bind", error.into()))?;
        let file = identity(&spec.path).map_err(|error| host("stat", error))?;
        let mut made = Self { listener: None, file: Some((spec.path.clone(), file)) };
        chown(&spec.path, None, group).map_err(|error| host("chown", error))?;
        let mode = spec.mode.unwrap_or(if group.is_some() { 0o660 } else { OWNER_ONLY });
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&spec.path, mode).map_err(|error| host("chmod", error))?;
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        listen(&fd, backlog).map_err(|error| host("listen", error.into()))?;
        made.listener = Some(fd.into());
        Ok(made)
    }

    /// The socket itself, once.
    pub fn listener(&mut self) -> io::Result<UnixListener> {
        self.listener.take().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((path, file)) = &self.file {
            // Another process may have put its own there, when somebody removed ours.
            if identity(path).is_ok_and(|now| now == *file) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Nobody else makes or replaces a socket in this directory while it is held.
fn lock_directory(path: &Path) -> io::Result<Flock<File>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut directory = File::open(parent.unwrap_or(Path::new(".")))?;
    let deadline = Instant::now() + OTHER_MAKER;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if Instant::now() > deadline => return Err(errno.into()),
            Err((again, _)) => directory = again,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let host = |call, source| SocketError::Host { path: path.to_owned(), call, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(host("stat", error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| host("unlink", error))
        }
        Err(error) => Err(host("connect", error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

fn group_id(name: &str) -> Result<u32, SocketError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = Group::from_name(name).ok().flatten();
    found.map(|group| group.gid.as_raw()).ok_or_else(|| SocketError::NoSuchGroup(name.to_owned()))
}

/// The socket of `sd_listen_fds(3)`: one, for this process, a unix socket that listens.
fn passed(pid: u32, env: impl Fn(&str) -> Option<String>) -> Result<Socket, SocketError> {
    let refused = |why: &str| Err(SocketError::NotPassed(why.to_owned()));
    match (env("LISTEN_PID"), env("LISTEN_FDS")) {
        (Some(for_pid), Some(_)) if for_pid != pid.to_string() => {
            return refused("LISTEN_PID names another process");
        }
        (Some(_), Some(count)) if count != "1" => return refused("LISTEN_FDS must be 1"),
        (Some(_), Some(_)) => {}
        (None, _) | (_, None) => return refused("no socket was passed (LISTEN_PID, LISTEN_FDS)"),
    }
    let fd = vmm::take_inherited_fd().map_err(|error| SocketError::NotPassed(error.to_string()))?;
    let listens = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::AcceptConn);
    if !listens.unwrap_or(false) {
        return refused("descriptor 3 is not a socket that listens");
    }
    let listener = UnixListener::from(fd);
    if listener.local_addr().is_err() {
        return refused("descriptor 3 is not a unix socket");
    }
    Ok(Socket { listener: Some(listener), file: None })
}

#[cfg(test)]
mod tests;
