//! What the host says of a disk's blocks, made into what the guest is told. How the guest is told is `devices`' part.

use crate::sys::{BlockFigure, IoVec, block_figure, direct_alignment};
use devices::virtio::blk::DiskShape;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What every disk can do.
const SECTOR: u32 = 512;
/// The usual page and file system block.
const PAGE: u32 = 4096;
/// Larger units of discard than this are taken for none.
const MAX_DISCARD_UNIT: u32 = 1 << 30;

/// What direct I/O asks for, in bytes; powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Of memory addresses and lengths.
    pub memory: u32,
    /// Of offsets in the file.
    pub offset: u32,
}

impl DirectAlignment {
    /// Of an open file; `None` if it has no direct I/O.
    pub fn of(file: &File, is_device: bool) -> Option<Self> {
        match direct_alignment(file) {
            Some((0, _) | (_, 0)) => None,
            Some((memory, offset)) => Some(Self { memory, offset }),
            None if is_device => {
                let block = block_figure(file, BlockFigure::LogicalBlock).unwrap_or(PAGE);
                Some(Self { memory: block, offset: block })
            }
            None => {
                // A kernel before 6.1: try.
                let offset = if IoVec::bounce(512).read(file, 512).is_ok() { SECTOR } else { PAGE };
                Some(Self { memory: PAGE, offset })
            }
        }
    }
}

/// The shape of an open disk; `sysfs` is where block devices are described (`/sys`).
pub fn shape(
    file: &File,
    metadata: &Metadata,
    read_only: bool,
    direct: Option<DirectAlignment>,
    sysfs: &Path,
) -> DiskShape {
    let least = direct.map_or(SECTOR, |direct| direct.offset.max(SECTOR));
    if metadata.file_type().is_block_device() {
        device_shape(file, metadata, read_only, least, sysfs)
    } else {
        file_shape(file, metadata, read_only, least)
    }
}

fn file_shape(file: &File, metadata: &Metadata, read_only: bool, logical: u32) -> DiskShape {
    let block = u32::try_from(metadata.blksize()).ok().filter(|size| size.is_power_of_two()).unwrap_or(PAGE);
    DiskShape {
        read_only,
        logical_block: logical,
        physical_block: block.clamp(SECTOR, PAGE).max(logical),
        alignment: 0,
        minimum_io: 0,
        optimal_io: 0,
        discard: (!read_only && punches_holes(file, metadata.len())).then(|| block.clamp(PAGE, 1 << 20)),
    }
}

/// Tried past the end, where there is nothing to lose.
fn punches_holes(file: &File, length: u64) -> bool {
    let Ok(end) = i64::try_from(length.next_multiple_of(u64::from(PAGE))) else { return false };
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, hole, end, i64::from(PAGE)).is_ok()
}

fn device_shape(file: &File, metadata: &Metadata, read_only: bool, least: u32, sysfs: &Path) -> DiskShape {
    let figure = |which| block_figure(file, which);
    let power = |value: Option<u32>| value.filter(|value| value.is_power_of_two()).unwrap_or(SECTOR);
    let logical = power(figure(BlockFigure::LogicalBlock)).max(least);
    let physical = power(figure(BlockFigure::PhysicalBlock)).max(logical);
    DiskShape {
        read_only,
        logical_block: logical,
        physical_block: physical,
        alignment: figure(BlockFigure::Alignment).unwrap_or(0) % physical,
        minimum_io: figure(BlockFigure::MinimumIo).unwrap_or(0),
        optimal_io: figure(BlockFigure::OptimalIo).unwrap_or(0),
        discard: discard_unit(sysfs, metadata.rdev(), logical).filter(|_| !read_only),
    }
}

/// The unit of discard of a block device, `None` if it has none (`queue/discard_*`; a partition has its disk's queue).
fn discard_unit(sysfs: &Path, device: u64, logical: u32) -> Option<u32> {
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let directory = sysfs.join("dev/block").join(number);
    let read = |name: &str| {
        let own = std::fs::read_to_string(directory.join("queue").join(name));
        let text = own.or_else(|_| std::fs::read_to_string(directory.join("../queue").join(name))).ok()?;
        text.trim().parse::<u64>().ok()
    };
    if read("discard_max_bytes")? == 0 {
        return None;
    }
    let unit = u32::try_from(read("discard_granularity")?).ok()?.max(logical);
    (unit.is_power_of_two() && unit <= MAX_DISCARD_UNIT).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::{discard_unit, file_shape};
    use devices::virtio::blk::DiskShape;

    #[test]
    fn discards_of_a_partition_are_those_of_its_disk() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("devices/nvme0n1");
        std::fs::create_dir_all(disk.join("queue")).unwrap();
        std::fs::create_dir_all(disk.join("nvme0n1p1")).unwrap();
        std::fs::create_dir_all(root.path().join("dev/block")).unwrap();
        let link = |to: std::path::PathBuf, number| {
            std::os::unix::fs::symlink(to, root.path().join("dev/block").join(number)).unwrap();
        };
        link(disk.clone(), "259:0");
        link(disk.join("nvme0n1p1"), "259:1");
        std::fs::write(disk.join("queue/discard_max_bytes"), "2199023255040\n").unwrap();
        std::fs::write(disk.join("queue/discard_granularity"), "512\n").unwrap();
        for minor in [0, 1] {
            assert_eq!(discard_unit(root.path(), libc::makedev(259, minor), 4096), Some(4096));
        }
        assert_eq!(discard_unit(root.path(), libc::makedev(8, 0), 512), None);
        std::fs::write(disk.join("queue/discard_max_bytes"), "0\n").unwrap();
        assert_eq!(discard_unit(root.path(), libc::makedev(259, 1), 512), None);
    }

    #[test]
    fn a_file_has_sectors_of_512_and_the_blocks_of_its_file_system() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let shape = file_shape(&file, &file.metadata().unwrap(), true, 512);
        let expected = DiskShape {
            read_only: true,
            logical_block: 512,
            physical_block: 4096,
            alignment: 0,
            minimum_io: 0,
            optimal_io: 0,
            discard: None,
        };
        assert_eq!(shape, expected);
    }
}
