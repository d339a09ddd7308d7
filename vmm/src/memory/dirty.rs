//! Which pages of a region this process has written, while somebody wants to know. What the guest writes is in KVM's log
//! ([`GuestVm::dirty_log`](crate::sys::GuestVm::dirty_log)); what vhost writes is in neither.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::{GuestAddress, GuestMemory, GuestRegionCollection, Permissions};

use super::ram::RamRegion;

/// A page of the bitmap, as in KVM's log.
pub const DIRTY_PAGE: usize = 4096;

/// A bit per 4 KiB of a region. Off until it is switched on: then a write costs one look at a flag, and no memory is taken.
#[derive(Debug, Default)]
pub struct DirtyBitmap {
    on: AtomicBool,
    /// Made when it is first switched on.
    words: OnceLock<Box<[AtomicU64]>>,
}

/// Part of a [`DirtyBitmap`], from some byte of the region on.
#[derive(Debug, Clone)]
pub struct DirtySlice<'a> {
    bitmap: &'a DirtyBitmap,
    start: usize,
}

impl DirtyBitmap {
    /// Notes writes from now on, for a region of so many bytes. A write that another thread has begun may be missed until
    /// that thread has passed a [barrier](crate::sys::barrier_of_all_threads).
    pub fn switch_on(&self, bytes: usize) {
        self.words.get_or_init(|| {
            (0..bytes.div_ceil(DIRTY_PAGE).div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
        });
        let _ = self.take();
        self.on.store(true, Ordering::SeqCst);
    }

    /// Notes nothing more.
    pub fn switch_off(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// The pages written since the last call, the first in the lowest bit, and clears them. Empty if it was never on.
    pub fn take(&self) -> Vec<u64> {
        let words = self.words.get().map(AsRef::as_ref).unwrap_or_default();
        words.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect()
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmap {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyBitmap {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        // Ordered after the write by the barrier of whoever switches it on.
        if self.on.load(Ordering::Relaxed) {
            self.set(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / DIRTY_PAGE;
        let word = self.words.get().and_then(|words| words.get(page / 64));
        word.is_some_and(|word| word.load(Ordering::Acquire) & 1 << (page % 64) != 0)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { bitmap: self, start: offset }
    }
}

impl DirtyBitmap {
    #[cold]
    fn set(&self, offset: usize, len: usize) {
        let (Some(words), Some(last)) = (self.words.get(), len.checked_sub(1)) else { return };
        for page in offset / DIRTY_PAGE..=offset.saturating_add(last) / DIRTY_PAGE {
            let Some(word) = words.get(page / 64) else { return };
            word.fetch_or(1 << (page % 64), Ordering::Release);
        }
    }
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.bitmap.mark_dirty(self.start.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.bitmap.dirty_at(self.start.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { bitmap: self.bitmap, start: self.start.saturating_add(offset) }
    }
}

/// Guest memory that the kernel fills for a device, by addresses that it was given: nobody but the device knows of it.
pub trait FilledByKernel: GuestMemory {
    /// The kernel has written here.
    fn filled(&self, address: GuestAddress, length: usize) {
        if size_of::<Self::Bitmap>() == 0 {
            return;
        }
        for slice in self.get_slices(address, length, Permissions::Write).into_iter().flatten().flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
    }
}

impl FilledByKernel for GuestRegionCollection<RamRegion> {}
#[cfg(test)]
impl<B: vm_memory::bitmap::NewBitmap + 'static> FilledByKernel for vm_memory::GuestMemoryMmap<B> {}

#[cfg(test)]
mod tests {
    use super::{DIRTY_PAGE, DirtyBitmap};
    use proptest::prelude::*;
    use vm_memory::bitmap::Bitmap;

    const PAGES: usize = 150;

    #[test]
    fn nothing_is_noted_and_nothing_taken_before_it_is_switched_on() {
        let bitmap = DirtyBitmap::default();
        bitmap.mark_dirty(0, 1 << 30);
        assert!(bitmap.take().is_empty() && !bitmap.dirty_at(0));
        bitmap.switch_on(PAGES * DIRTY_PAGE);
        assert_eq!(bitmap.take(), [0, 0, 0]);
        bitmap.mark_dirty(64 * DIRTY_PAGE, 1);
        bitmap.switch_off();
        bitmap.mark_dirty(0, 1);
        assert_eq!(bitmap.take(), [0, 1, 0]);
        // What was left from before does not count.
        bitmap.switch_on(PAGES * DIRTY_PAGE);
        assert_eq!(bitmap.take(), [0, 0, 0]);
    }

    #[test]
    fn what_lies_past_the_end_is_not_noted() {
        let bitmap = DirtyBitmap::default();
        bitmap.switch_on(DIRTY_PAGE);
        bitmap.mark_dirty(usize::MAX, usize::MAX);
        bitmap.slice_at(usize::MAX).mark_dirty(usize::MAX, 1);
        bitmap.mark_dirty(0, 0);
        assert_eq!(bitmap.take(), [0]);
    }

    proptest! {
        #[test]
        fn a_page_is_noted_if_a_byte_of_it_was_written(
            writes in prop::collection::vec((0..PAGES * DIRTY_PAGE, 0..3 * DIRTY_PAGE, 0..PAGES * DIRTY_PAGE), 0..8)
        ) {
            let bitmap = DirtyBitmap::default();
            bitmap.switch_on(PAGES * DIRTY_PAGE);
            let mut written = [false; PAGES];
            for (start, len, cut) in writes {
                let cut = cut.min(start);
                bitmap.slice_at(cut).slice_at(0).mark_dirty(start - cut, len);
                let end = (start + len).min(PAGES * DIRTY_PAGE);
                (start..end).step_by(1).for_each(|byte| written[byte / DIRTY_PAGE] = true);
            }
            let dirty = (0..PAGES).map(|page| bitmap.dirty_at(page * DIRTY_PAGE));
            prop_assert!(dirty.eq(written[..PAGES].iter().copied()));
            let taken = bitmap.take();
            prop_assert!((0..PAGES).all(|page| (taken[page / 64] >> (page % 64) & 1 == 1) == written[page]));
            prop_assert!(bitmap.take().iter().all(|word| *word == 0));
        }
    }
}
