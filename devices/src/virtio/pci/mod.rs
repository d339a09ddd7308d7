//! The PCI transport of virtio devices (virtio 1.3, 4.1), modern only: a device becomes a function of a segment.
//! Which segment, and where that is, is `vmm`'s decision.

mod common;
mod counters;
mod doorbells;
mod function;
mod interrupt;
mod layout;
mod queues;
mod runner;

pub use counters::{VirtioCounters, VirtioMeter};
pub use function::{VirtioPci, VirtioPciError, VirtioPciHost};

#[cfg(test)]
mod tests;
