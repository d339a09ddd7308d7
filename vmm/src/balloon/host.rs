//! The host's side of a balloon: whose a page is by its address, and letting its memory go. The mapping and its policy
//! stay: a page that the guest takes back is new memory under the same policy. Memory of a pool is there again before
//! the guest has it, since a touch that the pool cannot serve would end the VM.

use super::blocks::Blocks;
use super::leases::Leases;
use super::returns::Returns;
use crate::memory::{GuestRam, RamRegion};
use crate::sys::PageStatus;
use devices::virtio::balloon::{BalloonHost, PAGE_BYTES, PagePlace, PageRun, Sweep};
use resources::{Bytes, PageSize, VmTopology, Vnode, VnodeId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// Huge pages that a sweep looks at.
const SWEPT_AT_ONCE: usize = 4096;
/// Arrays wait while it does, for about as long at most; then it goes on later.
const SWEPT_WITHIN: Duration = Duration::from_millis(50);

devices::figures! {
    /// What letting a vnode's memory go took, over all guests of the VM.
    pub struct DiscardCounters: "balloon" {
        discards: SharedCounter = "System calls to discard memory.",
        discarded_bytes: SharedCounter = "Discarded memory.",
        refused_discards: SharedCounter = "Failed discards; the memory stays allocated.",
        reported_bytes: SharedCounter = "Memory that the guest reported free.",
        populates: SharedCounter = "System calls to allocate hugetlb pages again.",
    }
}

/// What is counted for each vnode, whichever balloon its pages come through.
#[derive(Debug)]
pub struct Books {
    all: Vec<Arc<Book>>,
    none: Arc<Book>,
    /// Pages of pools that come back after a driver was reset.
    returns: Arc<Returns>,
}

/// One vnode's.
#[derive(Debug, Default)]
pub struct Book {
    /// What goes on when the guest resets.
    pub counters: Arc<DiscardCounters>,
    /// Bytes that are out now and stay taken: parts of pages of a pool that are not out as a whole.
    partial_bytes: AtomicI64,
    /// Bytes that the guest hinted were free, in the last round.
    hinted_bytes: AtomicU64,
    /// It was to have its memory from the start, so what is merely free stays.
    prefault: bool,
}

impl Book {
    /// Bytes that are out now and stay taken.
    pub fn partial(&self) -> Bytes {
        Bytes(u64::try_from(self.partial_bytes.load(Ordering::Relaxed)).unwrap_or(0))
    }

    /// Bytes that the guest hinted were free, in the last round.
    pub fn hinted(&self) -> Bytes {
        Bytes(self.hinted_bytes.load(Ordering::Relaxed))
    }
}

impl Books {
    /// For a guest that has given nothing yet; each vnode goes on counting in its `counters`.
    pub fn new(topology: &VmTopology, counters: impl Fn(VnodeId) -> Arc<DiscardCounters>) -> Self {
        let book = |vnode: &Vnode| {
            Arc::new(Book { counters: counters(vnode.id), prefault: vnode.prefault, ..Book::default() })
        };
        Self {
            all: topology.vnodes().iter().map(book).collect(),
            none: Arc::default(),
            returns: Arc::default(),
        }
    }

    /// A vnode's.
    pub fn of(&self, vnode: VnodeId) -> &Arc<Book> {
        self.all.get(vnode.index()).unwrap_or(&self.none)
    }
}

/// The host's side of one vnode's balloon.
pub struct VnodeHost {
    ram: Arc<GuestRam>,
    vnode: VnodeId,
    books: Arc<Books>,
    leases: Arc<Leases>,
    /// What is out of huge pages of pools.
    pools: Mutex<Blocks>,
    /// And of transparent ones.
    transparent: Mutex<Blocks>,
    /// Transparent huge pages that parts were taken of since the last time that the balloon settled.
    ragged: Mutex<BTreeSet<u32>>,
    /// Where the next sweep begins.
    swept: AtomicU32,
    /// The guest waits for memory; said once.
    short: AtomicBool,
    /// What is out stays untouched until the guest tells. Otherwise only what comes in an array may go, and only then.
    tells_first: AtomicBool,
    /// The driver is gone, and the memory of what it had given is not claimed again yet.
    forgetting: AtomicBool,
}

impl VnodeHost {
    /// For the balloon of `vnode`.
    pub fn new(ram: Arc<GuestRam>, vnode: VnodeId, books: Arc<Books>, leases: Arc<Leases>) -> Self {
        Self {
            ram,
            vnode,
            books,
            leases,
            pools: Mutex::default(),
            transparent: Mutex::default(),
            ragged: Mutex::default(),
            swept: AtomicU32::new(0),
            short: AtomicBool::new(false),
            tells_first: AtomicBool::new(false),
            forgetting: AtomicBool::new(false),
        }
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

    /// What is out of the kind of huge pages that a region has.
    fn blocks(&self, region: &RamRegion) -> MutexGuard<'_, Blocks> {
        lock(if region.pages.pool().is_some() { &self.pools } else { &self.transparent })
    }

    fn ragged(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.ragged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel take a transparent huge page apart that is not out as a whole: it would keep all of it until
    /// memory is short.
    fn take_apart(&self, first: u32) {
        let Some(left) = lock(&self.transparent).left(first) else { return };
        let Some(region) = self.ram.memory().find_region(GuestAddress(address(left))) else { return };
        let offset = usize::try_from(address(left) - region.range.start.0);
        if let Some(Err(error)) = offset.ok().map(|offset| region.mapping.split(offset)) {
            tracing::debug!(vnode = %region.range.vnode, %error, "cannot split a huge page");
        }
    }

    fn partial(&self, region: &RamRegion, pages: i64) {
        if region.pages.pool().is_some() {
            let bytes = pages * PAGE_BYTES.cast_signed();
            self.books.of(region.range.vnode).partial_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Lets go what can go: huge pages of a pool as a whole. A transparent one goes by parts, and with the last part all
    /// of it once more, since the kernel may have filled the gaps: of a guest that does not use them before it tells.
    fn take_in(&self, region: &RamRegion, range: Range<u64>) {
        let length = range.end - range.start;
        let Some(size) = huge(region) else {
            self.discard_in(region, range);
            return self.came_out(region, length);
        };
        let changed = self.blocks(region).take(pages(region, &range), size);
        self.partial(region, changed.partial);
        let wholes = || changed.whole.iter().filter_map(|first| whole(region, *first, size));
        if region.pages.pool().is_some() {
            self.books.returns.withdraw(&changed.whole);
            joined(wholes()).into_iter().for_each(|range| self.discard_in(region, range));
            return self.came_out(region, wholes().map(|range| range.end - range.start).sum());
        }
        self.ragged().extend(&changed.parts);
        if !self.tells_first.load(Ordering::Relaxed) {
            return self.discard_in(region, range);
        }
        let start = wholes().next().map_or(range.start, |first| first.start.min(range.start));
        let end = wholes().next_back().map_or(range.end, |last| last.end.max(range.end));
        self.discard_in(region, start..end);
        self.came_out(region, length);
    }

    /// The host has so much of the vnode's own memory, and the guest does not use it before it tells: it may be released.
    fn came_out(&self, region: &RamRegion, bytes: u64) {
        if region.range.vnode == self.vnode && bytes > 0 && self.tells_first.load(Ordering::Relaxed) {
            self.leases.of(self.vnode).came_out(Bytes(bytes));
        }
    }

    /// What [`came_out`](Self::came_out) of these pages: huge pages of a pool as a whole, if one part goes back.
    fn back(&self, runs: &[PageRun]) -> Bytes {
        let (bytes, wholes) = (Cell::new(0), RefCell::new(BTreeSet::new()));
        let count = |region: &RamRegion, range: Range<u64>| match region.pages.pool() {
            _ if region.range.vnode != self.vnode => {}
            None => bytes.set(bytes.get() + (range.end - range.start)),
            Some(page) => {
                let size = u32::try_from(page.get() / PAGE_BYTES).unwrap_or(u32::MAX);
                for first in self.blocks(region).whole(pages(region, &range), size) {
                    if wholes.borrow_mut().insert(first) {
                        bytes.set(bytes.get() + page.get());
                    }
                }
            }
        };
        runs.iter().for_each(|run| self.each(*run, count));
        Bytes(bytes.get())
    }

    /// Has memory of a pool back that pages in `range` need. Again is no harm.
    fn back_in(&self, region: &RamRegion, range: &Range<u64>) -> std::io::Result<()> {
        let (Some(size), true) = (huge(region), region.pages.pool().is_some()) else { return Ok(()) };
        let whole_ones = self.blocks(region).whole(pages(region, range), size);
        for (offset, count) in whole_ones.iter().filter_map(|first| offsets(&whole(region, *first, size)?)) {
            populate(region, offset, count, &self.books)?;
        }
        Ok(())
    }

    fn give_in(&self, region: &RamRegion, range: &Range<u64>) {
        let Some(size) = huge(region) else { return };
        let changed = self.blocks(region).give(pages(region, range), size);
        self.partial(region, changed.partial);
    }

    fn discard_in(&self, region: &RamRegion, range: Range<u64>) {
        let length = range.end - range.start;
        let counters = &self.books.of(region.range.vnode).counters;
        let Some((offset, count)) = offsets(&range) else { return };
        counters.discards.one();
        match region.discard(offset, count) {
            Ok(()) => drop(counters.discarded_bytes.add(length)),
            Err(error) => {
                if counters.refused_discards.add(1) == 0 {
                    tracing::warn!(vnode = %region.range.vnode, %error, "cannot free balloon memory");
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has the host back pages of a pool.
fn populate(region: &RamRegion, offset: usize, count: usize, books: &Books) -> std::io::Result<()> {
    books.of(region.range.vnode).counters.populates.one();
    region.mapping.populate(offset, count)
}

/// Ascending ranges, those that touch as one.
fn joined(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => all.push(range),
        }
    }
    all
}

/// Where a range begins, and its length.
fn offsets(range: &Range<u64>) -> Option<(usize, usize)> {
    usize::try_from(range.start).ok().zip(usize::try_from(range.end - range.start).ok())
}

/// Pages of 4 KiB of the huge pages behind a region; `None` if there are none.
fn huge(region: &RamRegion) -> Option<u32> {
    let bytes = match region.pages {
        PageSize::Small => return None,
        PageSize::Thp => PageSize::Huge2M.pool()?,
        PageSize::Huge2M | PageSize::Huge1G => region.pages.pool()?,
    };
    u32::try_from(bytes.get() / PAGE_BYTES).ok()
}

/// A part of a region as pages of the guest.
fn pages(region: &RamRegion, range: &Range<u64>) -> PageRun {
    let page = |offset: u64| u32::try_from((region.range.start.0 + offset) / PAGE_BYTES).unwrap_or(u32::MAX);
    PageRun { first: page(range.start), count: page(range.end) - page(range.start) }
}

/// The part of a region that the huge page from page `first` on is, `None` if it is not wholly there.
fn whole(region: &RamRegion, first: u32, size: u32) -> Option<Range<u64>> {
    let start = address(first).checked_sub(region.range.start.0)?;
    let end = start + u64::from(size) * PAGE_BYTES;
    (end <= region.range.size.get()).then_some(start..end)
}

fn address(pfn: u32) -> u64 {
    u64::from(pfn) * PAGE_BYTES
}

impl BalloonHost for VnodeHost {
    fn begin(&self, tells_first: bool) {
        self.tells_first.store(tells_first, Ordering::Relaxed);
    }

    fn place(&self, pfn: u32) -> PagePlace {
        match self.ram.memory().find_region(GuestAddress(address(pfn))) {
            None => PagePlace::Outside,
            Some(region) if region.range.vnode == self.vnode => PagePlace::OnNode,
            Some(_) => PagePlace::OffNode,
        }
    }

    fn take(&self, runs: &[PageRun]) {
        runs.iter().for_each(|run| self.each(*run, |region, range| self.take_in(region, range)));
    }

    fn settled(&self) {
        let ragged = std::mem::take(&mut *self.ragged());
        ragged.into_iter().for_each(|first| self.take_apart(first));
    }

    fn is_torn(&self) -> bool {
        self.tells_first.load(Ordering::Relaxed) && lock(&self.transparent).has_torn()
    }

    /// Transparent huge pages that the kernel made whole again (khugepaged), or that came as a whole when the guest touched a
    /// page that it had back.
    fn sweep(&self) -> Sweep {
        if !self.tells_first.load(Ordering::Relaxed) {
            return Sweep::Whole;
        }
        let (from, began) = (self.swept.load(Ordering::Relaxed), Instant::now());
        let torn = lock(&self.transparent).torn(from, SWEPT_AT_ONCE);
        let mut next = 0;
        let count = torn.len();
        for (index, (first, runs)) in torn.into_iter().enumerate() {
            let Some(region) = self.ram.memory().find_region(GuestAddress(address(first))) else { continue };
            // The kernel fills all of it or nothing.
            let out = runs.first().map_or(first, |run| run.first);
            let offset = usize::try_from(address(out) - region.range.start.0).unwrap_or(usize::MAX);
            if matches!(region.mapping.locate(&[offset]).as_deref(), Ok([PageStatus::On(_)])) {
                let go = |region: &RamRegion, range| self.discard_in(region, range);
                runs.iter().for_each(|run| self.each(*run, go));
                self.take_apart(first);
            }
            if index + 1 == SWEPT_AT_ONCE || (index + 1 < count && began.elapsed() >= SWEPT_WITHIN) {
                next = first + 1;
                break;
            }
        }
        self.swept.store(next, Ordering::Relaxed);
        if next > 0 { Sweep::Part } else { Sweep::Whole }
    }

    fn hinting(&self) {
        self.books.all.iter().for_each(|book| book.hinted_bytes.store(0, Ordering::Relaxed));
    }

    fn hinted(&self, runs: &[PageRun]) {
        let hint = |region: &RamRegion, range: Range<u64>| {
            let book = self.books.of(region.range.vnode);
            book.hinted_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        };
        runs.iter().for_each(|run| self.each(*run, hint));
    }

    /// But for pages of a pool, the guest's next touch brings new memory, under the policy of its place.
    fn give(&self, runs: &[PageRun]) -> bool {
        let bytes = self.back(runs);
        if !self.leases.go_back(self.vnode, bytes) {
            return false;
        }
        let missing = AtomicBool::new(false);
        let back = |region: &RamRegion, range| {
            if let Err(error) = self.back_in(region, &range) {
                missing.store(true, Ordering::Relaxed);
                if !self.short.swap(true, Ordering::Relaxed) {
                    tracing::warn!(vnode = %region.range.vnode, %error, "guest is waiting for hugetlb pages");
                }
            }
        };
        runs.iter().for_each(|run| self.each(*run, back));
        if missing.into_inner() {
            self.leases.of(self.vnode).came_out(bytes);
            return false;
        }
        self.short.store(false, Ordering::Relaxed);
        runs.iter().for_each(|run| self.each(*run, |region, range| self.give_in(region, &range)));
        true
    }

    fn reported(&self, runs: &[PageRun], poisoned: bool) {
        let report = |region: &RamRegion, range: Range<u64>| {
            let book = self.books.of(region.range.vnode);
            book.counters.reported_bytes.add(range.end - range.start);
            // The guest may touch it at any time, and a pool may have no page for it then.
            if !poisoned && !book.prefault && region.pages.pool().is_none() {
                self.discard_in(region, range);
            }
        };
        runs.iter().for_each(|run| self.each(*run, report));
    }

    /// Who has its memory from a pool waits until it is claimed: a touch that the pool cannot serve would end the VM. Others
    /// go on, and are watched.
    fn forget(&self) {
        if self.ram.of(self.vnode).all(|region| region.pages.pool().is_none()) {
            self.leases.forget(self.vnode);
            return self.all_back();
        }
        self.forgetting.store(true, Ordering::Relaxed);
        self.is_ready();
    }

    fn is_ready(&self) -> bool {
        if !self.forgetting.load(Ordering::Relaxed) {
            return true;
        }
        if !self.leases.all_back(self.vnode) {
            return false;
        }
        self.forgetting.store(false, Ordering::Relaxed);
        self.all_back();
        true
    }

    fn end(&self) {
        self.books.returns.end();
    }
}

impl VnodeHost {
    /// Pages of a pool that are the guest's again are brought back one by one, in the background.
    fn all_back(&self) {
        let back = Mutex::new(Vec::new());
        let runs = [&self.pools, &self.transparent].map(|blocks| lock(blocks).all()).concat();
        let give = |region: &RamRegion, range| {
            if let (Some(size), true) = (huge(region), region.pages.pool().is_some()) {
                lock(&back).extend(self.blocks(region).whole(pages(region, &range), size));
            }
            self.give_in(region, &range);
        };
        runs.iter().for_each(|run| self.each(*run, give));
        let (ram, books) = (Arc::clone(&self.ram), Arc::clone(&self.books));
        let bring = move |first| {
            let Some(region) = ram.memory().find_region(GuestAddress(address(first))) else { return };
            let range = huge(region).and_then(|size| offsets(&whole(region, first, size)?));
            if let Some(Err(error)) = range.map(|(offset, count)| populate(region, offset, count, &books)) {
                tracing::debug!(vnode = %region.range.vnode, %error, "no hugetlb page for the guest");
            }
        };
        let back = back.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.books.returns.add(&back, bring) {
            tracing::warn!(vnode = %self.vnode, %error, "cannot prefault hugetlb pages, they are allocated on first touch");
        }
    }
}
