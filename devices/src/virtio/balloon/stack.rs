//! The shadow of the driver's list of pages: last in, first out, and any page found at once. What a page means is left
//! to the state.

use std::collections::BTreeMap;

/// A slot whose page was taken out from beneath others; as a page number it would be the last page below 16 TiB.
const GONE: u32 = u32::MAX;
/// Page numbers of one leaf of the index: 16 MiB of guest memory, 16 KiB of host memory.
const LEAF_PAGES: usize = 4096;
const LEAF_SHIFT: u32 = 12;
const WORD_BITS: usize = 64;
/// Gone slots that are put up with before slots move together.
const GONE_MIN: usize = 1024;

/// Where a page was when it was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// On top, as a driver does it.
    Top,
    /// Beneath others: a page migration, or a page that the driver could not lock.
    Deeper,
    /// It was not there.
    Absent,
}

/// Memory of 8 bytes for each page that is out.
#[derive(Debug, Default)]
pub(super) struct Stack {
    slots: Vec<u32>,
    gone: usize,
    kept: u32,
    index: BTreeMap<u32, Leaf>,
}

#[derive(Debug)]
struct Leaf {
    slots: Box<[u32; LEAF_PAGES]>,
    /// A bit for each page whose memory was left alone.
    kept: [u64; LEAF_PAGES / WORD_BITS],
    used: usize,
}

impl Leaf {
    fn new() -> Self {
        Self { slots: Box::new([GONE; LEAF_PAGES]), kept: [0; LEAF_PAGES / WORD_BITS], used: 0 }
    }
}

fn split(pfn: u32) -> (u32, usize) {
    let low = usize::try_from(pfn).unwrap_or(0) % LEAF_PAGES;
    (pfn >> LEAF_SHIFT, low)
}

impl Stack {
    /// Pages that are out.
    pub fn len(&self) -> u32 {
        u32::try_from(self.slots.len() - self.gone).unwrap_or(u32::MAX)
    }

    /// Puts a page on top; false if it is there already.
    pub fn push(&mut self, pfn: u32) -> bool {
        let Some(slot) = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < GONE && pfn != GONE)
        else {
            return false;
        };
        if !self.note(pfn, slot) {
            return false;
        }
        self.slots.push(pfn);
        true
    }

    /// Pages that are marked.
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// Marks a page that is out, not marked yet: its memory was left alone.
    pub fn keep(&mut self, pfn: u32) {
        let (high, low) = split(pfn);
        if let Some(leaf) = self.index.get_mut(&high) {
            leaf.kept[low / WORD_BITS] |= 1 << (low % WORD_BITS);
            self.kept += 1;
        }
    }

    /// Whether a page is marked.
    pub fn is_kept(&self, pfn: u32) -> bool {
        let (high, low) = split(pfn);
        self.index.get(&high).is_some_and(|leaf| leaf.kept[low / WORD_BITS] & 1 << (low % WORD_BITS) != 0)
    }

    /// Takes a page out, wherever it is, and its mark with it.
    pub fn remove(&mut self, pfn: u32) -> Removed {
        let Some(slot) = self.unnote(pfn) else { return Removed::Absent };
        if slot + 1 == self.slots.len() {
            self.slots.pop();
            self.drop_gone();
            return Removed::Top;
        }
        if let Some(entry) = self.slots.get_mut(slot) {
            *entry = GONE;
            self.gone += 1;
        }
        if self.gone > GONE_MIN.max(self.slots.len() / 2) {
            self.close_up();
        }
        Removed::Deeper
    }

    /// Pages from the top down.
    pub fn downwards(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().rev().copied().filter(|pfn| *pfn != GONE)
    }

    /// Pages from the bottom up.
    pub fn upwards(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().copied().filter(|pfn| *pfn != GONE)
    }

    /// The top is always a page.
    fn drop_gone(&mut self) {
        while self.slots.last() == Some(&GONE) {
            self.slots.pop();
            self.gone -= 1;
        }
    }

    fn close_up(&mut self) {
        self.slots.retain(|pfn| *pfn != GONE);
        self.gone = 0;
        for (slot, pfn) in (0..).zip(&self.slots) {
            let (high, low) = split(*pfn);
            if let Some(leaf) = self.index.get_mut(&high) {
                leaf.slots[low] = slot;
            }
        }
    }

    fn note(&mut self, pfn: u32, slot: u32) -> bool {
        let (high, low) = split(pfn);
        let leaf = self.index.entry(high).or_insert_with(Leaf::new);
        match leaf.slots.get_mut(low) {
            Some(entry) if *entry == GONE => {
                *entry = slot;
                leaf.used += 1;
                true
            }
            _ => false,
        }
    }

    fn unnote(&mut self, pfn: u32) -> Option<usize> {
        let (high, low) = split(pfn);
        let leaf = self.index.get_mut(&high)?;
        let slot = std::mem::replace(leaf.slots.get_mut(low)?, GONE);
        if slot == GONE {
            return None;
        }
        let (word, bit) = (low / WORD_BITS, 1 << (low % WORD_BITS));
        self.kept -= u32::from(leaf.kept[word] & bit != 0);
        leaf.kept[word] &= !bit;
        leaf.used -= 1;
        if leaf.used == 0 {
            self.index.remove(&high);
        }
        usize::try_from(slot).ok()
    }
}
