//! Loads a bzImage by Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`).

use super::Entry;
use super::layout::{BOOT_PARAMS, BootLayout, KERNEL};
use crate::memory::RamRegion;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use resources::MemoryMap;
use resources::memory_map::{ACPI_TABLES, Gpa, LEGACY_END, LEGACY_START, RSDP};
use std::fs::File;
use vm_memory::{Bytes, GuestMemoryError, GuestRegionCollection};

/// Offset of the 64-bit entry in the loaded part.
const ENTRY_64: u64 = 0x200;
/// "Undefined" boot loader.
const LOADER_TYPE: u8 = 0xff;

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

/// Why a kernel was not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// Writing guest memory failed.
    Memory(GuestMemoryError),
    /// Reading the kernel failed.
    Kernel(String),
}

impl From<GuestMemoryError> for LoadError {
    fn from(error: GuestMemoryError) -> Self {
        Self::Memory(error)
    }
}

/// What the guest is told lies where: RAM without the legacy area, and the tables. Vnodes are not told apart here,
/// SRAT does that; so there are a handful of entries for any number of vnodes.
pub fn address_ranges(map: &MemoryMap) -> Vec<(Gpa, u64, RangeKind)> {
    let mut ranges: Vec<(Gpa, u64, RangeKind)> = vec![
        (Gpa(0), LEGACY_START.0, RangeKind::Ram),
        (LEGACY_START, ACPI_TABLES.0 - LEGACY_START.0, RangeKind::Reserved),
        (ACPI_TABLES, LEGACY_END.0 - ACPI_TABLES.0, RangeKind::Acpi),
    ];
    for range in map.ram() {
        let start = range.start.max(LEGACY_END);
        let size = range.end().0 - start.0;
        match ranges.last_mut() {
            Some((last, length, RangeKind::Ram)) if last.0 + *length == start.0 => *length += size,
            _ => ranges.push((start, size, RangeKind::Ram)),
        }
    }
    ranges
}

/// Copies the kernel and writes its boot parameters.
pub fn load(
    memory: &GuestRegionCollection<RamRegion>,
    kernel: &mut File,
    layout: &BootLayout,
    map: &MemoryMap,
) -> Result<Entry, LoadError> {
    let loaded = BzImage::load(memory, Some(KERNEL), kernel, Some(KERNEL))
        .map_err(|error| LoadError::Kernel(error.to_string()))?;
    let low = |address: u64| u32::try_from(address).map_err(|e| LoadError::Kernel(e.to_string()));
    let mut header = loaded.setup_header.ok_or_else(|| LoadError::Kernel("no setup header".into()))?;
    header.type_of_loader = LOADER_TYPE;
    header.cmd_line_ptr = low(layout.cmdline.0)?;
    header.cmdline_size = layout.cmdline_size;
    if let Some((start, size)) = layout.initramfs {
        header.ramdisk_image = low(start.0)?;
        header.ramdisk_size = low(size)?;
    }
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: RSDP.0, ..Default::default() };
    let ranges = address_ranges(map);
    for (entry, (start, size, kind)) in params.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry { addr: start.0, size: *size, r#type: *kind as u32 };
    }
    params.e820_entries = u8::try_from(ranges.len().min(params.e820_table.len())).unwrap_or(u8::MAX);
    memory.write_obj(params, BOOT_PARAMS)?;
    Ok(Entry::Linux64 { rip: loaded.kernel_load.0 + ENTRY_64 })
}

#[cfg(test)]
mod tests {
    use super::{RangeKind, address_ranges};
    use resources::memory_map::Gpa;
    use resources::{Bytes, MemoryMap, VmSpec, VmTopology};

    #[test]
    fn ram_ranges_of_many_vnodes_become_one() {
        let spec = VmSpec { memory: Some(Bytes::gib(5)), vnodes: Some(64), ..VmSpec::default() };
        let map = MemoryMap::new(&VmTopology::try_from(&spec).unwrap());
        let expected = [
            (Gpa(0), 0x9_fc00, RangeKind::Ram),
            (Gpa(0x9_fc00), 0x2_0400, RangeKind::Reserved),
            (Gpa(0xc_0000), 0x4_0000, RangeKind::Acpi),
            (Gpa(0x10_0000), 0xbff0_0000, RangeKind::Ram),
            (Gpa(0x1_0000_0000), 2 << 30, RangeKind::Ram),
        ];
        assert_eq!(address_ranges(&map), expected);
    }
}
