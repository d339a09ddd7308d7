//! Guest-physical addresses as pure arithmetic: the RAM of each vnode, and the holes. `vmm` provides the backing.

use crate::ids::VnodeId;
use crate::topology::VmTopology;
use crate::units::Bytes;
use serde::Serialize;
use std::fmt;

/// A guest-physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `size` further on; saturates.
    pub fn after(self, size: Bytes) -> Self {
        Self(self.0.saturating_add(size.0))
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

/// Where RAM stops below 4 GiB: on a 1 GiB border, so that 1 GiB pages can lie on both sides.
pub const HOLE_START: Gpa = Gpa(3 << 30);
/// Where RAM goes on.
pub const HOLE_END: Gpa = Gpa(4 << 30);
/// RAM that the guest is not offered: the EBDA and option ROM area of a PC, up to 1 MiB.
pub const LEGACY_START: Gpa = Gpa(0x9_fc00);
/// End of that area.
pub const LEGACY_END: Gpa = Gpa(0x10_0000);
/// The RSDP (36 bytes): 16-aligned at the end of the area that ACPI 6.5, 5.2.5.1 has kernels search.
pub const RSDP: Gpa = Gpa(0xf_ffc0);
/// IO-APIC registers.
pub const IO_APIC: Gpa = Gpa(0xfec0_0000);
/// Local APIC registers.
pub const LOCAL_APIC: Gpa = Gpa(0xfee0_0000);

/// A run of RAM of one vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RamRange {
    /// Whose memory it is.
    pub vnode: VnodeId,
    /// First byte.
    pub start: Gpa,
    /// Length, never zero.
    pub size: Bytes,
}

impl RamRange {
    /// First byte after it.
    pub fn end(&self) -> Gpa {
        self.start.after(self.size)
    }
}

/// All RAM, ascending, vnode after vnode without gaps but for the hole below 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MemoryMap {
    ram: Vec<RamRange>,
}

impl MemoryMap {
    /// Lays the vnodes' memory out in vnode order.
    pub fn new(topology: &VmTopology) -> Self {
        let mut ram = Vec::new();
        let mut next = Gpa(0);
        for vnode in topology.vnodes() {
            let mut left = vnode.memory;
            while left > Bytes::ZERO {
                if next == HOLE_START {
                    next = HOLE_END;
                }
                let room = if next < HOLE_START { Bytes(HOLE_START.0 - next.0) } else { left };
                let size = left.min(room);
                ram.push(RamRange { vnode: vnode.id, start: next, size });
                next = next.after(size);
                left = left.saturating_sub(size);
            }
        }
        Self { ram }
    }

    /// All ranges, ascending.
    pub fn ram(&self) -> &[RamRange] {
        &self.ram
    }

    /// The ranges of one vnode, ascending.
    pub fn of(&self, vnode: VnodeId) -> impl Iterator<Item = &RamRange> {
        self.ram.iter().filter(move |range| range.vnode == vnode)
    }

    /// Where firmware tables of `size` bytes go: whole pages at the end of a vnode's RAM below 3 GiB, out of the memory
    /// of that vnode. The highest of those that give at most a sixteenth of what they have there, else the largest.
    /// `None` if no vnode has room above the first MiB.
    pub fn place_tables(&self, size: Bytes) -> Option<RamRange> {
        const SHARE: u64 = 16;
        const PAGE: u64 = 4096;
        let size = Bytes(size.0.checked_next_multiple_of(PAGE)?);
        let room = |range: &&RamRange| Bytes(range.end().0.saturating_sub(range.start.0.max(LEGACY_END.0)));
        let low = || self.ram.iter().filter(|range| range.end() <= HOLE_START);
        let ample = low().rev().find(|range| room(range).0 / SHARE >= size.0);
        let range = ample.or_else(|| low().max_by_key(room)).filter(|range| room(range) >= size)?;
        Some(RamRange { vnode: range.vnode, start: Gpa(range.end().0 - size.0), size })
    }

    /// First byte after all RAM.
    pub fn end(&self) -> Gpa {
        self.ram.last().map_or(Gpa(0), RamRange::end)
    }

    /// The vnode that an address lies in.
    pub fn vnode_at(&self, address: Gpa) -> Option<VnodeId> {
        let index = self.ram.partition_point(|range| range.end() <= address);
        self.ram.get(index).filter(|range| range.start <= address).map(|range| range.vnode)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gpa, HOLE_END, HOLE_START, LEGACY_END, MemoryMap, RamRange};
    use crate::spec::{VmSpec, VnodeSpec};
    use crate::topology::VmTopology;
    use crate::{Bytes, VnodeId};
    use proptest::prelude::proptest;

