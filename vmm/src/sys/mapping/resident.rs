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
