//! Where everything that is loaded goes, as arithmetic; refuses what does not fit before any memory is mapped.

use super::image::KernelImage;
use resources::memory_map::{HOLE_START, LEGACY_END};
use resources::{Bytes, MemoryMap, RamRange};
use vm_memory::GuestAddress;

/// First vCPU's descriptor table.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// PVH start info, module list and memory map.
pub const START_INFO: GuestAddress = GuestAddress(0x6000);
/// Linux boot parameters, one page.
pub const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// Three pages of page tables, for the first GiB.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel command line, up to [`CMDLINE_MAX`].
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Linux on x86 reads at most this much (`COMMAND_LINE_SIZE`); a bzImage may say less.
pub const CMDLINE_MAX: u64 = 64 << 10;
/// Where a bzImage is loaded; it moves itself from there.
pub const KERNEL: GuestAddress = GuestAddress(LEGACY_END.0);
const PAGE: u64 = 4096;

/// Addresses of what is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootLayout {
    /// Command line.
    pub cmdline: GuestAddress,
    /// Its length without the NUL.
    pub cmdline_size: u32,
    /// Start and length of the initramfs.
    pub initramfs: Option<(GuestAddress, u64)>,
}

/// Why it does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The kernel needs more low memory than there is.
    #[error("kernel: needs memory up to {end:#x}, the VM has {low} below 3 GiB and its ACPI tables")]
    Kernel {
        /// First byte after it.
        end: u64,
        /// RAM from address 0 on.
        low: Bytes,
    },
    /// An ELF segment in the first MiB.
    #[error("kernel: a segment at {start:#x}, must be at or above 0x100000")]
    KernelTooLow {
        /// Where it is.
        start: u64,
    },
    /// No room for the initramfs.
    #[error(
        "initramfs: {size} do not fit between the kernel's end at {from:#x} and {to:#x}, give a vnode more memory below 3 GiB, or shrink the initramfs"
    )]
    Initramfs {
        /// Its length.
        size: Bytes,
        /// Where the kernel ends.
        from: u64,
        /// Where the room ends.
        to: u64,
    },
    /// A command line that the kernel would cut.
    #[error("cmdline: {length} bytes, the kernel supports at most {max}")]
    Cmdline {
        /// As typed.
        length: u64,
        /// What this kernel takes.
        max: u64,
    },
    /// A command line with a NUL in it.
    #[error("cmdline: contains a NUL byte")]
    CmdlineNul,
}

impl BootLayout {
    /// Lays out what is loaded, below the ACPI tables. The initramfs goes as high as possible in the first vnode's low
    /// memory, or, if that is too small, in all low memory.
    pub fn new(
        map: &MemoryMap,
        tables: RamRange,
        image: &KernelImage,
        initramfs: u64,
        cmdline: usize,
    ) -> Result<Self, LayoutError> {
        let low = low_ram(map).min(tables.start.0);
        let (kernel_end, cmdline_max, initramfs_max) = match image {
            KernelImage::BzImage(bz) => {
                let loaded = KERNEL.0.saturating_add(bz.size);
                let unpacked = bz.preferred_address.max(KERNEL.0).saturating_add(bz.init_size);
                (
                    loaded.max(unpacked),
                    bz.cmdline_max.min(CMDLINE_MAX - 1),
                    bz.initramfs_max.saturating_add(1),
                )
            }
            KernelImage::Elf(elf) if elf.start < KERNEL.0 => {
                return Err(LayoutError::KernelTooLow { start: elf.start });
            }
            KernelImage::Elf(elf) => (elf.end, CMDLINE_MAX - 1, HOLE_START.0),
        };
        if kernel_end > low {
            return Err(LayoutError::Kernel { end: kernel_end, low: Bytes(low) });
        }
        let length = cmdline as u64;
        let cmdline_size = u32::try_from(length).ok().filter(|_| length <= cmdline_max);
        let cmdline_size = cmdline_size.ok_or(LayoutError::Cmdline { length, max: cmdline_max })?;
        let first_vnode = map.ram().first().map_or(0, |range| range.end().0);
        let initramfs = match initramfs {
            0 => None,
            size => {
                let fits = |top: u64| {
                    let start = top.min(initramfs_max).checked_sub(size)? / PAGE * PAGE;
                    (start >= kernel_end.next_multiple_of(PAGE)).then_some((GuestAddress(start), size))
                };
                let place = fits(first_vnode.min(low)).or_else(|| fits(low));
                let to = low.min(initramfs_max);
                Some(place.ok_or(LayoutError::Initramfs { size: Bytes(size), from: kernel_end, to })?)
            }
        };
        Ok(Self { cmdline: CMDLINE, cmdline_size, initramfs })
    }
}

