//! What the guest is told lies where (e820, and the same list for PVH). Vnodes are not told apart here, SRAT does that.

use resources::memory_map::{ACPI_TABLES, Gpa, LEGACY_END, LEGACY_START};
use resources::{MemoryMap, PciMap};

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

/// All ranges, ascending: RAM without the legacy area, the tables, and PCI's configuration spaces, which Linux wants to
/// see reserved before it believes MCFG. A handful for any number of vnodes.
pub fn address_ranges(map: &MemoryMap, pci: &PciMap) -> Vec<AddressRange> {
    let between = |start: Gpa, end: Gpa, kind| AddressRange { start, size: end.0 - start.0, kind };
    let mut ranges = vec![
        between(Gpa(0), LEGACY_START, RangeKind::Ram),
        between(LEGACY_START, ACPI_TABLES, RangeKind::Reserved),
        between(ACPI_TABLES, LEGACY_END, RangeKind::Acpi),
    ];
    let ram = map.ram().iter().map(|range| between(range.start.max(LEGACY_END), range.end(), RangeKind::Ram));
    let ecam = pci.segments().iter().map(|s| between(s.ecam.start, s.ecam.end(), RangeKind::Reserved));
    let mut rest: Vec<AddressRange> = ram.chain(ecam).collect();
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
    use resources::{Bytes, MemoryMap, PciMap, VmSpec, VmTopology};

    #[test]
    fn ranges_of_many_vnodes_become_few() {
        let spec = VmSpec { memory: Some(Bytes::gib(5)), vnodes: Some(64.into()), ..VmSpec::default() };
        let topology = VmTopology::try_from(&spec).unwrap();
        let map = MemoryMap::new(&topology);
        let ranges = address_ranges(&map, &PciMap::new(&topology, &map));
        let ranges: Vec<_> = ranges.iter().map(|r| (r.start.0, r.size, r.kind)).collect();
        let expected = [
            (0, 0x9_fc00, RangeKind::Ram),
            (0x9_fc00, 0x2_0400, RangeKind::Reserved),
            (0xc_0000, 0x4_0000, RangeKind::Acpi),
            (0x10_0000, 0xbff0_0000, RangeKind::Ram),
            (0xe000_0000, 64 << 20, RangeKind::Reserved),
            (0x1_0000_0000, 2 << 30, RangeKind::Ram),
        ];
        assert_eq!(ranges, expected);
    }
}
