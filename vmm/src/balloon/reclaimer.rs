//! The thread that carries out an order by pnode, one at a time, and how it stands for others to see.

use super::board::Entry;
use super::controller::Ask;
use super::keeper::Wants;
use super::outcome::Stop;
use super::reclaim::{Ground, Holding, ReclaimOrder, ReclaimStop, ReclaimTally, carry_out};
use super::target::{bytes, floor};
use crate::memory::{GuestRam, Residency, bring_home, shift};
use crate::sys::HostError;
use resources::{Bytes, HostRoot, MemoryPart, NodeSet, PnodeFree, PnodeId, VnodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at balloons that are at it.
const LOOK: Duration = Duration::from_millis(10);
/// Time that the kernel gets to count freed memory before it is asked.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest that a balloon is waited for; its controller ends sooner unless pages trickle.
const PATIENCE: Duration = Duration::from_secs(600);

/// How an order stands.
#[derive(Debug, Clone)]
pub enum ReclaimState {
    /// Going on.
    Running,
    /// Over.
    Ended(ReclaimStop),
    /// The host refused part way; what was had is kept.
    Failed(Arc<HostError>),
}

/// An order as others see it.
#[derive(Debug, Clone)]
pub struct ReclaimView {
    /// Its number, from 1 on for each start of the VM.
    pub id: u64,
    /// What was asked.
    pub order: ReclaimOrder,
    /// Its state.
    pub state: ReclaimState,
    /// Who did what, as of the last round.
    pub tally: ReclaimTally,
    /// Free memory of the pnode before, as the kernel says; absent until it was asked.
    pub before: Option<PnodeFree>,
    /// And after; absent until it ended.
    pub after: Option<PnodeFree>,
    /// How long it has been going on, or went on.
    pub elapsed: Duration,
}

struct Slot {
    view: ReclaimView,
    started: Instant,
    ended: bool,
    cancel: Arc<AtomicBool>,
    /// The VM ends.
    abandoned: Arc<AtomicBool>,
}

/// The last order of a VM. Shared.
#[derive(Clone, Default)]
pub struct Reclaimer {
    slot: Arc<Mutex<Option<Slot>>>,
}

impl Reclaimer {
    fn lock(&self) -> MutexGuard<'_, Option<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order that runs, or the last that did.
    pub fn view(&self) -> Option<ReclaimView> {
        self.lock().as_ref().map(|slot| {
            let mut view = slot.view.clone();
            if !slot.ended {
                view.elapsed = slot.started.elapsed();
            }
            view
        })
    }

    /// The number of the one that runs.
    pub fn running(&self) -> Option<u64> {
        self.lock().as_ref().filter(|slot| !slot.ended).map(|slot| slot.view.id)
    }

    /// Asks the running one to end; false if none runs.
    pub fn cancel(&self) -> bool {
        let slot = self.lock();
        let running = slot.as_ref().filter(|slot| !slot.ended);
        running.inspect(|slot| slot.cancel.store(true, Ordering::Relaxed)).is_some()
    }

    /// Ends the running one, as the VM does; it measures no more.
    pub fn abandon(&self) {
        if let Some(slot) = self.lock().as_ref() {
            slot.abandoned.store(true, Ordering::Relaxed);
        }
        self.cancel();
    }

    /// Starts one. The caller has seen that none runs.
    pub fn start(
        &self,
        order: ReclaimOrder,
        wants: Wants,
        ram: Arc<GuestRam>,
        homes: BTreeMap<VnodeId, Home>,
        release: Release,
    ) -> Result<JoinHandle<()>, HostError> {
        let (cancel, abandoned) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let id = self.lock().as_ref().map_or(1, |slot| slot.view.id + 1);
        let view = ReclaimView {
            id,
            order,
            state: ReclaimState::Running,
            tally: ReclaimTally::default(),
            before: None,
            after: None,
            elapsed: Duration::ZERO,
        };
        let slot = Slot {
            view,
            started: Instant::now(),
            ended: false,
            cancel: Arc::clone(&cancel),
            abandoned: Arc::clone(&abandoned),
        };
        let last = self.lock().replace(slot);
        let site = Site { wants, ram, homes, release, cancel, abandoned, reclaimer: self.clone() };
        let reclaimer = self.clone();
        let body = move || {
            reclaimer.begin(free(order.pnode));
            let result = carry_out(&order, &site);
            drop(site);
            std::thread::sleep(SETTLE);
            reclaimer.end(result, free(order.pnode));
        };
        std::thread::Builder::new().name("reclaim".into()).spawn(body).map_err(|error| {
            *self.lock() = last;
            HostError::new("clone", error).of("reclaim")
        })
    }

    fn begin(&self, before: Option<PnodeFree>) {
        if let Some(slot) = self.lock().as_mut() {
            slot.view.before = before;
        }
    }

    fn end(&self, result: Result<(ReclaimStop, ReclaimTally), HostError>, after: Option<PnodeFree>) {
        let mut slot = self.lock();
        let Some(slot) = slot.as_mut() else { return };
        slot.ended = true;
        slot.view.after = after;
        slot.view.elapsed = slot.started.elapsed();
        slot.view.state = match result {
            Ok((stop, tally)) => {
                slot.view.tally = tally;
                ReclaimState::Ended(stop)
            }
            Err(error) => ReclaimState::Failed(Arc::new(error)),
        };
    }

    fn tell(&self, tally: &ReclaimTally) {
        if let Some(slot) = self.lock().as_mut() {
            slot.view.tally = tally.clone();
        }
    }
}

fn free(pnode: PnodeId) -> Option<PnodeFree> {
    PnodeFree::read(&HostRoot::this(), pnode)
}

/// Lowers the VM's claim by what a vnode's balloon holds, at most so much; gives by how much. With a pnode, only if the
/// vnode lies there.
pub type Release = Box<dyn Fn(VnodeId, Option<PnodeId>, Bytes) -> Bytes + Send>;

/// Where a vnode may have memory.
pub struct Home {
    /// The pnodes of its policy.
    pub pnodes: NodeSet,
    /// How much lies on each, if it is bound to several.
    pub parts: Vec<MemoryPart>,
}

/// This VM on this host.
struct Site {
    wants: Wants,
    ram: Arc<GuestRam>,
    homes: BTreeMap<VnodeId, Home>,
    release: Release,
    cancel: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    reclaimer: Reclaimer,
}

impl Site {
    fn entry(&self, vnode: VnodeId) -> Option<&Entry> {
        self.wants.entries().iter().find(|entry| entry.vnode == vnode)
    }

    fn parts(&self, vnode: VnodeId) -> &[MemoryPart] {
        self.homes.get(&vnode).map_or(&[][..], |home| home.parts.as_slice())
    }

    fn wait(&self, requests: &[Option<(VnodeId, u64)>]) -> Vec<Option<Stop>> {
        let began = self.wants.now();
        let busy = |request: &Option<(VnodeId, u64)>| {
            let Some((vnode, number)) = request else { return false };
            let view = self.entry(*vnode).map(Entry::view);
            view.is_some_and(|view| view.request == *number && view.outcome.is_none())
        };
        while requests.iter().any(busy) && self.wants.now().saturating_sub(began) < PATIENCE {
            if self.cancelled() {
                for (vnode, _) in requests.iter().flatten() {
                    self.stay(*vnode);
                }
                break;
            }
            std::thread::sleep(LOOK);
        }
        let stop = |request: &Option<(VnodeId, u64)>| {
            let (vnode, number) = (*request)?;
            let view = self.entry(vnode)?.view();
            view.outcome.filter(|_| view.request == number).map(|outcome| outcome.stop)
        };
        requests.iter().map(stop).collect()
    }

    /// What was had is kept, and no more is asked for.
    fn stay(&self, vnode: VnodeId) {
        if let Some(entry) = self.entry(vnode) {
            let pages = entry.view().device.held;
            self.wants.want(vnode, Ask { pages, exact: true });
        }
    }
}

impl Ground for Site {
    fn balloons(&self) -> Vec<Holding> {
        let holding = |entry: &Entry| {
            let view = entry.view();
            let most = view.memory.saturating_sub(floor(view.memory));
            Holding { vnode: view.vnode, held: bytes(view.device.held), most, page: entry.page }
        };
        self.wants.entries().iter().map(holding).collect()
    }

    fn may_be_on(&self, vnode: VnodeId, pnode: PnodeId) -> bool {
        self.homes.get(&vnode).is_some_and(|home| home.pnodes.contains(pnode))
    }

    fn residency(&self, vnode: VnodeId) -> Result<Residency, HostError> {
        let go_on = || !self.abandoned.load(Ordering::Relaxed);
        Residency::measure_while(&self.ram, vnode, &go_on)
    }

    fn want(&self, wanted: &[(VnodeId, Bytes)]) -> Vec<Option<Stop>> {
        let want = |(vnode, held): &(VnodeId, Bytes)| {
            // All memory lies below 16 TiB, so the number of its pages fits.
            let pages = u32::try_from(held.get() / devices::virtio::balloon::PAGE_BYTES).unwrap_or(u32::MAX);
            self.wants.want(*vnode, Ask { pages, exact: true }).map(|number| (*vnode, number))
        };
        let requests: Vec<Option<(VnodeId, u64)>> = wanted.iter().map(want).collect();
        self.wait(&requests)
    }

    fn shift(
        &self,
        vnode: VnodeId,
        from: PnodeId,
        rooms: &BTreeMap<PnodeId, Bytes>,
    ) -> Result<Bytes, HostError> {
        shift(&self.ram, vnode, self.parts(vnode), from, rooms, &|| self.cancelled())
    }

    fn bring_home(&self, vnode: VnodeId, pnode: PnodeId, most: Bytes) -> Result<Bytes, HostError> {
        bring_home(&self.ram, vnode, self.parts(vnode), pnode, most, &|| self.cancelled())
    }

    fn release(&self, vnode: VnodeId, on: Option<PnodeId>, most: Bytes) -> Bytes {
        (self.release)(vnode, on, most)
    }

    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn tell(&self, tally: &ReclaimTally) {
        self.reclaimer.tell(tally);
    }
}
