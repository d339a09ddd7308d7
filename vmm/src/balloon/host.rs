//! The host's side of a balloon: whose a page is by its address, and letting its memory go. The mapping and its policy
//! stay: a page that the guest takes back is new memory under the same policy.

use crate::memory::{GuestRam, RamRegion};
use devices::virtio::balloon::{BalloonHost, PAGE_BYTES, PagePlace, PageRun};
use resources::{VmTopology, Vnode, VnodeId};
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
    /// Bytes that the guest reported free.
    pub reported_bytes: u64,
}

/// What is counted for each vnode, whichever balloon its pages come through.
#[derive(Debug)]
pub struct Books {
    all: Vec<Book>,
    none: Book,
}

/// One vnode's.
#[derive(Debug, Default)]
pub struct Book {
    /// The counts.
    pub meter: Arc<DiscardMeter>,
    /// It was to have its memory from the start, so what is merely free stays.
    prefault: bool,
}

impl Books {
    /// Nothing was counted yet.
    pub fn new(topology: &VmTopology) -> Self {
        let book = |vnode: &Vnode| Book { meter: Arc::default(), prefault: vnode.prefault };
        Self { all: topology.vnodes().iter().map(book).collect(), none: Book::default() }
    }

    /// A vnode's.
    pub fn of(&self, vnode: VnodeId) -> &Book {
        self.all.get(vnode.index()).unwrap_or(&self.none)
    }
}

/// Counts them.
#[derive(Debug, Default)]
pub struct DiscardMeter {
    calls: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    pool_bytes: AtomicU64,
    reported_bytes: AtomicU64,
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
            reported_bytes: read(&self.reported_bytes),
        }
    }
}

/// The host's side of one vnode's balloon.
pub struct VnodeHost {
    ram: Arc<GuestRam>,
    vnode: VnodeId,
    books: Arc<Books>,
}

impl VnodeHost {
    /// For the balloon of `vnode`.
    pub fn new(ram: Arc<GuestRam>, vnode: VnodeId, books: Arc<Books>) -> Self {
        Self { ram, vnode, books }
    }

    /// Does something with each part of a run that is of one region.
    fn each(&self, run: PageRun, act: impl Fn(&RamRegion, Range<u64>)) {
        let (mut start, end) = (address(run.first), address(run.first) + u64::from(run.count) * PAGE_BYTES);
        while start < end {
            let Some(region) = self.ram.memory().find_region(GuestAddress(start)) else { return };
            let stop = end.min(region.range.end().0);
            act(region, start - region.range.start.0..stop - region.range.start.0);
            start = stop;
        }
    }

    fn discard_in(&self, region: &RamRegion, range: Range<u64>) {
        let length = range.end - range.start;
        let meter = &self.books.of(region.range.vnode).meter;
        if region.pages.pool().is_some() {
            meter.pool_bytes.fetch_add(length, Ordering::Relaxed);
            return;
        }
        let Some((offset, count)) = usize::try_from(range.start).ok().zip(usize::try_from(length).ok())
        else {
            return;
        };
        meter.calls.fetch_add(1, Ordering::Relaxed);
        match region.mapping.discard(offset, count) {
            Ok(()) => drop(meter.bytes.fetch_add(length, Ordering::Relaxed)),
            Err(error) => {
                if meter.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(vnode = %region.range.vnode, %error, "memory that the guest gave stays taken");
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
        runs.iter().for_each(|run| self.each(*run, |region, range| self.discard_in(region, range)));
    }

    /// The guest's next touch brings new memory, under the policy of its place.
    fn give(&self, _: &[PageRun]) {}

    fn reported(&self, runs: &[PageRun]) {
        let report = |region: &RamRegion, range: Range<u64>| {
            let book = self.books.of(region.range.vnode);
            book.meter.reported_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
            if !book.prefault {
                self.discard_in(region, range);
            }
        };
        runs.iter().for_each(|run| self.each(*run, report));
    }

    fn forget(&self) {}
}
