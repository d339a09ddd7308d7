//! The buffers of a chain as slices of guest memory. Chains themselves are `queue_chain`'s.

use smallvec::SmallVec;
use vm_memory::bitmap::BS;
use vm_memory::{Bytes, GuestMemory, VolatileSlice};

/// A piece of guest memory.
pub(super) type GuestSlice<'m, G> = VolatileSlice<'m, BS<'m, <G as GuestMemory>::Bitmap>>;

/// Pieces of one round, on its stack: more than so many go to the heap. Enough for a frame of 64 KiB in the small buffers of
/// Linux's receive queues.
pub(super) type Slices<S> = SmallVec<[S; 64]>;

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

/// Copies the first bytes to `data`, as many as both have, and says how many.
pub(super) fn read_front<B: vm_memory::bitmap::BitmapSlice>(
    slices: &[VolatileSlice<'_, B>],
    data: &mut [u8],
) -> usize {
    let mut done = 0;
    for slice in slices {
        let Some(into) = data.get_mut(done..).filter(|into| !into.is_empty()) else { break };
        // Fails only where there is nothing to read.
        done += slice.read(into, 0).unwrap_or(0);
    }
    done
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