/// RAM from address 0 up to the hole; vnodes follow each other without gaps.
fn low_ram(map: &MemoryMap) -> u64 {
    map.ram().iter().map(|range| range.end().0).filter(|end| *end <= HOLE_START.0).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{BootLayout, LayoutError};
    use crate::boot::image::{BzImage, Elf, KernelImage};
    use resources::{Bytes, MemoryMap, VmSpec, VmTopology, VnodeSpec};
    use vm_memory::GuestAddress;

    fn map(mib: &[u64]) -> MemoryMap {
        let numa = (0..)
            .zip(mib)
            .map(|(id, mib)| VnodeSpec { memory: Some(Bytes::mib(*mib)), ..VnodeSpec::new(id) })
            .collect();
        MemoryMap::new(&VmTopology::try_from(&VmSpec { numa, ..VmSpec::default() }).unwrap())
    }

    const TABLES: u64 = 16 << 10;
    const BZIMAGE: KernelImage = KernelImage::BzImage(BzImage {
        size: 8 << 20,
        preferred_address: 16 << 20,
        init_size: 40 << 20,
        initramfs_max: 0x7fff_ffff,
        cmdline_max: 2047,
    });

    /// Beside tables of 16 KiB.
    fn layout(
        mib: &[u64],
        image: &KernelImage,
        initramfs: u64,
        cmdline: usize,
    ) -> Result<BootLayout, LayoutError> {
        let map = map(mib);
        BootLayout::new(&map, map.place_tables(Bytes(TABLES)).unwrap(), image, initramfs, cmdline)
    }

    #[test]
    fn the_initramfs_lies_at_the_top_of_the_first_vnode() {
        let layout = layout(&[512, 512], &BZIMAGE, 5000, 10).unwrap();
        assert_eq!(layout.initramfs, Some((GuestAddress((512 << 20) - 8192), 5000)));
    }

    #[test]
    fn a_small_first_vnode_leaves_the_initramfs_to_the_others() {
        let layout = layout(&[64, 512], &BZIMAGE, 100 << 20, 10).unwrap();
        assert_eq!(layout.initramfs, Some((GuestAddress((476 << 20) - TABLES), 100 << 20)));
    }

    #[test]
    fn the_initramfs_stays_below_what_the_kernel_says() {
        let layout = layout(&[4096], &BZIMAGE, 4096, 10).unwrap();
        assert_eq!(layout.initramfs, Some((GuestAddress(0x7fff_f000), 4096)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let small = layout(&[32], &BZIMAGE, 0, 0);
        assert_eq!(small, Err(LayoutError::Kernel { end: 56 << 20, low: Bytes((32 << 20) - TABLES) }));
        let large = layout(&[128], &BZIMAGE, 100 << 20, 0);
        let refused =
            LayoutError::Initramfs { size: Bytes::mib(100), from: 56 << 20, to: (128 << 20) - TABLES };
        assert_eq!(large, Err(refused));
        let long = layout(&[128], &BZIMAGE, 0, 3000);
        assert_eq!(long, Err(LayoutError::Cmdline { length: 3000, max: 2047 }));
        let low = KernelImage::Elf(Elf { start: 0x8000, end: 0x20_0000, entry: 0x8000, linux: false });
        assert_eq!(layout(&[128], &low, 0, 0), Err(LayoutError::KernelTooLow { start: 0x8000 }));
    }
}
