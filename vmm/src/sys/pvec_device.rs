//! What only system calls say of block devices and direct I/O, and the one command to them that no crate wraps.
//! What is made of it is `disk`'s decision.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A figure of a block device (`linux/fs.h`), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFigure {
    /// `BLKSSZGET`: what it addresses.
    LogicalBlock,
    /// `BLKPBSZGET`: what it writes without reading first.
    PhysicalBlock,
    /// `BLKIOMIN`: the least that is worth asking for.
    MinimumIo,
    /// `BLKIOOPT`: the most that is worth asking for.
    OptimalIo,
    /// `BLKALIGNOFF`: where the first physical block begins; negative where nobody knows.
    Alignment,
}

impl BlockFigure {
    fn request(self) -> libc::Ioctl {
        match self {
            Self::LogicalBlock => 0x1268,
            Self::PhysicalBlock => 0x127B,
            Self::MinimumIo => 0x1278,
            Self::OptimalIo => 0x1279,
            Self::Alignment => 0x127A,
        }
    }
}

/// A figure of the block device that `file` is; `None` if it does not say, or is none.
pub fn block_figure(file: &File, figure: BlockFigure) -> Option<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: each of these requests writes one `int` (or `unsigned int`), which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), figure.request(), &raw mut value) };
    if result == 0 { u32::try_from(value).ok() } else { None }
}

/// Tells a block device that the content of a range is no longer needed (`BLKDISCARD`). Waits for it.
pub fn discard_blocks(file: &File, offset: u64, length: u64) -> io::Result<()> {
    const BLKDISCARD: libc::Ioctl = 0x1277;
    let range = [offset, length];
    // SAFETY: the kernel reads two 64-bit words, which outlive the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What direct I/O asks of memory addresses and of offsets in the file (`STATX_DIOALIGN`, Linux 6.1); `None` where the
/// kernel does not say, zeroes where the file cannot do it.
pub fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    let empty = c"";
    let mut status = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a NUL-terminated string and the kernel fills the structure, both outlive the call.
    let result = unsafe { libc::statx(fd, empty.as_ptr(), flags, libc::STATX_DIOALIGN, status.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: the structure holds integers only, so the zeroes that it began with were valid already.
    let status = unsafe { status.assume_init() };
    let known = status.stx_mask & libc::STATX_DIOALIGN != 0;
    known.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align))
}
