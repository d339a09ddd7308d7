//! Releases what balloons hold from the VM's claim, and claims it back before the guest has it: a thread of its own, as
//! the directory of claims may keep one waiting. It exists from the first order by pnode on.

use super::board::Entry;
use super::leases::Leases;
use super::watch::{Resident, Watch};
use crate::claims::ClaimsError;
use crate::handle::Shared;
use crate::inbox::{Event, Notifier};
use crate::memory::GuestRam;
use crate::placement::{PlacementOwner, Seen, Turn, memory_of};
use crate::sys::{Advice, HostError};
use resources::lease::room_for;
use resources::{
    Bytes, Claim, HostRoot, HostTopology, NodeClaim, PageSize, PnodeId, VmTopology, Vnode, VnodeId,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Claimed at once beyond what the guest wants at the moment, if there is room: it takes memory back in arrays of 1 MiB,
/// and each claim is a look at all VMs.
const AHEAD: Bytes = Bytes::mib(16);
/// Between two attempts while there is no room: at first, and longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A guest that wants memory back which others were promised meanwhile, or that boots without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostShort {
    /// Whose memory.
    pub vnode: VnodeId,
    /// Which has no room.
    pub pnode: PnodeId,
    /// What is missing.
    pub bytes: Bytes,
    /// The guest starts without it; else its driver waits.
    pub at_boot: bool,
}

/// Why nothing was claimed back.
#[derive(Debug, thiserror::Error)]
pub enum NotClaimed {
    /// The pnode has no room.
    #[error("pnode {0} has no room")]
    Short(PnodeId),
    /// The host cannot be looked at.
    #[error(transparent)]
    Host(#[from] resources::HostError),
    /// Claims cannot be changed.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
}

/// Claims back what guests want again.
pub struct Claimer {
    leases: Arc<Leases>,
    threads: Vec<JoinHandle<()>>,
}

/// What one of its threads does.
type Body = fn(&Context);

/// What it works on.
pub struct Context {
    pub shared: Arc<Shared>,
    pub notifier: Notifier,
    pub topology: Arc<VmTopology>,
    pub ram: Weak<GuestRam>,
    pub entries: Arc<[Entry]>,
    pub leases: Arc<Leases>,
}

impl Claimer {
    /// Does nothing yet.
    pub fn new(leases: Arc<Leases>) -> Self {
        Self { leases, threads: Vec::new() }
    }

    /// From now on what a guest wants back is claimed for it, and one that takes it unasked stands still.
    pub fn start(&mut self, context: impl FnOnce() -> Context) -> Result<(), HostError> {
        // Two, as a claim may keep one waiting.
        let bodies: [(&str, Body); 2] = [("balloon-watch", Context::watch), ("claims", Context::serve)];
        let missing = bodies.get(self.threads.len()..).filter(|missing| !missing.is_empty());
        let Some(missing) = missing else { return Ok(()) };
        let context = Arc::new(context());
        for (name, body) in missing.iter().copied() {
            let context = Arc::clone(&context);
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || body(&context));
            self.threads.push(thread.map_err(|error| HostError::new("clone", error).of(name))?);
        }
        Ok(())
    }
}

