//! What is known of every vnode's balloon, for its thread to write and anybody to read.

use super::claimer::advise;
use super::clock::Clock;
use super::controller::{Ask, Controller};
use super::host::Book;
use super::leases::Leases;
use super::outcome::{Outcome, Phase};
use super::target::{HintError, bytes, floor};
use crate::memory::GuestRam;
use crate::sys::Advice;
use devices::virtio::balloon::{BalloonHandle, BalloonView, PAGE_BYTES};
use resources::{Bytes, Vnode, VnodeId};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two askings for the guest's own figures.
const REFRESH: Duration = Duration::from_secs(1);

/// Between two looks at a round of hints.
const HINT_LOOK: Duration = Duration::from_millis(5);
/// How long a guest may take to say what it has free.
const HINT_PATIENCE: Duration = Duration::from_secs(10);

/// Has the guest say what it has free, and waits for that: bytes by vnode, in the guest's largest blocks (4 MiB). The guest
/// holds all of that for the moment. Linux has one device do this for all its nodes.
pub fn free_memory(entries: &[Entry]) -> Result<Vec<(VnodeId, Bytes)>, HintError> {
    let Some(first) = entries.first() else { return Err(HintError::NoDriver) };
    let (before, began) = (first.handle.view().hints, Instant::now());
    first.handle.begin_hints().map_err(|_| HintError::NoDriver)?;
    while first.handle.view().hints == before {
        if began.elapsed() >= HINT_PATIENCE {
            first.handle.end_hints();
            return Err(HintError::Late(HINT_PATIENCE));
        }
        std::thread::sleep(HINT_LOOK);
    }
    Ok(entries.iter().map(|entry| (entry.vnode, entry.book.hinted())).collect())
}

/// One vnode's memory as its balloon has it.
#[derive(Debug, Clone)]
pub struct VnodeMemory {
    /// Which vnode.
    pub vnode: VnodeId,
    /// All its memory.
    pub memory: Bytes,
    /// The least that it may be asked to keep.
    pub floor: Bytes,
    /// What it should keep.
    pub target: Bytes,
    /// What it has: its memory less its own pages that are out.
    pub actual: Bytes,
    /// Its own pages that are out.
    pub on_node: Bytes,
    /// Other vnodes' pages that its balloon holds.
    pub off_node: Bytes,
    /// What its balloon holds and the host has back.
    pub returned: Bytes,
    /// What of its memory is not claimed any more: room for other VMs.
    pub released: Bytes,
    /// What has to be claimed again before the guest, which waits for it, goes on.
    pub short: Bytes,
    /// Counts the requests.
    pub request: u64,
    /// What its balloon is doing.
    pub phase: Phase,
    /// How the last request ended; `None` before the first and while one is under way.
    pub outcome: Option<Outcome>,
    /// The device and its driver.
    pub device: BalloonView,
    /// What is out and stays taken: parts of pages of a pool that are not out as a whole.
    pub partial: Bytes,
    /// What the guest reported free, since the VM started.
    pub reported: Bytes,
}

/// Hears of each request's end once, in their order, from the thread that ends it: so it must return at once, and look at
/// no balloon.
pub trait Tell: Send + Sync {
    /// The request whose number this has ended as its outcome says.
    fn ended(&self, memory: &VnodeMemory);
}

/// A balloon with its controller.
pub struct Entry {
    pub vnode: VnodeId,
    pub memory: Bytes,
    /// The host has its memory back in pages of this size.
    pub page: Bytes,
    pub handle: BalloonHandle,
    pub book: Arc<Book>,
    pub leases: Arc<Leases>,
    status: Mutex<Status>,
    refreshed: Mutex<Option<Instant>>,
}

/// What is wanted of a vnode's balloon, when its guest starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which vnode.
    pub vnode: VnodeId,
    ask: Ask,
    /// The number of the request.
    request: u64,
}

impl Held {
    /// Its balloon is to hold memory.
    pub fn wants_memory(&self) -> bool {
        self.ask.pages > 0
    }
}

