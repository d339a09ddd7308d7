//! Which parts of huge pages are out: the memory of a page of a pool goes only as a whole, and a transparent huge page
//! that lost parts may be made whole again by the kernel meanwhile. Letting go is the host's work.

use devices::virtio::balloon::PageRun;
use std::collections::BTreeMap;
use std::ops::Range;

const WORD_BITS: u32 = u64::BITS;

/// Huge pages with parts that are out, by the number of their first page of 4 KiB.
#[derive(Debug, Default)]
pub struct Blocks {
    parts: BTreeMap<u32, Parts>,
    /// Those that are not out as a whole.
    torn: usize,
}

#[derive(Debug)]
struct Parts {
    /// A bit for each page of 4 KiB.
    out: Box<[u64]>,
    count: u32,
}

/// What a change made of the huge pages that it touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Their first pages: those that are out as a whole now, or were until now.
    pub whole: Vec<u32>,
    /// Of those that pages were taken from: those that are not out as a whole.
    pub parts: Vec<u32>,
    /// Change of the pages that are out of huge pages that are not out as a whole.
    pub partial: i64,
}

impl Blocks {
    /// These pages are out, of huge pages of `size` pages of 4 KiB, a power of two.
    pub fn take(&mut self, run: PageRun, size: u32) -> Changed {
        let mut changed = Changed::default();
        for (first, pages) in split(run, size) {
            let parts = self.parts.entry(first).or_insert_with(|| Parts::new(size));
            let was_torn = parts.is_torn();
            let added = parts.set(pages, true);
            self.torn = self.torn + usize::from(parts.is_torn()) - usize::from(was_torn);
            if added > 0 && parts.count == size {
                changed.whole.push(first);
                changed.partial -= i64::from(size - added);
            } else {
                changed.partial += i64::from(added);
            }
            if parts.count < size {
                changed.parts.push(first);
            }
        }
        changed
    }

    /// These are the guest's again.
    pub fn give(&mut self, run: PageRun, size: u32) -> Changed {
        let mut changed = Changed::default();
        for (first, pages) in split(run, size) {
            let Some(parts) = self.parts.get_mut(&first) else { continue };
            let (was_whole, was_torn) = (parts.count == size, parts.is_torn());
            let removed = parts.set(pages, false);
            self.torn = self.torn + usize::from(parts.is_torn()) - usize::from(was_torn);
            if was_whole && removed > 0 {
                changed.whole.push(first);
                changed.partial += i64::from(size - removed);
            } else {
                changed.partial -= i64::from(removed);
            }
            if parts.count == 0 {
                self.parts.remove(&first);
            }
        }
        changed
    }

    /// The first pages of those that pages of `run` are of and that are out as a whole.
    pub fn whole(&self, run: PageRun, size: u32) -> Vec<u32> {
        let whole = |first: &u32| self.parts.get(first).is_some_and(|parts| parts.count == size);
        split(run, size).map(|(first, _)| first).filter(whole).collect()
    }

    /// A page that is not out of the huge page from page `first` on, if others are.
    pub fn left(&self, first: u32) -> Option<u32> {
        let parts = self.parts.get(&first)?;
        (0..parts.size()).find(|at| !parts.has(*at)).map(|at| first + at)
    }

    /// All pages that are out, as runs within huge pages.
    pub fn all(&self) -> Vec<PageRun> {
        self.parts.iter().flat_map(|(first, parts)| parts.runs(*first)).collect()
    }

    /// Whether any is out in part.
    pub fn has_torn(&self) -> bool {
        self.torn > 0
    }

    /// Those of huge pages from page `from` on that are not out as a whole, with the first page of each; of `most` huge
    /// pages.
    pub fn torn(&self, from: u32, most: usize) -> Vec<(u32, Vec<PageRun>)> {
        let torn = self.parts.range(from..).filter(|(_, parts)| parts.count < parts.size());
        torn.take(most).map(|(first, parts)| (*first, parts.runs(*first))).collect()
    }
}

impl Parts {
    fn new(size: u32) -> Self {
        let words = usize::try_from(size.div_ceil(WORD_BITS)).unwrap_or(0);
        Self { out: vec![0; words].into(), count: 0 }
    }

    fn size(&self) -> u32 {
        u32::try_from(self.out.len()).unwrap_or(0).saturating_mul(WORD_BITS)
    }

    fn is_torn(&self) -> bool {
        (1..self.size()).contains(&self.count)
    }

    /// What is out of the huge page from page `first` on.
    fn runs(&self, first: u32) -> Vec<PageRun> {
        let mut runs = Vec::new();
        let mut at = 0;
        while at < self.size() {
            let count = (at..self.size()).take_while(|at| self.has(*at)).count();
            let count = u32::try_from(count).unwrap_or(0);
            if count > 0 {
                runs.push(PageRun { first: first + at, count });
            }
            at += count + 1;
        }
        runs
    }

