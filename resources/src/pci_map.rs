//! Guest-physical addresses of PCI: a segment per vnode, with its configuration space and its windows. RAM is in
//! `memory_map`; `acpi` describes both to the guest.

use crate::ids::VnodeId;
use crate::memory_map::{Gpa, HOLE_START, MemoryMap};
use crate::topology::VmTopology;
use crate::units::Bytes;
use serde::Serialize;

/// Configuration spaces lie here, 1 MiB for the one bus of each segment: 256 of them end at 3.75 GiB, below the APICs.
const ECAM_START: Gpa = Gpa(0xe000_0000);
/// 32 functions of 4 KiB for each of bus 0's slots, of 8 functions each (PCI Express base specification, 7.2.2).
const ECAM_SIZE: Bytes = Bytes::mib(1);
/// Each segment has this much for 32-bit BARs: 256 of them fill the 512 MiB below [`ECAM_START`].
const WINDOW_32: Bytes = Bytes::mib(2);
/// Each segment has this much for 64-bit BARs.
const WINDOW_64: Bytes = Bytes::mib(256);
/// Where 64-bit windows start is a multiple of this, above all RAM.
const WINDOW_64_ALIGN: u64 = 1 << 30;

/// A PCI segment: one host bridge, bus 0 only, on one vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PciSegment {
    /// Its vnode, which is also its segment number.
    pub vnode: VnodeId,
    /// Configuration space.
    pub ecam: Window,
    /// For 32-bit BARs.
    pub mmio32: Window,
    /// For 64-bit BARs.
    pub mmio64: Window,
}

/// A range of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// First byte.
    pub start: Gpa,
    /// Length.
    pub size: Bytes,
}

impl Window {
    /// The window of segment `index`, all of `size`, from `base` on.
    fn nth(base: Gpa, size: Bytes, index: u32) -> Self {
        Self { start: Gpa(base.0 + size.get() * u64::from(index)), size }
    }

    /// First byte after it.
    pub fn end(&self) -> Gpa {
        self.start.after(self.size)
    }
}

/// All segments of a VM, by vnode. The same topology has them at the same addresses on any host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PciMap {
    segments: Vec<PciSegment>,
}

impl PciMap {
    /// A segment for every vnode.
    pub fn new(topology: &VmTopology, memory: &MemoryMap) -> Self {
        let high = Gpa(memory.end().0.max(crate::memory_map::HOLE_END.0).next_multiple_of(WINDOW_64_ALIGN));
        let segment = |vnode: VnodeId| PciSegment {
            vnode,
            ecam: Window::nth(ECAM_START, ECAM_SIZE, vnode.0),
            mmio32: Window::nth(HOLE_START, WINDOW_32, vnode.0),
            mmio64: Window::nth(high, WINDOW_64, vnode.0),
        };
        Self { segments: topology.vnodes().iter().map(|vnode| segment(vnode.id)).collect() }
    }

    /// All segments, ascending.
    pub fn segments(&self) -> &[PciSegment] {
        &self.segments
    }

    /// First address after everything that a guest can address.
    pub fn end(&self) -> Gpa {
        self.segments.last().map_or(Gpa(0), |segment| segment.mmio64.end())
    }
}

#[cfg(test)]
mod tests {
    use super::PciMap;
    use crate::memory_map::{Gpa, HOLE_START, IO_APIC, MemoryMap};
    use crate::{Bytes, VmSpec, VmTopology};

    fn map(vnodes: u32, memory: Bytes) -> (MemoryMap, PciMap) {
        let spec = VmSpec { vnodes: Some(vnodes.into()), memory: Some(memory), ..VmSpec::default() };
        let topology = VmTopology::try_from(&spec).unwrap();
        let memory = MemoryMap::new(&topology);
        let pci = PciMap::new(&topology, &memory);
        (memory, pci)
    }

    #[test]
    fn a_small_vm_has_its_windows_above_4_gib() {
        let (_, pci) = map(2, Bytes::mib(512));
        let second = pci.segments()[1];
        assert_eq!(second.ecam.start, Gpa(0xe010_0000));
        assert_eq!(second.mmio32.start, Gpa(0xc020_0000));
        assert_eq!(second.mmio64.start, Gpa((4 << 30) + (256 << 20)));
        assert_eq!(pci.end(), Gpa((4 << 30) + (512 << 20)));
    }

    #[test]
    fn no_window_meets_another_or_ram_or_the_apics() {
        for (vnodes, memory) in [(1, Bytes::mib(64)), (256, Bytes::gib(3)), (256, Bytes(5 << 30 | 2 << 20))] {
            let (memory, pci) = map(vnodes, memory);
            let mut ranges: Vec<(Gpa, Gpa)> = memory.ram().iter().map(|r| (r.start, r.end())).collect();
            for segment in pci.segments() {
                let windows = [segment.ecam, segment.mmio32, segment.mmio64];
                ranges.extend(windows.iter().map(|w| (w.start, w.end())));
                assert!(segment.ecam.end() <= IO_APIC && segment.mmio32.start >= HOLE_START);
            }
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            assert!(ranges.iter().all(|(start, end)| start < end));
        }
    }
}