impl Drop for Claimer {
    fn drop(&mut self) {
        self.leases.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Context {
    fn serve(&self) {
        // The vnodes whose guests wait: when to try again, and how long it was waited before.
        let mut waiting: BTreeMap<VnodeId, (Instant, Duration)> = BTreeMap::new();
        let next = |waiting: &BTreeMap<VnodeId, (Instant, Duration)>| waiting.values().map(|at| at.0).min();
        while self.leases.wait(next(&waiting)) {
            let now = Instant::now();
            for entry in self.entries.iter() {
                let wanted = self.leases.of(entry.vnode).wanted();
                let before = waiting.get(&entry.vnode).copied();
                if wanted > Bytes::ZERO && before.is_some_and(|(due, _)| now < due) {
                    continue;
                }
                waiting.remove(&entry.vnode);
                if wanted == Bytes::ZERO {
                    continue;
                }
                if let Err(error) = self.claim_back(entry, wanted) {
                    if before.is_none() {
                        self.tell(entry.vnode, wanted, &error);
                    }
                    let pause = before.map_or(PAUSES.0, |(_, pause)| (pause * 2).min(PAUSES.1));
                    waiting.insert(entry.vnode, (Instant::now() + pause, pause));
                }
            }
        }
    }

    /// Has a guest stand still that uses memory which it is owed.
    fn watch(&self) {
        let (mut watch, mut resident) = (Watch::default(), Resident::default());
        while self.leases.wait_owed(watch.due()) {
            self.watch_over(&mut watch, &mut resident);
        }
    }

    fn watch_over(&self, watch: &mut Watch, resident: &mut Resident) {
        let each = self.entries.iter().map(|entry| self.leases.of(entry.vnode).owed());
        let owed = each.fold(Bytes::ZERO, Bytes::saturating_add);
        let Some(hold) = watch.look(owed > Bytes::ZERO, || resident.now()) else { return };
        if hold {
            tracing::warn!(%owed, "guest stopped until memory of its reset balloon can be claimed");
        }
        self.notifier.send(Event::HoldStill(hold));
    }

    fn tell(&self, vnode: VnodeId, bytes: Bytes, error: &NotClaimed) {
        tracing::warn!(%vnode, %bytes, "guest is waiting for released memory: {error}");
        if let NotClaimed::Short(pnode) = error {
            self.shared.host_short(&HostShort { vnode, pnode: *pnode, bytes, at_boot: false });
        }
    }

    fn claim_back(&self, entry: &Entry, wanted: Bytes) -> Result<(), NotClaimed> {
        let Some(vnode) = self.topology.vnode(entry.vnode) else { return Ok(()) };
        let least = whole_pages(vnode, wanted);
        let most = least.saturating_add(whole_pages(vnode, AHEAD)).min(self.leases.of(vnode.id).released());
        let before = Before::look(&self.shared.placement, &look)?;
        let mut turn = self.shared.placement.turn();
        let back = claim_back(&mut turn, before, vnode, (least.min(most), most), &look)?;
        // Within the turn: who releases or moves meanwhile would have it that the lease is not the claim's any more.
        let left = {
            let mut lease = self.leases.of(vnode.id);
            lease.claimed(back);
            lease.released()
        };
        drop(turn);
        if left == Bytes::ZERO
            && let Some(ram) = self.ram.upgrade()
        {
            advise(&ram, vnode.id, Advice::HugePages);
        }
        entry.handle.retry();
        Ok(())
    }
}

/// Host and claims before the turn to change one's own.
pub struct Before {
    host: HostTopology,
    seen: Seen,
}

impl Before {
    /// The host first: what comes free after others were asked what they have would count twice.
    pub fn look(
        owner: &PlacementOwner,
        look: &dyn Fn() -> Result<HostTopology, resources::HostError>,
    ) -> Result<Self, NotClaimed> {
        Ok(Self { host: look()?, seen: owner.look()? })
    }
}

/// The host as it is now.
pub fn look() -> Result<HostTopology, resources::HostError> {
    HostTopology::read(&HostRoot::this())
}

/// Claims back at least `least` of what a vnode has released, at most `most`, or nothing; gives how much.
pub fn claim_back(
    turn: &mut Turn<'_>,
    Before { host: before, seen }: Before,
    vnode: &Vnode,
    (least, most): (Bytes, Bytes),
    look: &dyn Fn() -> Result<HostTopology, resources::HostError>,
) -> Result<Bytes, NotClaimed> {
    let Some((pnode, _)) = turn.released(vnode.id).pnodes.into_iter().find(|(_, node)| has_some(node)) else {
        // It lies elsewhere now, and all of it is claimed there.
        return Ok(most);
    };
    let mut back = Bytes::ZERO;
    turn.claim_back(seen, (vnode.id, pnode), |ledger| {
        back = room_for(vnode, pnode, &look()?.no_more_than(&before), ledger, most);
        if back == Bytes::ZERO || back < least {
            return Err(NotClaimed::Short(pnode));
        }
        Ok(memory_of(vnode, back))
    })?;
    Ok(back)
}

/// Lowers the claim by memory that a vnode's balloon holds, at most `most`; with `on`, only if the vnode lies there. Gives
/// how much. Of a vnode whose memory may lie on several pnodes nothing is released: nobody knows on which the pages will
/// lie that the guest takes back. `first` is done before the claim goes down.
pub fn release(
    owner: &PlacementOwner,
    leases: &Leases,
    vnode: &Vnode,
    (on, most): (Option<PnodeId>, Bytes),
    first: impl FnOnce(),
) -> Result<Bytes, ClaimsError> {
    let mut turn = owner.turn();
    let own = turn.of(vnode.id);
    let mut homes = own.pnodes.iter().filter(|(_, node)| has_some(node)).map(|(pnode, _)| *pnode);
    let (Some(pnode), None) = (homes.next(), homes.next()) else { return Ok(Bytes::ZERO) };
    if on.is_some_and(|on| on != pnode) {
        return Ok(Bytes::ZERO);
    }
    let unit = vnode.pages.pool().unwrap_or(Bytes(1));
    let most = Bytes(most.get() / unit.get() * unit.get());
    // From here on the guest has nothing of it back before it is claimed.
    let bytes = leases.of(vnode.id).release(most);
    if bytes == Bytes::ZERO {
        return Ok(bytes);
    }
    first();
    let what = Claim { pnodes: [(pnode, memory_of(vnode, bytes))].into() };
    turn.release(vnode.id, &what).inspect_err(|_| leases.of(vnode.id).claimed(bytes))?;
    Ok(bytes)
}

fn has_some(node: &NodeClaim) -> bool {
    node.memory > Bytes::ZERO || node.huge_pages.values().any(|pages| *pages > 0)
}

fn whole_pages(vnode: &Vnode, bytes: Bytes) -> Bytes {
    let unit = vnode.pages.pool().unwrap_or(Bytes(1)).get();
    Bytes(bytes.get().div_ceil(unit).saturating_mul(unit))
}

/// Of a vnode in transparent huge pages: whether the kernel makes new ones. Those that are there stay.
pub fn advise(ram: &GuestRam, vnode: VnodeId, advice: Advice) {
    for region in ram.of(vnode).filter(|region| region.pages == PageSize::Thp) {
        if let Err(error) = region.mapping.advise(advice) {
            tracing::info!(%vnode, ?advice, %error, "madvise failed");
        }
    }
}