    fn has(&self, at: u32) -> bool {
        let word = usize::try_from(at / WORD_BITS).ok().and_then(|word| self.out.get(word));
        word.is_some_and(|word| word & 1 << (at % WORD_BITS) != 0)
    }

    /// How many were otherwise before.
    fn set(&mut self, pages: Range<u32>, out: bool) -> u32 {
        let mut changed = 0;
        for at in pages {
            let word = usize::try_from(at / WORD_BITS).ok().and_then(|word| self.out.get_mut(word));
            let (Some(word), bit) = (word, 1 << (at % WORD_BITS)) else { break };
            if (*word & bit != 0) != out {
                *word ^= bit;
                changed += 1;
            }
        }
        if out {
            self.count += changed
        } else {
            self.count -= changed
        }
        changed
    }
}

/// The huge pages that a run is of: the first page of each, and which of its pages the run has.
fn split(run: PageRun, size: u32) -> impl Iterator<Item = (u32, Range<u32>)> {
    let (mut at, end) = (u64::from(run.first), u64::from(run.first) + u64::from(run.count));
    let size = u64::from(size);
    std::iter::from_fn(move || {
        let first = at / size * size;
        let (start, stop) = (at, end.min(first + size));
        at = stop;
        let small = |number: u64| u32::try_from(number).ok();
        if start < stop { Some((small(first)?, small(start - first)?..small(stop - first)?)) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Changed};
    use devices::virtio::balloon::PageRun;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SIZE: u32 = 64;

    fn run(first: u32, count: u32) -> PageRun {
        PageRun { first, count }
    }

    fn changed(whole: &[u32], parts: &[u32], partial: i64) -> Changed {
        Changed { whole: whole.to_vec(), parts: parts.to_vec(), partial }
    }

    #[test]
    fn a_huge_page_is_out_when_its_last_part_is() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.take(run(70, 100), SIZE), changed(&[], &[64, 128], 58 + 42));
        assert_eq!([64, 128, 192].map(|first| blocks.left(first)), [Some(64), Some(170), None]);
        assert_eq!(blocks.take(run(64, 6), SIZE), changed(&[64], &[], -58));
        assert_eq!(blocks.take(run(64, 64), SIZE), changed(&[], &[], 0));
        assert_eq!(blocks.left(64), None);
        assert_eq!(blocks.whole(run(100, 50), SIZE), [64]);
        assert_eq!(blocks.all(), [run(64, 64), run(128, 42)]);
        assert_eq!(blocks.give(run(127, 2), SIZE), changed(&[64], &[], 63 - 1));
        assert_eq!(blocks.all(), [run(64, 63), run(129, 41)]);
        assert_eq!(blocks.torn(0, 9), [(64, vec![run(64, 63)]), (128, vec![run(129, 41)])]);
        assert_eq!(blocks.torn(65, 1), [(128, vec![run(129, 41)])]);
        assert_eq!(blocks.give(run(0, 400), SIZE), changed(&[], &[], -63 - 41));
        assert_eq!(blocks.all(), []);
    }

    #[test]
    fn the_last_page_below_16_tib_is_a_page() {
        let mut blocks = Blocks::default();
        let last = u32::MAX - 63;
        assert_eq!(blocks.take(run(last, 64), SIZE), changed(&[last], &[], 0));
        assert_eq!(blocks.take(run(0, 1 << 20), 1 << 18).whole, [0, 1 << 18, 2 << 18, 3 << 18]);
    }

    proptest! {
        #[test]
        fn parts_that_come_and_go_are_as_a_set_has_them(
            steps in prop::collection::vec((any::<bool>(), 0_u32..300, 1_u32..90), 0..60),
        ) {
            let (mut blocks, mut set, mut partial) = (Blocks::default(), BTreeSet::new(), 0);
            let whole = |set: &BTreeSet<u32>, first: u32| (first..first + SIZE).all(|page| set.contains(&page));
            for (take, first, count) in steps {
                let before = set.clone();
                let changed = if take {
                    set.extend(first..first + count);
                    blocks.take(run(first, count), SIZE)
                } else {
                    set.retain(|page| !(first..first + count).contains(page));
                    blocks.give(run(first, count), SIZE)
                };
                let turned: Vec<u32> =
                    (0..512).step_by(64).filter(|first| whole(&set, *first) != whole(&before, *first)).collect();
                prop_assert_eq!(&changed.whole, &turned);
                partial += changed.partial;
                let alone = set.iter().filter(|page| !whole(&set, *page / SIZE * SIZE)).count();
                prop_assert_eq!(usize::try_from(partial).unwrap(), alone);
                prop_assert_eq!(blocks.has_torn(), alone > 0);
                let all: Vec<u32> =
                    blocks.all().iter().flat_map(|run| run.first..run.first + run.count).collect();
                prop_assert_eq!(all, set.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
