//! The buffers of a chain as slices of guest memory. Chains themselves are `queue_chain`'s.

use smallvec::SmallVec;
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, GuestMemory, Permissions, VolatileSlice};

use crate::virtio::Buffer;

/// A piece of guest memory.
pub(super) type GuestSlice<'m, G> = VolatileSlice<'m, BS<'m, <G as GuestMemory>::Bitmap>>;

/// Pieces of one round, on its stack: more than so many go to the heap. Enough for a frame of 64 KiB in the small buffers of
/// Linux's receive queues.
pub(super) type Slices<S> = SmallVec<[S; 64]>;

/// Adds the memory of `buffers` to `slices`, at most `limit` of them; false, and nothing added, if it is more or lies
/// outside of guest memory.
pub(super) fn add_slices<'m, G: GuestMemory>(
    memory: &'m G,
    buffers: &[Buffer],
    access: Permissions,
    limit: usize,
    slices: &mut Slices<GuestSlice<'m, G>>,
) -> bool {
    let before = slices.len();
    let complete = buffers.iter().all(|buffer| {
        let Ok(length) = usize::try_from(buffer.length) else { return false };
        let Ok(parts) = memory.get_slices(buffer.address, length, access) else { return false };
        for part in parts {
            match part {
                Ok(part) if slices.len() - before < limit => slices.push(part),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    });
    if !complete {
        slices.truncate(before);
    }
    complete
}

/// Writes `data` over the bytes from `offset` on; what lies past the end is lost.
pub(super) fn write_at<B: vm_memory::bitmap::BitmapSlice>(
    slices: &[VolatileSlice<'_, B>],
    mut offset: usize,
    mut data: &[u8],
) {
    for slice in slices {
        if data.is_empty() {
            return;
        }
        if offset >= slice.len() {
            offset -= slice.len();
            continue;
        }
        let written = slice.write(data, offset).unwrap_or(0);
        data = data.get(written..).unwrap_or_default();
        offset = 0;
    }
}

/// Adds the first `count` bytes to `data`.
pub(super) fn read_front<B: vm_memory::bitmap::BitmapSlice>(
    slices: &[VolatileSlice<'_, B>],
    count: usize,
    data: &mut Vec<u8>,
) {
    let mut left = count;
    for slice in slices {
        let part = left.min(slice.len());
        let start = data.len();
        data.resize(start + part, 0);
        if let Some(into) = data.get_mut(start..) {
            // Cannot fail, the length is the slice's or less.
            let _ = slice.read(into, 0);
        }
        left -= part;
    }
}

/// Leaves of `slices` the first `whole`, and of the others what lies from `start` on, `length` bytes.
pub(super) fn cut<B: vm_memory::bitmap::BitmapSlice>(
    slices: &mut Slices<VolatileSlice<'_, B>>,
    mut whole: usize,
    mut start: usize,
    mut length: usize,
) {
    slices.retain(|slice| {
        if whole > 0 {
            whole -= 1;
            return true;
        }
        let skip = start.min(slice.len());
        start -= skip;
        let keep = (slice.len() - skip).min(length);
        length -= keep;
        match slice.subslice(skip, keep) {
            Ok(part) if keep > 0 => {
                *slice = part;
                true
            }
            _ => false,
        }
    });
}
