//! Bytes at an aligned address that stay there. Not a `Box`, whose owner promises that no other pointer leads to them:
//! the kernel has one for as long as a call is under way.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Zeroed at first.
pub struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, as a `Vec<u8>` does.
unsafe impl Send for AlignedBytes {}

impl AlignedBytes {
    /// At least one byte, at a multiple of `align`, which is a power of two. Aborts where there is no memory, as `Vec`
    /// does.
    pub fn new(length: usize, align: usize) -> Self {
        let length = length.max(1);
        let Ok(layout) = Layout::from_size_align(length, align) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// The first byte's address; valid as long as `self` lives, wherever it is moved.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes. Nobody else may use the address meanwhile.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is this value's own and initialized, and `self` stays borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBytes;

    #[test]
    fn the_bytes_stay_where_they_are_when_their_owner_moves() {
        let mut bytes = AlignedBytes::new(5000, 4096);
        let start = bytes.as_ptr();
        assert!(start.addr().is_multiple_of(4096));
        bytes.as_mut_slice()[4999] = 7;
        let mut moved = Box::new(bytes);
        assert_eq!(
            (moved.as_ptr(), moved.as_mut_slice().len(), moved.as_mut_slice()[4999]),
            (start, 5000, 7)
        );
        assert_eq!(AlignedBytes::new(0, 8).as_mut_slice(), [0]);
    }
}
