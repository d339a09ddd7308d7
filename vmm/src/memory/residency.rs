//! Where the pages of each vnode really lie, asked from the kernel.

use super::moves::Pages;
use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, NodeSet, PnodeId, VnodeId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Pages asked for in one call: its arrays stay below 512 KiB, however much memory there is.
const BATCH: usize = 16 << 10;
const PAGE: usize = 4096;

/// Where one vnode's memory lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Residency {
    /// Touched memory by pnode.
    pub on: BTreeMap<PnodeId, Bytes>,
    /// Not touched yet.
    pub absent: Bytes,
    /// The kernel would not tell.
    pub unknown: Bytes,
}

impl Residency {
    /// Asks for every page of a vnode; about a second for 40 GiB of touched 4 KiB pages.
    pub fn measure(ram: &GuestRam, vnode: VnodeId) -> Result<Self, HostError> {
        Self::measure_while(ram, vnode, &|| true)
    }

    /// As [`measure`](Self::measure); ECANCELED once `go_on`, which is asked between batches, is false.
    pub fn measure_while(
        ram: &GuestRam,
        vnode: VnodeId,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Self, HostError> {
        let mut all = Self::default();
        for region in ram.of(vnode) {
            if !in_batches(region, 0..region.mapping.size(), go_on, |status| all.add(region.page(), status))?
            {
                let canceled = std::io::Error::from_raw_os_error(libc::ECANCELED);
                return Err(HostError::new("move_pages", canceled));
            }
        }
        Ok(all)
    }

    fn add(&mut self, page: usize, status: &[PageStatus]) {
        for status in status {
            let bytes = match status {
                PageStatus::On(pnode) => self.on.entry(*pnode).or_default(),
                PageStatus::Absent => &mut self.absent,
                PageStatus::Unknown(_) => &mut self.unknown,
            };
            *bytes = bytes.saturating_add(Bytes(page as u64));
        }
    }

    /// Touched memory that lies outside `pnodes`.
    pub fn foreign(&self, pnodes: &NodeSet) -> Bytes {
        let outside = self.on.iter().filter(|(pnode, _)| !pnodes.contains(**pnode));
        outside.fold(Bytes::ZERO, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// Asks where the pages of some range of a region lie, some at a time, as long as `go_on` says so; whether it came to the end.
pub fn in_batches<P: Pages>(
    region: &P,
    range: Range<usize>,
    go_on: &dyn Fn() -> bool,
    mut each: impl FnMut(&[PageStatus]),
) -> Result<bool, HostError> {
    let mut offsets = range.step_by(region.page());
    let mut batch = Vec::with_capacity(BATCH.min(offsets.len()));
    loop {
        batch.clear();
        batch.extend(offsets.by_ref().take(BATCH));
        if batch.is_empty() {
            return Ok(true);
        }
        if !go_on() {
            return Ok(false);
        }
        each(&region.locate(&batch)?);
    }
}

impl RamRegion {
    /// The unit in which its pages can be asked for and moved: a pool's pages are whole or absent.
    pub(crate) fn page(&self) -> usize {
        self.pages.pool().map_or(PAGE, |page| usize::try_from(page.get()).unwrap_or(PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::{BATCH, PAGE, in_batches};
    use crate::memory::moves::Pages;
    use crate::sys::{HostError, Mode, NodeMask, PageStatus};
    use resources::{Bytes, PnodeId};
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::ops::Range;

    /// Memory that nobody has touched, and how it was asked for.
    struct Untouched {
        size: usize,
        /// Where the list of each call was, how long, and its first page.
        calls: RefCell<Vec<(*const usize, usize, usize)>>,
    }

    impl Pages for Untouched {
        fn size(&self) -> usize {
            self.size
        }

        fn page(&self) -> usize {
            PAGE
        }

        fn in_blocks(&self) -> bool {
            false
        }

        fn set_policy(&self, _: Range<usize>, _: Mode, _: &NodeMask) -> Result<(), HostError> {
            Ok(())
        }

        fn policy_nodes(&self, _: usize) -> Option<resources::NodeSet> {
            None
        }

        fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
            self.calls.borrow_mut().push((offsets.as_ptr(), offsets.len(), offsets[0]));
            Ok(vec![PageStatus::Absent; offsets.len()])
        }

        fn relocate(&self, _: &[usize], _: &[PnodeId]) -> Result<Vec<PageStatus>, HostError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_region_of_any_size_is_asked_for_through_one_short_list() {
        let region = Untouched { size: (64 << 30) + 3 * PAGE, calls: RefCell::default() };
        let mut absent = Bytes::ZERO;
        in_batches(&region, 0..region.size(), &|| true, |status| {
            absent = absent.saturating_add(Bytes((status.len() * PAGE) as u64))
        })
        .unwrap();
        assert_eq!(absent, Bytes(region.size as u64));
        let calls = region.calls.into_inner();
        let lists: BTreeSet<*const usize> = calls.iter().map(|(list, _, _)| *list).collect();
        assert_eq!((calls.len(), lists.len()), ((64 << 30) / PAGE / BATCH + 1, 1));
        for (at, (_, length, first)) in calls.iter().enumerate() {
            let expected = if at + 1 == calls.len() { 3 } else { BATCH };
            assert_eq!((*length, *first), (expected, at * BATCH * PAGE));
        }
    }
}
