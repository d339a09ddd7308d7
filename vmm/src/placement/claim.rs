//! The claim of a VM that runs here, vnode by vnode: it grows before a change and shrinks after. While a move is under way,
//! and after one that did not reach its end, both sides are claimed, so that it can go on, or back. What a vnode's balloon
//! holds may be released, and is claimed again before the guest has it; how much, is a `Lease`'s.

use super::moved::MoveEnd;
use super::owner::PlacementOwner;
use super::threads::ThreadsLeftBehind;
use crate::claims::{Book, Claims, ClaimsError, Held, Living, Survey};
use resources::{Bytes, Claim, Ledger, NodeClaim, PnodeId, Vnode, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a VM that runs waits for the directory: others hold its lock for milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// One who may change what is claimed, and ask for a change of where vnodes are: nobody else does meanwhile. Calls may wait
/// for the directory's lock: not for the control loop.
#[derive(Debug)]
pub struct Turn<'a> {
    owner: &'a PlacementOwner,
    record: Record,
}

/// What others are told of the claim.
#[derive(Debug, Default)]
pub struct Record {
    /// `None` where nobody is told.
    pub file: Option<Box<dyn ClaimRecord>>,
    /// Never less than the vnodes claim; and what they have released.
    pub written: (Claim, Claim),
}

/// Where others read what this VM claims.
pub trait ClaimRecord: std::fmt::Debug + Send {
    /// What the others claim that were seen.
    fn others(&self, seen: &Survey) -> Ledger;
    /// Opens it for a change: nobody else claims anything until the page is written or dropped.
    fn open(&mut self, seen: &Survey) -> Result<Box<dyn Page + '_>, ClaimsError>;
}

/// The record while it can be written.
pub trait Page {
    /// What others claim, if that is not what was seen.
    fn changed(&self) -> Option<Ledger>;
    /// Writes another claim, and what was released beside it, or nothing.
    fn write(self: Box<Self>, claim: &Claim, released: &Claim) -> Result<(), ClaimsError>;
}

impl ClaimRecord for Held {
    fn others(&self, seen: &Survey) -> Ledger {
        Living::ledger_without(&seen.living, self)
    }

    fn open(&mut self, seen: &Survey) -> Result<Box<dyn Page + '_>, ClaimsError> {
        let book = self.claims().lock_within(seen, PATIENCE)?;
        Ok(Box::new(HeldPage { book, held: self }))
    }
}

struct HeldPage<'a> {
    book: Book,
    held: &'a mut Held,
}

impl Page for HeldPage<'_> {
    fn changed(&self) -> Option<Ledger> {
        (!self.book.as_surveyed).then(|| Living::ledger_without(&self.book.living, self.held))
    }

    fn write(self: Box<Self>, claim: &Claim, released: &Claim) -> Result<(), ClaimsError> {
        self.book.replace(self.held, claim, released)
    }
}

/// How the claim of a vnode differs from what its place needs.
#[derive(Debug, Clone, Default)]
pub struct VnodeClaim {
    /// Left to others while its balloon holds it.
    pub released: Claim,
    /// Room for a change that is under way.
    pub reserved: Claim,
}

impl VnodeClaim {
    /// What a vnode at this place claims.
    pub fn of(&self, at: &VnodePlacement) -> Claim {
        at.claim.less(&self.released).at_least(&self.reserved)
    }
}

/// What was seen of the others, and of this VM, before a claim is to grow.
#[derive(Debug, Default)]
pub struct Seen {
    others: Survey,
    /// What this VM has touched.
    has: Claim,
}

/// How far a change is.
#[derive(Debug)]
pub enum Made<T> {
    /// It is made.
    Done(T),
    /// A job makes it, and tells its [end](Turn::end_moves).
    Started(T),
}

impl PlacementOwner {
    /// What a change needs to know. It takes time, and no turn: the kernel walks the page tables of all VMs.
    pub fn look(&self) -> Result<Seen, ClaimsError> {
        let others = self.claims.as_ref().map_or_else(|| Ok(Survey::default()), Claims::survey)?;
        Ok(Seen { others, has: Claims::touched_here() })
    }

