//! Pieces of memory that the kernel reads or fills in one call, kept in place for as long as it may do so.
//! What is read or written, and when, is `disk`'s decision.

use super::aligned::AlignedBytes;
use devices::virtio::blk::Segments;
use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::{GuestMemory, Permissions};

/// Most pieces of one call (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// Zeroes to be written from, and how long they are.
const ZERO_BYTES: usize = 64 << 10;
/// Aligned for any direct I/O.
const BOUNCE_ALIGN: usize = 4096;

#[repr(align(4096))]
struct Zeroes([u8; ZERO_BYTES]);

static ZEROES: Zeroes = Zeroes([0; ZERO_BYTES]);

/// Pieces of memory, in order, and whatever keeps them in place.
pub struct IoVec {
    parts: Vec<libc::iovec>,
    keep: Keep,
    /// To see whether it still lives.
    #[cfg(test)]
    _with: Option<Arc<()>>,
}

/// What the pieces lie in.
enum Keep {
    /// Guest memory, which is there to live.
    Guest { memory: Arc<dyn Any + Send + Sync>, writable: bool },
    /// A buffer of our own.
    Bounce(AlignedBytes),
    /// Zeroes, only to be written from.
    Zeroes,
}

// SAFETY: the addresses lead to memory that `keep` owns or shares, which may be used from any thread; nothing here makes
// a reference through them.
unsafe impl Send for IoVec {}

impl IoVec {
    fn new(parts: Vec<libc::iovec>, keep: Keep) -> Self {
        Self {
            parts,
            keep,
            #[cfg(test)]
            _with: None,
        }
    }

    /// The first [`MAX_PARTS`] pieces of guest memory that `segments` name; `None` if one is not in it. `writable` if
    /// the kernel is to fill them; whoever asked for that notes it in a dirty bitmap.
    ///
    /// `spare` is one that is not used any more: if it was for the same memory, nothing is allocated, and no reference to
    /// the memory counted, which others share.
    pub fn guest<G>(memory: &Arc<G>, segments: &Segments, writable: bool, spare: Option<Self>) -> Option<Self>
    where
        G: GuestMemory + Send + Sync + 'static,
    {
        let access = if writable { Permissions::Write } else { Permissions::Read };
        let spare = spare.and_then(|spare| match spare.keep {
            Keep::Guest { memory: kept, .. } if is_same(&kept, memory) => Some((spare.parts, kept)),
            Keep::Guest { .. } | Keep::Bounce(_) | Keep::Zeroes => None,
        });
        let (mut parts, memory_kept) = spare.unwrap_or_else(|| {
            let parts = Vec::with_capacity(segments.parts().len().min(MAX_PARTS));
            (parts, Arc::<G>::clone(memory))
        });
        parts.clear();
        'segments: for part in segments.parts() {
            for slice in memory.get_slices(part.address, part.length as usize, access).ok()? {
                if parts.len() == MAX_PARTS {
                    break 'segments;
                }
                let slice = slice.ok()?;
                let start = slice.ptr_guard_mut().as_ptr();
                parts.push(libc::iovec { iov_base: start.cast(), iov_len: slice.len() });
            }
        }
        Some(Self::new(parts, Keep::Guest { memory: memory_kept, writable }))
    }

    /// Whether it is for guest memory.
    pub fn is_guest(&self) -> bool {
        matches!(self.keep, Keep::Guest { .. })
    }

    /// A buffer of `length` bytes that suits direct I/O.
    pub fn bounce(length: usize) -> Self {
        let buffer = AlignedBytes::new(length, BOUNCE_ALIGN);
        let parts = vec![libc::iovec { iov_base: buffer.as_ptr().cast(), iov_len: length }];
        Self::new(parts, Keep::Bounce(buffer))
    }

    /// As [`bounce`](Self::bounce), and keeps `with` as long as it lives.
    #[cfg(test)]
    pub fn bounce_with(length: usize, with: &Arc<()>) -> Self {
        Self { _with: Some(Arc::clone(with)), ..Self::bounce(length) }
    }

    /// Up to `length` zeroes, to be written from.
    pub fn zeroes(length: u64) -> Self {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        while left > 0 && parts.len() < MAX_PARTS / 64 {
            let take = left.min(ZERO_BYTES);
            let start = ZEROES.0.as_ptr().cast_mut();
            parts.push(libc::iovec { iov_base: start.cast(), iov_len: take });
            left -= take;
        }
        Self::new(parts, Keep::Zeroes)
    }

    /// The bytes of a [`bounce`](Self::bounce) buffer; none for others.
    pub fn bounce_bytes(&mut self) -> &mut [u8] {
        let length = self.length();
        match &mut self.keep {
            Keep::Bounce(buffer) => buffer.as_mut_slice().get_mut(..length).unwrap_or_default(),
            Keep::Guest { .. } | Keep::Zeroes => &mut [],
        }
    }

    /// Bytes altogether.
    pub fn length(&self) -> usize {
        self.parts.iter().map(|part| part.iov_len).sum()
    }

    /// Leaves out what comes after the first `length` bytes, for calls that do less than they were asked for.
    #[cfg(test)]
    pub fn truncate(&mut self, mut length: usize) {
        for part in &mut self.parts {
            part.iov_len = part.iov_len.min(length);
            length -= part.iov_len;
        }
    }

    /// Whether each piece begins at a multiple of `address` and is as long as a multiple of `length`.
    pub fn is_aligned(&self, address: usize, length: usize) -> bool {
        let fits = |part: &libc::iovec| {
            part.iov_base.addr().is_multiple_of(address) && part.iov_len.is_multiple_of(length)
        };
        self.parts.iter().all(fits)
    }

    /// The pieces as the kernel takes them. They stay where they are while this lives and is not changed.
    pub(super) fn parts(&self) -> &[libc::iovec] {
        &self.parts
    }

    /// The kernel may fill the pieces.
    pub(super) fn is_writable(&self) -> bool {
        match &self.keep {
            Keep::Guest { writable, .. } => *writable,
            Keep::Bounce(_) => true,
            Keep::Zeroes => false,
        }
    }

    /// Reads from `offset` of `file`; gives the bytes read, fewer than there is room for near the end.
    pub fn read(&self, file: &File, offset: u64) -> io::Result<usize> {
        if !self.is_writable() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let (parts, count, offset) = (self.parts.as_ptr(), self.count(), signed(offset)?);
        // SAFETY: the pieces are writable and stay in place while `self` is borrowed; guest memory among them may
        // change at any time anyhow, and nobody holds a reference into it.
        let result = unsafe { libc::preadv2(file.as_raw_fd(), parts, count, offset, 0) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Writes at `offset` of `file`; gives the bytes written. `durable`: they survive a power failure then.
    pub fn write(&self, file: &File, offset: u64, durable: bool) -> io::Result<usize> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let (parts, count, offset) = (self.parts.as_ptr(), self.count(), signed(offset)?);
        // SAFETY: the pieces stay in place while `self` is borrowed, and the kernel only reads them.
        let result = unsafe { libc::pwritev2(file.as_raw_fd(), parts, count, offset, flags) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.parts.len()).unwrap_or(libc::c_int::MAX)
    }
}

