//! Which BARs answer: pure arithmetic over what the registers of a segment's functions ask for. Telling the functions
//! is left to the segment.

use std::ops::RangeInclusive;

/// What the registers of one BAR ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub slot: u8,
    pub bar: u8,
    pub size: u64,
    /// `None` while memory decoding is off.
    pub address: Option<u64>,
    /// Where it answers now.
    pub granted: Option<u64>,
}

impl Wish {
    /// First and last address, if it lies in one of `windows`.
    fn range(&self, windows: &[RangeInclusive<u64>]) -> Option<(u64, u64)> {
        let first = self.address?;
        let last = first.checked_add(self.size.checked_sub(1)?)?;
        let inside = |window: &RangeInclusive<u64>| *window.start() <= first && last <= *window.end();
        windows.iter().any(inside).then_some((first, last))
    }
}

/// Where each BAR answers, in the order of `wishes`. A BAR outside of `windows` does not answer; of two that overlap
/// the one that already answers there keeps it, otherwise the first. So a guest that puts a BAR over another device,
/// or over memory, gets nothing for it.
pub(super) fn grant(windows: &[RangeInclusive<u64>], wishes: &[Wish]) -> Vec<Option<u64>> {
    let mut granted = vec![None; wishes.len()];
    let mut taken: Vec<(u64, u64)> = Vec::with_capacity(wishes.len());
    for kept in [true, false] {
        for (wish, grant) in wishes.iter().zip(&mut granted) {
            if (wish.address.is_some() && wish.address == wish.granted) != kept {
                continue;
            }
            let Some((first, last)) = wish.range(windows) else { continue };
            if taken.iter().all(|other| last < other.0 || other.1 < first) {
                taken.push((first, last));
                *grant = wish.address;
            }
        }
    }
    granted
}

/// Where a BAR answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decoded {
    pub first: u64,
    pub last: u64,
    pub slot: u8,
    pub bar: u8,
}

/// All BARs that answer, ascending by address, for [`find`].
pub(super) fn decoded(wishes: &[Wish]) -> Vec<Decoded> {
    let mut list: Vec<_> = wishes
        .iter()
        .filter_map(|wish| {
            let first = wish.granted?;
            Some(Decoded { first, last: first + (wish.size - 1), slot: wish.slot, bar: wish.bar })
        })
        .collect();
    list.sort_by_key(|decoded| decoded.first);
    list
}

/// The BAR in which all of `length` bytes at `address` lie.
pub(super) fn find(list: &[Decoded], address: u64, length: u64) -> Option<Decoded> {
    let last = address.checked_add(length.checked_sub(1)?)?;
    let index = list.partition_point(|decoded| decoded.last < address);
    list.get(index).copied().filter(|decoded| decoded.first <= address && last <= decoded.last)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
