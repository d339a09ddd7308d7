//! Guest memory alone, for benchmarks.

use crate::memory::{GuestRam, RamRegion};
use crate::sys::{Backing, HostError, Mapping};
use resources::{Bytes, Gpa, PageSize, RamRange, VnodeId};
use std::sync::Arc;
use vm_memory::GuestMemory;

/// One region of a vnode.
pub struct TestMemory {
    ram: GuestRam,
}

impl TestMemory {
    /// From guest-physical address 0 on.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(size: Bytes) -> Result<Self, HostError> {
        let mapping = Mapping::new(size, 0, Bytes::mib(2), Backing::Anonymous, "test")?;
        let range = RamRange { vnode: VnodeId(0), start: Gpa(0), size };
        let region = RamRegion::of(range, PageSize::Small, Arc::new(mapping));
        Ok(Self { ram: GuestRam::of_regions(vec![region]) })
    }

    /// As devices have it.
    pub fn memory(&self) -> &(impl GuestMemory + use<>) {
        self.ram.memory()
    }

    /// Notes in the dirty bitmap what is written from now on, or no longer.
    pub fn log_writes(&self, on: bool) {
        for region in self.ram.regions() {
            match on {
                true => region.dirty.switch_on(region.mapping.size()),
                false => region.dirty.switch_off(),
            }
        }
    }
}