    /// Gives all of the claim back.
    pub fn release(&self) {
        self.turn().record.file = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.owner.put_back(std::mem::take(&mut self.record));
    }
}

impl<'a> Turn<'a> {
    pub(super) fn new(owner: &'a PlacementOwner, record: Record) -> Self {
        Self { owner, record }
    }

    /// A change of where vnodes are, as one transaction: `decide` says where they go and what has to be claimed for that, it
    /// is claimed before anybody else claims anything, and `make` has it made. What is not needed then is given back, also
    /// if it was not made. Nothing is claimed if `decide` refuses.
    ///
    /// `decide` is asked with what others were promised, other VMs and the vnodes of this one that do not move, and looks at
    /// the host itself; once more, under the directory's lock, if others have claimed meanwhile. `moving` is what each vnode
    /// that moves has where.
    pub fn change<T, E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        moving: &BTreeMap<VnodeId, Vec<(PnodeId, NodeClaim)>>,
        mut decide: impl FnMut(&Ledger) -> Result<Vec<(VnodePlacement, Claim)>, E>,
        make: impl FnOnce(Vec<VnodePlacement>) -> Result<Made<T>, E>,
    ) -> Result<T, E> {
        let mut to = Vec::new();
        self.claim::<E>(seen, moving, |ledger, vnodes| {
            to.clear();
            for (place, room) in decide(ledger)? {
                if let Some(claim) = vnodes.get_mut(place.vnode.index()) {
                    claim.reserved = std::mem::take(&mut claim.reserved).at_least(&room);
                }
                to.push(place);
            }
            Ok(())
        })?;
        let vnodes: Vec<VnodeId> = to.iter().map(|place| place.vnode).collect();
        let made = match make(to) {
            Ok(Made::Started(made)) => return Ok(made),
            Ok(Made::Done(made)) => Ok(made),
            Err(error) => Err(error),
        };
        self.give_back(&vnodes);
        made
    }

    /// The end of moves that belong together: `note` has the control loop note where the vnodes are, then what they do not
    /// need is given back. `None` if there is no control loop any more: a VM that ends keeps what it has until it is over.
    pub fn end_moves(
        &mut self,
        ends: Vec<MoveEnd>,
        note: impl FnOnce(Vec<MoveEnd>) -> Option<ThreadsLeftBehind>,
    ) -> Option<ThreadsLeftBehind> {
        let vnodes: Vec<VnodeId> = ends.iter().map(|end| end.to.vnode).collect();
        let left_behind = note(ends)?;
        self.give_back(&vnodes);
        Some(left_behind)
    }

    /// Claims again what a vnode has released of a pnode: as much as `decide` says, which is asked as by
    /// [`change`](Self::change), with all that this VM claims too.
    pub fn claim_back<E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        (vnode, pnode): (VnodeId, PnodeId),
        mut decide: impl FnMut(&Ledger) -> Result<NodeClaim, E>,
    ) -> Result<(), E> {
        self.claim(seen, &BTreeMap::new(), |ledger, vnodes| {
            let back = Claim { pnodes: [(pnode, decide(ledger)?)].into() };
            if let Some(claim) = vnodes.get_mut(vnode.index()) {
                claim.released = claim.released.less(&back);
            }
            Ok(())
        })
    }

    fn claim<E: From<ClaimsError>>(
        &mut self,
        seen: Seen,
        moving: &BTreeMap<VnodeId, Vec<(PnodeId, NodeClaim)>>,
        mut decide: impl FnMut(&Ledger, &mut [VnodeClaim]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Seen { others, mut has } = seen;
        for (pnode, node) in moving.values().flatten() {
            has = has.less(&Claim { pnodes: [(*pnode, node.clone())].into() });
        }
        let (staying, now) = {
            let state = self.owner.state();
            let vnodes = state.placement.vnodes.iter().zip(&state.claims);
            let staying = vnodes.filter(|(at, _)| !moving.contains_key(&at.vnode));
            let staying: Vec<Claim> = staying.map(|(at, claim)| claim.of(at)).collect();
            (staying.iter().sum::<Claim>(), state.claims.clone())
        };
        let beside = |mut ledger: Ledger| {
            ledger.add(&staying, &has);
            ledger
        };
        let mut next = now.clone();
        let file = self.record.file.as_ref();
        decide(&beside(file.map_or_else(Ledger::new, |file| file.others(&others))), &mut next)?;
        let mut page = self.record.file.as_mut().map(|file| file.open(&others)).transpose()?;
        if let Some(ledger) = page.as_ref().and_then(|page| page.changed()) {
            next = now;
            decide(&beside(ledger), &mut next)?;
        }
        let claimed = self.owner.state().claimed(&next);
        if let Some(page) = page.take() {
            page.write(&claimed.0, &claimed.1)?;
        }
        drop(page);
        self.record.written = claimed;
        self.owner.state().claims = next;
        Ok(())
    }

    /// Lowers a vnode's claim by what the guest gave back: others may have it from now on.
    pub fn release(&mut self, vnode: VnodeId, what: &Claim) -> Result<(), ClaimsError> {
        let mut next = self.owner.state().claims.clone();
        if let Some(claim) = next.get_mut(vnode.index()) {
            claim.released = [&claim.released, what].into_iter().sum();
        }
        self.write(&next)?;
        self.owner.state().claims = next;
        Ok(())
    }

    /// What a vnode claims, and beside that has released.
    pub fn of(&self, vnode: VnodeId) -> Claim {
        let state = self.owner.state();
        let found = state.placement.vnodes.get(vnode.index()).zip(state.claims.get(vnode.index()));
        found.map(|(at, claim)| [&claim.of(at), &claim.released].into_iter().sum()).unwrap_or_default()
    }

    /// What a vnode has released.
    pub fn released(&self, vnode: VnodeId) -> Claim {
        let state = self.owner.state();
        state.claims.get(vnode.index()).map(|claim| claim.released.clone()).unwrap_or_default()
    }

    /// No change of these vnodes is under way: they claim what their places need. If the directory does not take that, others
    /// are told of the larger claims until the next change that it takes: nothing is lost, only some room.
    pub fn give_back(&mut self, vnodes: &[VnodeId]) {
        let (next, claimed) = {
            let mut state = self.owner.state();
            for vnode in vnodes {
                if let Some(claim) = state.claims.get_mut(vnode.index()) {
                    claim.reserved = Claim::default();
                }
            }
            (state.claims.clone(), state.claimed(&state.claims))
        };
        if claimed != self.record.written
            && let Err(error) = self.write(&next)
        {
            tracing::warn!("{error}; memory that vnodes no longer use stays claimed for now");
        }
    }

    fn write(&mut self, claims: &[VnodeClaim]) -> Result<(), ClaimsError> {
        let claimed = self.owner.state().claimed(claims);
        if let Some(file) = &mut self.record.file {
            // What others have touched is nobody's business here.
            file.open(&Survey::default())?.write(&claimed.0, &claimed.1)?;
        }
        self.record.written = claimed;
        Ok(())
    }
}

/// Memory of a vnode as a claim: in bytes, or in pages of its pool.
pub fn memory_of(vnode: &Vnode, bytes: Bytes) -> NodeClaim {
    match vnode.pages.pool() {
        None => NodeClaim { memory: bytes, ..NodeClaim::default() },
        Some(size) => {
            NodeClaim { huge_pages: [(size, bytes.get() / size.get())].into(), ..NodeClaim::default() }
        }
    }
}

/// Memory of a vnode in a claim, on all pnodes together.
pub fn bytes_of(vnode: &Vnode, claim: &Claim) -> Bytes {
    let total = claim.total();
    match vnode.pages.pool() {
        None => total.memory,
        Some(size) => {
            let pages = total.huge_pages.get(&size).copied().unwrap_or(0);
            Bytes(pages.saturating_mul(size.get()))
        }
    }
}
