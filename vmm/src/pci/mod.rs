//! The host side of PCI: a segment per vnode, and for its functions their vectors, their doorbells and the threads that
//! run them. What a function does is modelled in `devices`.

mod device;
mod doorbells;
mod node;
mod segments;
mod vectors;
mod worker;

pub use device::{DeviceHandle, HostDevice};
pub use doorbells::Doorbells;
pub use node::helper_thread;
pub use segments::{DeviceThreads, PciError, Segments, SegmentsBuilder};
pub use vectors::Vectors;
pub use worker::NodeSpawner;

use crate::memory::RamRegion;
use std::sync::Arc;
use vm_memory::GuestRegionCollection;

/// Guest memory as devices hold it.
pub type GuestMemory = Arc<GuestRegionCollection<RamRegion>>;
