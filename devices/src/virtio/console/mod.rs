//! The console (virtio 1.3, 5.3): one port, bytes both ways. Where they go on the host is left to `vmm`.
//!
//! Linux spins, with interrupts off, until the device has taken what it prints. So output never waits for long: what
//! nobody takes is kept, up to [`BACKLOG_BYTES`], and beyond that the oldest of it goes. A client that attaches late
//! reads the end of what was said before.

mod backlog;
mod counters;
mod device;
mod host;
mod state;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_terminal;
#[cfg(test)]
mod tests;
mod worker;

pub use backlog::BACKLOG_BYTES;
pub use counters::ConsoleCounters;
pub use device::Console;
pub use host::ConsoleHost;
pub use state::ConsoleState;
