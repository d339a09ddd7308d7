//! The listening socket: a file created here, or the socket that systemd passes.

use crate::group;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use vmm::{Access, Janitor, SocketFile, SocketFileError};

/// The special path for the socket that systemd passes.
const FROM_SYSTEMD: &str = "systemd";

/// A listening socket and its permissions.
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
    /// It cannot be made.
    #[error("--api-socket: {0}")]
    File(#[from] SocketFileError),
    /// No such group.
    #[error("--api-socket-group: `{0}` is not a group of this host")]
    NoSuchGroup(String),
    /// Nothing was passed.
    #[error("--api-socket: systemd: {0}")]
    NotPassed(String),
}

/// A socket that listens. Its file goes when it is dropped, if it is still the same.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    _file: Option<SocketFile>,
}

impl Socket {
    /// Makes the socket, or takes the one that was passed.
    pub fn open(spec: &SocketSpec, cleanup: &Janitor) -> Result<Self, SocketError> {
        if spec.path == Path::new(FROM_SYSTEMD) {
            let pid = std::process::id();
            return passed(pid, |name| std::env::var(name).ok());
        }
        let group = spec
            .group
            .as_deref()
            .map(|name| group::id(name).ok_or_else(|| SocketError::NoSuchGroup(name.to_owned())));
        let group = group.transpose()?;
        let mode = spec.mode.unwrap_or(if group.is_some() { 0o660 } else { Access::OWNER.mode });
        let (listener, file) = SocketFile::listen(&spec.path, Access { mode, group }, cleanup)?;
        Ok(Self { listener: Some(listener), _file: Some(file) })
    }

    /// The socket itself, once.
    pub fn listener(&mut self) -> io::Result<UnixListener> {
        self.listener.take().ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }
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
    let fd = vmm::inherited_fd().map_err(|error| SocketError::NotPassed(error.to_string()))?;
    let listens = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::AcceptConn);
    if !listens.unwrap_or(false) {
        return refused("descriptor 3 is not a listening socket");
    }
    let listener = UnixListener::from(fd);
    if listener.local_addr().is_err() {
        return refused("descriptor 3 is not a unix socket");
    }
    Ok(Socket { listener: Some(listener), _file: None })
}

#[cfg(test)]
mod tests;
