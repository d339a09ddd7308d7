//! The block device (virtio 1.3, 5.2): what a driver may ask of a disk, and what it is told of it.
//!
//! Files, rings of system calls and locks are the host's, behind [`Disk`] and [`DiskEngine`]; registers and interrupts
//! are the transport's; which thread runs the worker is `vmm`'s decision.

mod config;
mod counters;
mod device;
mod engine;
mod request;
mod segments;
mod state;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_disk;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{MAX_RANGE_SECTORS, MAX_RANGES};
pub use counters::BlkCounters;
pub use device::{Blk, BlkError, BlkHandle, BlkOptions, MAX_QUEUES, QUEUE_SIZE, Serial};
pub use engine::{Completion, Disk, DiskBackend, DiskEngine, DiskShape, Extent, Operation};
pub use segments::Segments;
pub use state::BlkState;

/// Bytes of a sector, whatever the disk's block size (virtio 1.3, 5.2.4: "in 512-byte sectors").
pub const SECTOR_BYTES: u64 = 512;
