//! Loads an ELF kernel by the PVH boot ABI (Xen, `docs/misc/pvh.pandoc`): Linux's uncompressed `vmlinux`, unikernels.

use super::Entry;
use super::layout::{BootLayout, START_INFO};
use super::linux::LoadError;
use super::ranges::AddressRange;
use crate::memory::RamRegion;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::{Elf, KernelLoader};
use resources::memory_map::RSDP;
use std::fs::File;
use vm_memory::{Address, Bytes, GuestRegionCollection};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;
const MODULES: u64 = START_INFO.0 + size_of::<hvm_start_info>().next_multiple_of(64) as u64;
const MEMORY_MAP: u64 = MODULES + size_of::<hvm_modlist_entry>().next_multiple_of(64) as u64;

/// Copies the segments and writes the start info.
pub fn load(
    memory: &GuestRegionCollection<RamRegion>,
    kernel: &mut File,
    layout: &BootLayout,
    ranges: &[AddressRange],
) -> Result<Entry, LoadError> {
    let loaded = Elf::load(memory, None, kernel, None).map_err(|e| LoadError::Kernel(e.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(LoadError::Kernel("no PVH entry".into()));
    };
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout.cmdline.0,
        rsdp_paddr: RSDP.0,
        memmap_paddr: MEMORY_MAP,
        ..Default::default()
    };
    if let Some((start, size)) = layout.initramfs {
        let module = hvm_modlist_entry { paddr: start.0, size, ..Default::default() };
        memory.write_obj(module, vm_memory::GuestAddress(MODULES))?;
        info.modlist_paddr = MODULES;
        info.nr_modules = 1;
    }
    for (index, AddressRange { start, size, kind }) in (0..).zip(ranges) {
        let entry = hvm_memmap_table_entry { addr: start.0, size: *size, type_: *kind as u32, reserved: 0 };
        let at = MEMORY_MAP + index * size_of::<hvm_memmap_table_entry>() as u64;
        memory.write_obj(entry, vm_memory::GuestAddress(at))?;
    }
    info.memmap_entries = u32::try_from(ranges.len()).unwrap_or(0);
    memory.write_obj(info, START_INFO)?;
    Ok(Entry::Pvh { rip: entry.raw_value() })
}
