//! Which pages of a mapping are in memory, from `mincore(2)`: what a kernel without NUMA has instead of nodes. Asking
//! for nodes is the parent module's.

use super::{GUARD as PAGE, HostError, Mapping, PageStatus};
use resources::PnodeId;

impl Mapping {
    /// Where the pages at these offsets lie on a kernel without NUMA: on node 0, if they are anywhere. Neighbours are asked
    /// for in one call.
    pub(super) fn in_memory(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
        let mut status = Vec::with_capacity(offsets.len());
        for run in offsets.chunk_by(|a, b| a.checked_add(PAGE) == Some(*b)) {
            let resident = self.resident(run[0], run.len())?;
            status.extend(resident.into_iter().map(|byte| match byte & 1 {
                1 => PageStatus::On(PnodeId(0)),
                _ => PageStatus::Absent,
            }));
        }
        Ok(status)
    }

    /// Where those pages of a file lie that are in memory and not mapped: the kernel unmaps pages of files when it makes
    /// huge ones of them, and `move_pages(2)` tells of mapped ones only. They are mapped here, then it does.
    pub(super) fn locate_unmapped(
        &self,
        offsets: &[usize],
        status: &mut [PageStatus],
    ) -> Result<(), HostError> {
        let absent: Vec<usize> =
            (0..status.len().min(offsets.len())).filter(|&at| status[at] == PageStatus::Absent).collect();
        let mut found = Vec::new();
        for run in absent.chunk_by(|&a, &b| offsets[a].checked_add(PAGE) == Some(offsets[b])) {
            let resident = self.resident(offsets[run[0]] / PAGE * PAGE, run.len())?;
            found.extend(run.iter().zip(resident).filter(|(_, byte)| byte & 1 == 1).map(|(&at, _)| at));
        }
        if found.is_empty() {
            return Ok(());
        }
        for run in found.chunk_by(|&a, &b| offsets[a].checked_add(PAGE) == Some(offsets[b])) {
            let start = self.start.map_addr(|a| a.saturating_add(offsets[run[0]] / PAGE * PAGE));
            // SAFETY: `resident` checked that the range lies in this mapping; mapping a page keeps its content.
            unsafe { libc::madvise(start.as_ptr(), run.len() * PAGE, libc::MADV_POPULATE_READ) };
        }
        let again = self.move_pages(&found.iter().map(|&at| offsets[at]).collect::<Vec<_>>(), None)?;
        found.into_iter().zip(again).for_each(|(at, now)| status[at] = now);
        Ok(())
    }

    /// A byte for each of `pages` pages from `offset`, whose lowest bit says whether it is in memory.
    fn resident(&self, offset: usize, pages: usize) -> Result<Vec<u8>, HostError> {
        let length = pages.saturating_mul(PAGE);
        let mut bytes = vec![0; pages];
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(HostError::new("mincore", std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let start = self.start.map_addr(|a| a.saturating_add(offset));
        // SAFETY: the range was checked to lie in this mapping, and there is a byte for each of its pages.
        let result = unsafe { libc::mincore(start.as_ptr(), length, bytes.as_mut_ptr()) };
        if result == 0 { Ok(bytes) } else { Err(HostError::last("mincore")) }
    }
}
