//! Virtio devices (virtio 1.3): what a device is to its transport and to the thread that runs it.
//! Which thread that is, and on which host node it runs, is `vmm`'s decision.

pub mod balloon;
pub mod blk;
pub mod console;
mod device;
mod guest_slices;
#[cfg(any(test, feature = "test-driver"))]
pub mod hostile_driver;
mod kernel_datapath;
pub mod net;
mod pci;
mod queue_chain;
mod queue_worker;
#[cfg(test)]
mod restore_tests;
mod rng;
#[cfg(test)]
mod shared_memory_tests;
#[cfg(any(test, feature = "test-driver"))]
pub mod test_driver;
pub mod vsock;

pub use device::{
    Activation, ActivationError, ActiveQueue, DeviceKind, GuestMemoryHandle, Interest, QueuePosition, Rest,
    Source, SourceChange, VirtioDevice, VirtioInterrupt, Worker,
};
pub use kernel_datapath::{KernelDatapath, KernelQueue};
pub use pci::{QueueState, TransportState, VirtioCounters, VirtioPci, VirtioPciError, VirtioPciHost};
pub use queue_chain::{Buffer, Chain, MAX_CHAIN_DESCRIPTORS, QueueFault};
pub use queue_worker::{MAX_CHAINS_PER_ROUND, WorkerQueue};
pub use rng::{EntropySource, RNG_REQUEST_BYTES_MAX, Rng, RngCounters, RngState};
