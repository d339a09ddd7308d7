//! The host's side of a balloon: whose a page is by its address, and letting its memory go. The mapping and its policy
//! stay: a page that the guest takes back is new memory under the same policy.

use crate::memory::{GuestRam, RamRegion};
use devices::virtio::balloon::{BalloonHost, PAGE_BYTES, PagePlace, PageRun};
use resources::VnodeId;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// What letting go took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiscardFigures {
    /// System calls.
    pub calls: u64,
    /// Bytes that they let go.
    pub bytes: u64,
    /// Calls that the host refused; the memory stays taken.
    pub refused: u64,
    /// Bytes of pages of a pool, which stay taken.
    pub pool_bytes: u64,
}

/// Counts them.
#[derive(Debug, Default)]
pub struct DiscardMeter {
    calls: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    pool_bytes: AtomicU64,
}

impl DiscardMeter {
    /// The counts as they are now.
    pub fn figures(&self) -> DiscardFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiscardFigures {
            calls: read(&self.calls),
            bytes: read(&self.bytes),
            refused: read(&self.refused),
            pool_bytes: read(&self.pool_bytes),
        }
    }
}

/// The host's side of one vnode's balloon.
pub struct VnodeHost {
    ram: Arc<GuestRam>,
    vnode: VnodeId,
    meter: Arc<DiscardMeter>,
}

impl VnodeHost {
    /// For the balloon of `vnode`.
    pub fn new(ram: Arc<GuestRam>, vnode: VnodeId, meter: Arc<DiscardMeter>) -> Self {
        Self { ram, vnode, meter }
    }

    fn discard(&self, run: PageRun) {
        let (mut start, end) = (address(run.first), address(run.first) + u64::from(run.count) * PAGE_BYTES);
        while start < end {
            let Some(region) = self.ram.memory().find_region(GuestAddress(start)) else { return };
            let stop = end.min(region.range.end().0);
            self.discard_in(region, start - region.range.start.0..stop - region.range.start.0);
            start = stop;
        }
    }

    fn discard_in(&self, region: &RamRegion, range: Range<u64>) {
        let length = range.end - range.start;
        if region.pages.pool().is_some() {
            self.meter.pool_bytes.fetch_add(length, Ordering::Relaxed);
            return;
        }
        let Some((offset, count)) = usize::try_from(range.start).ok().zip(usize::try_from(length).ok())
        else {
            return;
        };
        self.meter.calls.fetch_add(1, Ordering::Relaxed);
        match region.mapping.discard(offset, count) {
            Ok(()) => drop(self.meter.bytes.fetch_add(length, Ordering::Relaxed)),
            Err(error) => {
                if self.meter.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(vnode = %self.vnode, %error, "memory that the guest gave stays taken");
                }
            }
        }
    }
}

fn address(pfn: u32) -> u64 {
    u64::from(pfn) * PAGE_BYTES
}

impl BalloonHost for VnodeHost {
    fn place(&self, pfn: u32) -> PagePlace {
        match self.ram.memory().find_region(GuestAddress(address(pfn))) {
            None => PagePlace::Outside,
            Some(region) if region.range.vnode == self.vnode => PagePlace::OnNode,
            Some(_) => PagePlace::OffNode,
        }
    }

    fn take(&self, runs: &[PageRun]) {
        runs.iter().for_each(|run| self.discard(*run));
    }

    /// The guest's next touch brings new memory, under the policy of its place.
    fn give(&self, _: &[PageRun]) {}

    fn reported(&self, runs: &[PageRun]) {
        self.take(runs);
    }

    fn forget(&self) {}
}
