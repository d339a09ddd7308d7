//! Output that nobody has taken yet: the newest of it, at a bounded cost.

use std::collections::VecDeque;

/// Most bytes kept: some screens, and what a kernel says while it starts.
pub const BACKLOG_BYTES: usize = 256 << 10;

/// The bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that it takes without losing any.
    pub fn room(&self) -> usize {
        BACKLOG_BYTES - self.bytes.len()
    }

    /// Takes `new`; how many of the oldest bytes went for it.
    pub fn push(&mut self, new: &[u8]) -> usize {
        let skipped = new.len().saturating_sub(BACKLOG_BYTES);
        let new = new.get(skipped..).unwrap_or_default();
        let gone = new.len().saturating_sub(self.room());
        self.bytes.drain(..gone);
        self.bytes.extend(new);
        skipped + gone
    }

    /// The oldest bytes, as far as they lie together.
    pub fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// All of them, the oldest first.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    /// The oldest `count` are taken.
    pub fn take(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        if self.bytes.is_empty() {
            // A burst has no lasting price.
            self.bytes.shrink_to(SMALL_BYTES);
        }
    }

    /// All are gone; how many there were.
    pub fn clear(&mut self) -> usize {
        let count = self.bytes.len();
        self.take(count);
        count
    }
}

/// Kept for the next line.
const SMALL_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::{BACKLOG_BYTES, Backlog};
    use proptest::prelude::*;

    #[test]
    fn more_than_all_of_it_leaves_the_end() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(b"old"), 0);
        let new: Vec<u8> = (0..=255).cycle().take(BACKLOG_BYTES + 5).collect();
        assert_eq!(backlog.push(&new), 3 + 5);
        assert_eq!((backlog.front().first(), backlog.room()), (Some(&5), 0));
        assert_eq!(backlog.clear(), BACKLOG_BYTES);
        assert!(backlog.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_not_lost_comes_in_order(
            deeds in prop::collection::vec((0_usize..200_000, 0_usize..150_000), 1..20),
        ) {
            let (mut backlog, mut said, mut heard, mut lost) = (Backlog::default(), 0_usize, 0, 0);
            for (count, taken) in deeds {
                let new: Vec<u8> = (said..said + count).map(|at| u8::try_from(at % 251).unwrap()).collect();
                said += count;
                lost += backlog.push(&new);
                let mut left = taken;
                while left > 0 && !backlog.is_empty() {
                    let front = backlog.front();
                    let part = left.min(front.len());
                    for (index, byte) in front[..part].iter().enumerate() {
                        prop_assert_eq!(usize::from(*byte), (heard + lost + index) % 251);
                    }
                    backlog.take(part);
                    heard += part;
                    left -= part;
                }
                prop_assert_eq!(heard + lost + BACKLOG_BYTES - backlog.room(), said);
            }
        }
    }
}
