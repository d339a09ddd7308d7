//! Network devices (virtio 1.3, 5.1): frames between the queues of a driver and those of a host interface.
//! Opening the interface, and a datapath in the kernel where there is one, are left to `vmm`.
//!
//! Frames go between guest memory and the interface without a copy in between, with the headers that the kernel and
//! the driver both know. A worker that cannot go on (no buffers of the guest's, no room in the interface) stops
//! watching what it cannot serve, and is woken by the other side.

mod config;
mod control;
mod counters;
mod device;
mod features;
mod moderation;
mod pair;
mod receive;
mod state;
mod tap;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_tap;
#[cfg(test)]
mod tests;
mod transmit;
mod worker;

pub use config::{MAX_QUEUE_PAIRS, MIN_MTU, MacAddress, MacError, NetConfig};
pub use counters::{Datapath, NetCounters, NetHandle};
pub use device::{Net, NetQueues};
pub use features::{Offloads, bits};
pub use state::{NetDriverState, NetState, ReceiveState};
pub use tap::{HEADER_BYTES, MAX_FRAME_BYTES, MAX_SLICES, Tap};
