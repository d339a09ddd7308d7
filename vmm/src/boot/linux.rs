//! Loads a bzImage by Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`).

use super::Entry;
use super::layout::{BOOT_PARAMS, BootLayout, KERNEL};
use super::ranges::AddressRange;
use crate::memory::RamRegion;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader};
use resources::memory_map::RSDP;
use std::fs::File;
use vm_memory::{Bytes, GuestMemoryError, GuestRegionCollection};

/// Offset of the 64-bit entry in the loaded part.
const ENTRY_64: u64 = 0x200;
/// "Undefined" boot loader.
const LOADER_TYPE: u8 = 0xff;

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

/// Copies the kernel and writes its boot parameters.
pub fn load(
    memory: &GuestRegionCollection<RamRegion>,
    kernel: &mut File,
    layout: &BootLayout,
    ranges: &[AddressRange],
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
    for (entry, AddressRange { start, size, kind }) in params.e820_table.iter_mut().zip(ranges) {
        *entry = boot_e820_entry { addr: start.0, size: *size, r#type: *kind as u32 };
    }
    params.e820_entries = u8::try_from(ranges.len().min(params.e820_table.len())).unwrap_or(u8::MAX);
    memory.write_obj(params, BOOT_PARAMS)?;
    Ok(Entry::Linux64 { rip: loaded.kernel_load.0 + ENTRY_64 })
}
