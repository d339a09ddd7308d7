//! Both ways over virtio-vsock: a listener that echoes, and a question to the host.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, VsockAddr, bind, connect, listen, shutdown, socket,
};

use crate::sys;

/// Any context of ours.
const ANY_CID: u32 = u32::MAX;
/// The host.
pub(crate) const HOST_CID: u32 = 2;

fn stream() -> Result<OwnedFd> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None).context("socket")
}

/// Listens at `port`; each connection gets back what it sends until it ends.
pub(crate) fn echo(port: u32) -> Result<()> {
    let listener = stream()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY_CID, port)).context("bind")?;
    listen(&listener, Backlog::new(4)?).context("listen")?;
    thread::spawn(move || {
        while let Ok(mut connection) = sys::accept(&listener) {
            let mut bytes = [0u8; 4096];
            while let Ok(count @ 1..) = connection.read(&mut bytes) {
                if connection.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        }
    });
    Ok(())
}

/// Sends `word` to a `port` of the host or of a guest, and reads until the other side ends.
pub(crate) fn ask(cid: u32, port: u32, word: &str) -> Result<String> {
    let socket = stream()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)).context("connect")?;
    let mut connection = File::from(socket);
    connection.write_all(word.as_bytes())?;
    shutdown(connection.as_raw_fd(), Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
