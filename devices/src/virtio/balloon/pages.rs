//! Runs of pages out of lists of page numbers: as few system calls as can be. Whose the pages are is left to others.

use serde::{Deserialize, Serialize};

/// Pages one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRun {
    /// The first page's number: its guest-physical address divided by 4096.
    pub first: u32,
    /// Pages, at least one.
    pub count: u32,
}

/// Sorts and merges: ascending runs, none touching the next, that hold the same pages. `pfns` is left sorted.
#[must_use]
pub fn compact(pfns: &mut [u32]) -> Vec<PageRun> {
    pfns.sort_unstable();
    let mut runs: Vec<PageRun> = Vec::new();
    for pfn in pfns.iter().copied() {
        match runs.last_mut() {
            Some(run) if pfn - run.first < run.count => {}
            Some(run) if pfn - run.first == run.count => run.count += 1,
            _ => runs.push(PageRun { first: pfn, count: 1 }),
        }
    }
    runs
}
