//! What a socket device asks of the host: streams, made by host processes or for the guest.
//! That they are unix sockets, and where they lie, is left to `vmm`.

use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Most pieces that a stream is received into at once (`IOV_MAX`).
pub const MAX_PIECES: usize = 1024;

/// A stream to a host process. Never blocks: where there is nothing to do, calls fail with
/// [`io::ErrorKind::WouldBlock`].
pub trait HostStream: Send + 'static {
    /// The descriptor to wait on.
    fn fd(&self) -> RawFd;

    /// Takes what has come, in one call; 0 if no more will. At most [`MAX_PIECES`] pieces, none empty.
    fn receive<B: BitmapSlice>(&mut self, into: &[VolatileSlice<'_, B>]) -> io::Result<usize>;

    /// Sends what it can take.
    fn send<B: BitmapSlice>(&mut self, from: &VolatileSlice<'_, B>) -> io::Result<usize>;

    /// Ends one direction or both.
    fn shutdown(&mut self, how: Shutdown);

    /// Whether the process at the other end is gone for good, and not only silent from now on.
    fn is_hung_up(&self) -> bool;
}

/// Where streams come from. Never blocks.
pub trait HostSockets: Send + Sync + 'static {
    /// What it gives.
    type Stream: HostStream;

    /// The descriptor that becomes readable when a host process wants to connect.
    fn listener(&self) -> RawFd;

    /// The next host process that wants to connect.
    fn accept(&self) -> io::Result<Self::Stream>;

    /// Connects to the host's `port` for the guest.
    fn connect(&self, port: u32) -> io::Result<Self::Stream>;
}
