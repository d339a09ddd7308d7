//! Pieces of guest memory, in order, that together are the data of a request. Their bytes are the engine's business.

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

use crate::virtio::Buffer;

/// Pieces of guest memory, in order. Pieces that touch are one; none is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    parts: Vec<Buffer>,
    length: u64,
}

impl Segments {
    /// The `length` bytes from `offset` on of what `buffers` hold; fewer where they end.
    #[must_use]
    pub fn window(buffers: &[Buffer], offset: u64, length: u64) -> Self {
        Self::default().refilled(buffers, offset, length)
    }

    /// The same, in the memory of these, which are not used any more.
    #[must_use]
    pub fn refilled(self, buffers: &[Buffer], mut offset: u64, length: u64) -> Self {
        let mut window = Self { parts: self.parts, length: 0 };
        window.parts.clear();
        window.parts.reserve(buffers.len());
        for buffer in buffers {
            let size = u64::from(buffer.length);
            if offset >= size {
                offset -= size;
                continue;
            }
            let take = (size - offset).min(length - window.length);
            let (Ok(take), Some(address)) = (u32::try_from(take), buffer.address.0.checked_add(offset))
            else {
                break;
            };
            offset = 0;
            window.push(GuestAddress(address), take);
            if window.length == length {
                break;
            }
        }
        window
    }

    fn push(&mut self, address: GuestAddress, length: u32) {
        if length == 0 {
            return;
        }
        self.length += u64::from(length);
        if let Some(last) = self.parts.last_mut()
            && last.address.0.checked_add(u64::from(last.length)) == Some(address.0)
            && let Some(joined) = last.length.checked_add(length)
        {
            last.length = joined;
            return;
        }
        self.parts.push(Buffer { address, length });
    }

    /// The pieces.
    #[must_use]
    pub fn parts(&self) -> &[Buffer] {
        &self.parts
    }

    /// Bytes altogether.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// No bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Leaves out the first `count` bytes.
    pub fn advance(&mut self, count: u64) {
        let mut left = count.min(self.length);
        self.length -= left;
        let whole = self.parts.iter().take_while(|part| {
            let fits = u64::from(part.length) <= left;
            left -= if fits { u64::from(part.length) } else { 0 };
            fits
        });
        let whole = whole.count();
        self.parts.drain(..whole);
        if let (Some(first), Ok(left)) = (self.parts.first_mut(), u32::try_from(left)) {
            first.address = GuestAddress(first.address.0.wrapping_add(u64::from(left)));
            first.length -= left;
        }
    }

    /// Copies the first bytes of the segments to `data`, as many as both have.
    pub fn read(&self, memory: &impl GuestMemory, data: &mut [u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for part in &self.parts {
            let take = (part.length as usize).min(data.len() - done);
            memory.read_slice(&mut data[done..done + take], part.address)?;
            done += take;
        }
        Ok(done)
    }

    /// Copies `data` to the first bytes of the segments, as many as both have.
    pub fn write(&self, memory: &impl GuestMemory, data: &[u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for part in &self.parts {
            let take = (part.length as usize).min(data.len() - done);
            memory.write_slice(&data[done..done + take], part.address)?;
            done += take;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::GuestMemoryMmap;

    fn buffer(address: u64, length: u32) -> Buffer {
        Buffer { address: GuestAddress(address), length }
    }

    #[test]
    fn pieces_that_touch_become_one() {
        let segments = Segments::window(&[buffer(0x1000, 16), buffer(0x1010, 16), buffer(0x3000, 8)], 4, 32);
        assert_eq!(segments.parts(), [buffer(0x1004, 28), buffer(0x3000, 4)]);
        assert_eq!(segments.len(), 32);
    }

    #[test]
    fn pieces_at_the_end_of_the_address_space_do_not_wrap() {
        let segments = Segments::window(&[buffer(u64::MAX - 15, 16), buffer(0, 16)], 0, 32);
        assert_eq!(segments.parts(), [buffer(u64::MAX - 15, 16), buffer(0, 16)]);
    }

    proptest! {
        #[test]
        fn a_window_has_the_bytes_that_were_asked_for(
            lengths in proptest::collection::vec(1_u32..64, 1..12),
            gaps in proptest::collection::vec(0_u64..3, 12),
            offset in 0_u64..400,
            length in 0_u64..400,
            skip in 0_u64..400,
        ) {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
            let content: Vec<u8> = (0..0x1000_usize).map(|i| u8::try_from(i % 251).unwrap()).collect();
            memory.write_slice(&content, GuestAddress(0)).unwrap();
            let (mut at, mut buffers, mut all) = (0, Vec::new(), Vec::new());
            for (length, gap) in lengths.iter().zip(&gaps) {
                at += gap;
                buffers.push(buffer(at, *length));
                let start = usize::try_from(at).unwrap();
                all.extend_from_slice(&content[start..start + *length as usize]);
                at += u64::from(*length);
            }
            let from = usize::try_from(offset).unwrap().min(all.len());
            let to = from.saturating_add(usize::try_from(length).unwrap()).min(all.len());
            let mut segments = Segments::window(&buffers, offset, length);
            let mut data = vec![0; usize::try_from(segments.len()).unwrap()];
            prop_assert_eq!(segments.read(&memory, &mut data).unwrap(), data.len());
            prop_assert_eq!(&data, &all[from..to]);
            segments.advance(skip);
            let from = from.saturating_add(usize::try_from(skip).unwrap()).min(to);
            let mut data = vec![0; 500];
            let count = segments.read(&memory, &mut data).unwrap();
            prop_assert_eq!(&data[..count], &all[from..to]);
        }
    }
}
