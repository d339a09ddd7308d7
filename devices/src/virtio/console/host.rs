//! The host's end of a console.

use std::io;
use std::os::fd::RawFd;

/// A file that takes all output, or a terminal that clients attach to and leave, one at a time. No call blocks for longer
/// than a file's write.
pub trait ConsoleHost: Send {
    /// Readable when a client wants to attach; `None` where none can.
    fn listener(&self) -> Option<RawFd>;

    /// A client may wait at the listener: takes it, or sends it away while another one is there. True if there is a new
    /// one.
    ///
    /// # Errors
    /// It cannot be let in now and still waits: the host has no descriptors left, most likely.
    fn attach(&mut self) -> io::Result<bool>;

    /// The client: readable when it typed, or is gone; writable when it can take more.
    fn attached(&self) -> Option<RawFd>;

    /// What the client typed; 0 when it will type no more, but may still read.
    ///
    /// # Errors
    /// `WouldBlock` if it typed nothing; any other, and it is gone.
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize>;

    /// Takes some of the guest's output.
    ///
    /// # Errors
    /// `WouldBlock` if nobody takes any now; any other, and it is lost.
    fn write(&mut self, data: &[u8]) -> io::Result<usize>;

    /// The client is gone.
    fn detach(&mut self);
}