struct Status {
    controller: Controller,
    request: u64,
}

impl Entry {
    pub fn new(vnode: &Vnode, handle: BalloonHandle, book: Arc<Book>, leases: Arc<Leases>) -> Self {
        let status = Mutex::new(Status { controller: Controller::new(), request: 0 });
        let page = vnode.pages.pool().unwrap_or(Bytes(PAGE_BYTES));
        Self {
            vnode: vnode.id,
            memory: vnode.memory,
            page,
            handle,
            book,
            leases,
            status,
            refreshed: Mutex::default(),
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is wanted; gives the number of the request. `tell` hears how the one ended whose place it takes.
    pub fn want(&self, clock: &dyn Clock, ask: Ask, tell: &dyn Tell) -> u64 {
        let mut status = self.status();
        // Read under the lock, so that time does not go back from one who has it to the next.
        let now = clock.now();
        let replaced = status.controller.want(now, &self.handle.view(), ask);
        if replaced.is_some() {
            tell.ended(&VnodeMemory { outcome: replaced, ..self.seen(&status) });
        }
        status.request += 1;
        status.request
    }

    /// What is wanted, for the balloon of a guest that starts again; nothing if nothing ever was.
    pub fn held(&self) -> Option<Held> {
        let status = self.status();
        let ask = status.controller.wanted();
        (status.request > 0).then_some(Held { vnode: self.vnode, ask, request: status.request })
    }

    /// The guest that was here before had this wanted of it; it holds for the driver that comes.
    pub fn hold(&self, held: &Held) {
        let mut status = self.status();
        status.controller.hold(held.ask);
        status.request = held.request;
    }

    /// Looks at the balloon and asks what is to be asked. `tell` hears how a request ended. Gives when to look again, at the
    /// latest; if nothing is due, only a change of the device calls for it.
    pub fn look(&self, clock: &dyn Clock, tell: &dyn Tell) -> Option<Duration> {
        let mut status = self.status();
        let (now, view) = (clock.now(), self.handle.view());
        let before = status.controller.outcome();
        if let Some(step) = status.controller.look(now, &view) {
            // What it refuses now it refuses because of what the next look will see.
            let _ = step.take(&self.handle, &view);
        }
        let after = status.controller.outcome();
        if after.is_some() && after != before {
            tell.ended(&self.seen(&status));
        }
        status.controller.next_look(now, &view)
    }

    /// Has the guest tell its own figures anew, at most once a second; a look soon after has them.
    pub fn refresh(&self) {
        let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
        if refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
            *refreshed = Some(Instant::now());
            self.handle.refresh();
        }
    }

    /// All its memory is claimed. Called by who has the turn to change the claim.
    pub fn end_lease(&self, ram: Option<&GuestRam>) {
        let mut lease = self.leases.of(self.vnode);
        let released = lease.released();
        if released == Bytes::ZERO {
            return;
        }
        lease.claimed(released);
        drop(lease);
        if let Some(ram) = ram {
            advise(ram, self.vnode, Advice::HugePages);
        }
        self.handle.retry();
    }

    /// The current status of the balloon.
    pub fn view(&self) -> VnodeMemory {
        self.seen(&self.status())
    }

    fn seen(&self, status: &Status) -> VnodeMemory {
        let (device, partial) = (self.handle.view(), self.book.partial());
        let lease = *self.leases.of(self.vnode);
        let on_node = bytes(device.held.saturating_sub(device.off_node));
        VnodeMemory {
            vnode: self.vnode,
            memory: self.memory,
            floor: floor(self.memory),
            target: self.memory.saturating_sub(bytes(status.controller.wanted().pages)),
            actual: self.memory.saturating_sub(on_node),
            on_node,
            off_node: bytes(device.off_node),
            returned: bytes(device.returned).saturating_sub(partial),
            released: lease.released(),
            short: lease.wanted(),
            request: status.request,
            phase: status.controller.phase(),
            outcome: status.controller.outcome(),
            device,
            partial,
            reported: Bytes(self.book.counters.reported_bytes.get()),
        }
    }
}
