//! The PCI transport of virtio devices (virtio 1.3, 4.1), modern only: a device becomes a function of a segment.
//! Which segment, and where that is, is `vmm`'s decision.

mod common;
mod counters;
mod device_config;
mod doorbells;
mod function;
mod interrupt;
mod layout;
mod queues;
mod runner;
mod state;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_echo;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_machine;

pub use counters::VirtioCounters;
pub use function::{VirtioPci, VirtioPciError, VirtioPciHost};
pub use state::{QueueState, TransportState};

#[cfg(test)]
mod tests;