/// Whether both are references to the same memory. As both keep it, its address is nobody else's.
fn is_same<G>(kept: &Arc<dyn Any + Send + Sync>, memory: &Arc<G>) -> bool {
    Arc::as_ptr(kept).cast::<()>() == Arc::as_ptr(memory).cast::<()>()
}

fn signed(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::{IoVec, MAX_PARTS};
    use devices::virtio::Buffer;
    use devices::virtio::blk::Segments;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    fn memory() -> Arc<GuestMemoryMmap<()>> {
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
    }

    fn segments(address: u64, length: u32) -> Segments {
        Segments::window(&[Buffer { address: GuestAddress(address), length }], 0, u64::from(length))
    }

    #[test]
    fn memory_outlives_its_other_owners_while_the_kernel_may_use_it() {
        let file = tempfile::tempfile().unwrap();
        let memory = memory();
        memory.write_slice(b"guest", GuestAddress(0xFFE)).unwrap();
        let pieces = IoVec::guest(&memory, &segments(0xFFE, 5), false, None).unwrap();
        assert_eq!(pieces.parts().len(), 2, "two regions");
        drop(memory);
        assert_eq!(pieces.write(&file, 3, true).unwrap(), 5);
        let mut back = IoVec::bounce(8);
        assert!(back.is_aligned(4096, 8) && !back.is_aligned(4096, 16));
        assert_eq!(back.read(&file, 0).unwrap(), 8);
        assert_eq!(back.bounce_bytes(), b"\0\0\0guest");
    }

    #[test]
    fn one_that_is_not_used_any_more_serves_again_without_another_reference_to_memory() {
        let memory = memory();
        let mut pieces = IoVec::guest(&memory, &segments(0, 512), false, None).unwrap();
        let references = Arc::strong_count(&memory);
        for i in 1..100 {
            pieces = IoVec::guest(&memory, &segments(i * 8, 16), true, Some(pieces)).unwrap();
            assert_eq!((pieces.length(), Arc::strong_count(&memory)), (16, references));
        }
        // Other memory is kept by another.
        let other = self::memory();
        let pieces = IoVec::guest(&other, &segments(0, 8), true, Some(pieces)).unwrap();
        assert_eq!((Arc::strong_count(&memory), Arc::strong_count(&other)), (references - 1, 2));
        drop(pieces);
        assert_eq!(Arc::strong_count(&other), 1);
    }

    #[test]
    fn addresses_outside_of_memory_are_refused() {
        assert!(IoVec::guest(&memory(), &segments(0x1FFF, 2), true, None).is_none());
        assert!(IoVec::guest(&memory(), &segments(0x1FFF, 1), true, None).is_some());
    }

    #[test]
    fn what_is_only_to_be_read_is_never_filled() {
        let file = tempfile::tempfile().unwrap();
        for pieces in [IoVec::zeroes(4096), IoVec::guest(&memory(), &segments(0, 512), false, None).unwrap()]
        {
            assert_eq!(pieces.read(&file, 0).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        }
    }

    #[test]
    fn a_call_gets_no_more_pieces_than_the_kernel_takes() {
        let buffers: Vec<Buffer> =
            (0..1200).map(|i| Buffer { address: GuestAddress(i * 2), length: 1 }).collect();
        let pieces = IoVec::guest(&memory(), &Segments::window(&buffers, 0, 1200), true, None).unwrap();
        assert_eq!((pieces.parts().len(), pieces.length()), (MAX_PARTS, MAX_PARTS));
        assert_eq!(IoVec::zeroes(u64::MAX).length(), 1 << 20);
        assert_eq!(IoVec::zeroes(70_000).length(), 70_000);
    }
}
