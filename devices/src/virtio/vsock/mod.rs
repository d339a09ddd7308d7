//! Sockets between guest and host (virtio 1.3, 5.10): streams, with credit both ways.
//! What the host side of a connection is, and where host processes connect, is left to `vmm`.
//!
//! A host process connects to one socket, writes `CONNECT port` and a newline, and reads `OK port` and a newline
//! once the guest has accepted; a guest that connects to a port of context id 2 reaches the socket of that port. As
//! Firecracker has it, so its clients work.
//!
//! Nothing is polled: an idle device costs nothing. A guest can hold as many connections as [`MAX_CONNECTIONS`] and
//! as many bytes of this process as [`BUFFER_BYTES`] for each, no more.

mod connection;
mod counters;
mod credit;
mod device;
mod events;
mod from_guest;
mod from_host;
mod host;
mod kernel;
mod packet;
mod state;
mod table;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_sockets;
#[cfg(test)]
mod tests;
mod unreported;
mod worker;

pub use connection::BUFFER_BYTES;
pub use counters::VsockCounters;
pub use device::{GuestCid, Process, Server, Socket, Vsock};
pub use host::{HostSockets, HostStream, MAX_PIECES};
pub use kernel::{Kernel, KernelVsock};
pub use state::VsockState;
pub use table::MAX_CONNECTIONS;