    fn map(mib: &[u64]) -> MemoryMap {
        let numa = (0..)
            .zip(mib)
            .map(|(id, mib)| VnodeSpec {
                memory: Some(Bytes::mib(*mib)),
                vcpus: (id == 0).then(|| "0".parse().unwrap()),
                ..VnodeSpec::new(id)
            })
            .collect();
        MemoryMap::new(&VmTopology::try_from(&VmSpec { numa, ..VmSpec::default() }).unwrap())
    }

    fn range(vnode: u32, start_mib: u64, mib: u64) -> RamRange {
        RamRange { vnode: VnodeId(vnode), start: Gpa(start_mib << 20), size: Bytes::mib(mib) }
    }

    #[test]
    fn vnodes_follow_each_other() {
        assert_eq!(map(&[512, 256]).ram(), [range(0, 0, 512), range(1, 512, 256)]);
    }

    #[test]
    fn a_vnode_straddling_the_hole_is_split_in_two() {
        let expected = [range(0, 0, 2048), range(1, 2048, 1024), range(1, 4096, 1024)];
        assert_eq!(map(&[2048, 2048]).ram(), expected);
    }

    #[test]
    fn a_vnode_that_ends_at_the_hole_is_not_split() {
        assert_eq!(map(&[3072, 64]).ram(), [range(0, 0, 3072), range(1, 4096, 64)]);
    }

    #[test]
    fn tables_lie_at_the_end_of_the_highest_vnode_below_the_hole_that_can_spare_them() {
        let place = |mib: &[u64], kib: u64| map(mib).place_tables(Bytes(kib << 10));
        let at = |vnode, end_mib: u64, kib: u64| {
            let size = Bytes(kib << 10);
            Some(RamRange { vnode: VnodeId(vnode), start: Gpa((end_mib << 20) - size.0), size })
        };
        assert_eq!(place(&[512, 256], 8), at(1, 768, 8));
        assert_eq!(map(&[512]).place_tables(Bytes(5000)), at(0, 512, 8));
        assert_eq!(place(&[2048, 2048], 600), at(1, 3072, 600));
        assert_eq!(place(&[4096, 2048], 600), at(0, 3072, 600));
        // Vnode 2 would give more than a sixteenth, so vnode 1 does; where all would, the largest.
        assert_eq!(place(&[64, 512, 2], 200), at(1, 576, 200));
        assert_eq!(place(&[2, 4, 2], 1024), at(1, 6, 1024));
        // Of vnode 0's memory the first MiB is no room.
        assert_eq!(place(&[2], 1024), at(0, 2, 1024));
        assert_eq!(place(&[2], 1028), None);
        assert_eq!(map(&[2]).place_tables(Bytes(u64::MAX)), None);
    }

    proptest! {
        #[test]
        fn tables_lie_in_one_vnode_and_where_the_first_mib_is_not(
            half_mib in proptest::collection::vec(1u64..3000, 1..10),
            size in 1u64..3 << 20,
        ) {
            let map = map(&half_mib.iter().map(|n| n * 2).collect::<Vec<_>>());
            if let Some(tables) = map.place_tables(Bytes(size)) {
                assert!(tables.size.0 >= size && tables.size.0 - size < 4096 && tables.start.0 % 4096 == 0);
                let owner = map.of(tables.vnode).find(|range| range.end() == tables.end()).unwrap();
                assert!(owner.start <= tables.start && tables.end() <= HOLE_START);
                assert!(tables.start >= LEGACY_END);
            } else {
                assert!(map.of(VnodeId(0)).all(|range| range.size.0 < size + (1 << 20)));
            }
        }

        #[test]
        fn every_byte_lies_in_exactly_one_vnode(half_mib in proptest::collection::vec(1u64..3000, 1..10)) {
            let mib: Vec<u64> = half_mib.iter().map(|n| n * 2).collect();
            let map = map(&mib);
            for (vnode, mib) in (0..).zip(&mib) {
                let size: u64 = map.of(VnodeId(vnode)).map(|range| range.size.0).sum();
                assert_eq!(size, mib << 20);
            }
            for pair in map.ram().windows(2) {
                assert!(pair[0].end() == pair[1].start || (pair[0].end(), pair[1].start) == (HOLE_START, HOLE_END));
            }
            for range in map.ram() {
                assert!(range.end() <= HOLE_START || range.start >= HOLE_END);
                assert_eq!(map.vnode_at(range.start), Some(range.vnode));
                assert_eq!(map.vnode_at(Gpa(range.end().0 - 1)), Some(range.vnode));
            }
            assert_eq!(map.vnode_at(map.end()), None);
        }
    }
}
