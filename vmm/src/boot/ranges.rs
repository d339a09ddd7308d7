//! What the guest is told lies where (e820, and the same list for PVH). Vnodes are not told apart here, SRAT does that.

use resources::memory_map::{Gpa, LEGACY_END, LEGACY_START};
use resources::{MemoryMap, PciMap, RamRange};

/// Kinds of address ranges (ACPI 6.5, table 15.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable memory.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// Holds ACPI tables; usable once they are read.
    Acpi = 3,
}

/// A range of addresses of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// First byte.
    pub start: Gpa,
    /// Bytes.
    pub size: u64,
    /// What lies there.
    pub kind: RangeKind,
}

/// All ranges, ascending: RAM without the legacy area and without the tables, which lie at the end of a vnode's RAM, and
/// PCI's configuration spaces, which Linux wants to see reserved before it believes MCFG. A handful for any number of
/// vnodes.
pub fn address_ranges(map: &MemoryMap, pci: &PciMap, tables: RamRange) -> Vec<AddressRange> {
    let between = |start: Gpa, end: Gpa, kind| AddressRange { start, size: end.0 - start.0, kind };
    let mut ranges = vec![
        between(Gpa(0), LEGACY_START, RangeKind::Ram),
        between(LEGACY_START, LEGACY_END, RangeKind::Reserved),
    ];
    let ram = map.ram().iter().map(|range| {
        let end = if range.end() == tables.end() { tables.start } else { range.end() };
        between(range.start.max(LEGACY_END), end, RangeKind::Ram)
    });
    let tables = std::iter::once(between(tables.start, tables.end(), RangeKind::Acpi));
    let ecam = pci.segments().iter().map(|s| between(s.ecam.start, s.ecam.end(), RangeKind::Reserved));
    let mut rest: Vec<AddressRange> = ram.chain(tables).chain(ecam).filter(|range| range.size > 0).collect();
    rest.sort_unstable_by_key(|range| range.start);
    for range in rest {
        match ranges.last_mut() {
            Some(last) if last.kind == range.kind && last.start.0 + last.size == range.start.0 => {
                last.size += range.size;
            }
            _ => ranges.push(range),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::{RangeKind, address_ranges};
    use resources::{Bytes, MemoryMap, PciMap, VmSpec, VmTopology, VnodeSpec};

    fn ranges(memory: Bytes, vnodes: u32, tables: Bytes) -> Vec<(u64, u64, RangeKind)> {
        let spec = VmSpec { memory: Some(memory), vnodes: Some(vnodes.into()), ..VmSpec::default() };
        let topology = VmTopology::try_from(&spec).unwrap();
        let map = MemoryMap::new(&topology);
        let tables = map.place_tables(tables).unwrap();
        let ranges = address_ranges(&map, &PciMap::new(&topology, &map), tables);
        ranges.iter().map(|r| (r.start.0, r.size, r.kind)).collect()
    }

    #[test]
    fn ranges_of_many_vnodes_become_few() {
        let expected = [
            (0, 0x9_fc00, RangeKind::Ram),
            (0x9_fc00, 0x6_0400, RangeKind::Reserved),
            (0x10_0000, 0xbfee_0000, RangeKind::Ram),
            (0xbffe_0000, 0x2_0000, RangeKind::Acpi),
            (0xe000_0000, 64 << 20, RangeKind::Reserved),
            (0x1_0000_0000, 2 << 30, RangeKind::Ram),
        ];
        assert_eq!(ranges(Bytes::gib(5), 64, Bytes(128 << 10)), expected);
    }

    #[test]
    fn tables_that_a_small_last_vnode_cannot_spare_lie_between_two_vnodes() {
        let numa = [("256M", "0"), ("2M", "")].map(|(memory, vcpus)| VnodeSpec {
            memory: Some(memory.parse().unwrap()),
            vcpus: Some(vcpus.parse().unwrap()),
            ..VnodeSpec::new(u32::from(vcpus.is_empty()))
        });
        let spec = VmSpec { numa: numa.into(), ..VmSpec::default() };
        let topology = VmTopology::try_from(&spec).unwrap();
        let map = MemoryMap::new(&topology);
        let tables = map.place_tables(Bytes::mib(1)).unwrap();
        let ranges = address_ranges(&map, &PciMap::new(&topology, &map), tables);
        let ranges: Vec<_> = ranges.iter().map(|r| (r.start.0, r.size, r.kind)).collect();
        let expected = [
            (0, 0x9_fc00, RangeKind::Ram),
            (0x9_fc00, 0x6_0400, RangeKind::Reserved),
            (1 << 20, 254 << 20, RangeKind::Ram),
            (255 << 20, 1 << 20, RangeKind::Acpi),
            (256 << 20, 2 << 20, RangeKind::Ram),
            (0xe000_0000, 2 << 20, RangeKind::Reserved),
        ];
        assert_eq!(ranges, expected);
    }
}
