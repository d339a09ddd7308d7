//! How memory of one pnode is got back from a guest, and given again: who is asked for how much, and what is moved into
//! the room that was made elsewhere. The guest and the host are behind [`Ground`]; the thread is the reclaimer's.

use super::outcome::Stop;
use crate::memory::Residency;
use crate::sys::HostError;
use resources::reclaim::{BALLOON_PAGE, Stake, split};
use resources::{Bytes, PnodeId, VnodeId};
use std::collections::BTreeMap;

/// Times that guests are asked. The second makes up for what was never touched, and so freed nothing.
const ROUNDS: usize = 6;

/// Pages that may stay where they were meant to move from before a vnode counts as one whose pages do not move: one
/// huge page.
const STUCK: Bytes = Bytes::mib(2);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReclaimOrder {
    /// Take or give.
    pub kind: ReclaimKind,
    /// Memory of which pnode.
    pub pnode: PnodeId,
    /// How much.
    pub bytes: Bytes,
    /// Taking: not a page of another pnode.
    pub exact: bool,
}

/// Which way memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReclaimKind {
    /// From the guest to the host.
    Take,
    /// From the host to the guest.
    Give,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReclaimStop {
    /// The pnode has gained what was asked, or the guest was given it.
    Reached,
    /// No vnode with a balloon has memory there, or pages out that it could get back.
    NothingThere,
    /// The guests could not give, or had not taken, that much: each part says why.
    Short,
    /// All vnodes there are at their floor.
    Floor,
    /// The vnodes there have pages of a pool, which go as a whole, and no guest can give all of one.
    WholePages,
    /// Not exact, and other pnodes gave what this one could not.
    Elsewhere,
    /// By request; what was had is kept.
    Cancelled,
}

impl ReclaimStop {
    /// A name that does not change between versions.
    pub fn code(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NothingThere => "nothing_there",
            Self::Short => "short",
            Self::Floor => "floor",
            Self::WholePages => "whole_pages",
            Self::Elsewhere => "elsewhere",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one vnode did for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReclaimPart {
    /// Which.
    pub vnode: VnodeId,
    /// What it had on the pnode before.
    pub there: Bytes,
    /// What its guest was asked for, in all rounds.
    pub asked: Bytes,
    /// What its balloon took; given back, what it let go.
    pub ballooned: Bytes,
    /// What it has less on the pnode.
    pub freed: Bytes,
    /// What it has less on other pnodes.
    pub elsewhere: Bytes,
    /// Pages that were moved off the pnode; given back, moved there again.
    pub moved: Bytes,
    /// What the VM no longer claims of the vnode's pnode: room for other VMs.
    pub released: Bytes,
    /// How its balloon's last request ended.
    pub stop: Option<Stop>,
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReclaimTally {
    /// By vnode, those that were asked.
    pub parts: Vec<ReclaimPart>,
}

impl ReclaimTally {
    fn sum(&self, of: impl Fn(&ReclaimPart) -> Bytes) -> Bytes {
        self.parts.iter().fold(Bytes::ZERO, |sum, part| sum.saturating_add(of(part)))
    }

    /// What the pnode has gained.
    pub fn freed(&self) -> Bytes {
        self.sum(|part| part.freed)
    }

    /// What other pnodes have gained.
    pub fn elsewhere(&self) -> Bytes {
        self.sum(|part| part.elsewhere)
    }

    /// What other VMs may have.
    pub fn released(&self) -> Bytes {
        self.sum(|part| part.released)
    }

    /// What balloons took, or let go.
    pub fn ballooned(&self) -> Bytes {
        self.sum(|part| part.ballooned)
    }

    fn part(&mut self, vnode: VnodeId) -> &mut ReclaimPart {
        let at = self.parts.iter().position(|part| part.vnode == vnode).unwrap_or_else(|| {
            let zero = Bytes::ZERO;
            let part = ReclaimPart {
                vnode,
                there: zero,
                asked: zero,
                ballooned: zero,
                freed: zero,
                elsewhere: zero,
                moved: zero,
                released: zero,
                stop: None,
            };
            self.parts.push(part);
            self.parts.len() - 1
        });
        &mut self.parts[at]
    }
}

/// A balloon as a request sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Whose.
    pub vnode: VnodeId,
    /// Bytes of pages that are out.
    pub held: Bytes,
    /// The most that may be out.
    pub most: Bytes,
    /// The host has its memory back in pages of this size.
    pub page: Bytes,
}

/// Guest and host.
pub trait Ground {
    /// The balloons.
    fn balloons(&self) -> Vec<Holding>;
    /// Whether the vnode may have memory there.
    fn may_be_on(&self, vnode: VnodeId, pnode: PnodeId) -> bool;
    /// Where a vnode's memory lies.
    fn residency(&self, vnode: VnodeId) -> Result<Residency, HostError>;
    /// Has balloons hold so much, each of its own vnode's pages alone, and waits until each has ended or `cancelled`.
    fn want(&self, wanted: &[(VnodeId, Bytes)]) -> Vec<Option<Stop>>;
    /// Moves a vnode's pages off a pnode into room on others; gives how much went.
    fn shift(
        &self,
        vnode: VnodeId,
        from: PnodeId,
        rooms: &BTreeMap<PnodeId, Bytes>,
    ) -> Result<Bytes, HostError>;
    /// Lowers the VM's claim by what a vnode's balloon holds, at most `most`; gives by how much. With a pnode, only if the
    /// vnode lies there.
    fn release(&self, vnode: VnodeId, on: Option<PnodeId>, most: Bytes) -> Bytes;
    /// Moves pages of the part that a vnode is bound to have on a pnode back there from others; gives how much came.
    fn bring_home(&self, vnode: VnodeId, pnode: PnodeId, most: Bytes) -> Result<Bytes, HostError>;
    /// Somebody wants it to end.
    fn cancelled(&self) -> bool;
    /// So far it is.
    fn tell(&self, tally: &ReclaimTally);
}

/// Carries an order out; the tally says what was reached, whatever the end.
pub fn carry_out(
    order: &ReclaimOrder,
    ground: &dyn Ground,
) -> Result<(ReclaimStop, ReclaimTally), HostError> {
    match order.kind {
        ReclaimKind::Take => Take::begin(order, ground)?.run(),
        ReclaimKind::Give => give(order, ground),
    }
}

struct Take<'a> {
    order: ReclaimOrder,
    ground: &'a dyn Ground,
    before: BTreeMap<VnodeId, Residency>,
    now: BTreeMap<VnodeId, Residency>,
    /// Those that have no more to give.
    spent: Vec<VnodeId>,
    tally: ReclaimTally,
}

fn on(residency: &Residency, pnode: PnodeId) -> Bytes {
    residency.on.get(&pnode).copied().unwrap_or_default()
}

/// What others than `pnode` hold.
fn off(residency: &Residency, pnode: PnodeId) -> Bytes {
    let others = residency.on.iter().filter(|(other, _)| **other != pnode);
    others.fold(Bytes::ZERO, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

impl<'a> Take<'a> {
    fn begin(order: &ReclaimOrder, ground: &'a dyn Ground) -> Result<Self, HostError> {
        let (mut before, mut spent, mut tally) = (BTreeMap::new(), Vec::new(), ReclaimTally::default());
        for holding in ground.balloons() {
            let residency = ground.residency(holding.vnode)?;
            let there = on(&residency, order.pnode);
            if holding.most < holding.page {
                // Whatever it gives, the host has nothing back.
                spent.push(holding.vnode);
                if there > Bytes::ZERO {
                    let part = tally.part(holding.vnode);
                    (part.there, part.stop) = (there, Some(Stop::WholePages));
                }
            }
            before.insert(holding.vnode, residency);
        }
        let now = before.clone();
        Ok(Self { order: *order, ground, before, now, spent, tally })
    }

    fn run(mut self) -> Result<(ReclaimStop, ReclaimTally), HostError> {
        let pnode = self.order.pnode;
        let anybody = self.before.values().any(|residency| on(residency, pnode) >= BALLOON_PAGE);
        self.rounds(|residency| on(residency, pnode), ReclaimTally::freed)?;
        if !self.order.exact && self.missing(ReclaimTally::freed) > Bytes::ZERO && !self.ground.cancelled() {
            let both = |tally: &ReclaimTally| tally.freed().saturating_add(tally.elsewhere());
            self.rounds(|residency| off(residency, pnode), both)?;
        }
        if !self.ground.cancelled() {
            self.hand_back();
        }
        self.release();
        let stop = match (self.missing(ReclaimTally::freed), self.ground.cancelled()) {
            (Bytes::ZERO, _) => ReclaimStop::Reached,
            (_, true) => ReclaimStop::Cancelled,
            _ if self.tally.elsewhere() > Bytes::ZERO && !self.order.exact => ReclaimStop::Elsewhere,
            _ if !anybody => ReclaimStop::NothingThere,
            _ if self.only_whole_pages() => ReclaimStop::WholePages,
            _ if self.spent.is_empty() && self.at_floor() => ReclaimStop::Floor,
            _ => ReclaimStop::Short,
        };
        Ok((stop, self.tally))
    }

    /// What freed no whole page of a pool is the guest's again: it may use it, and the host cannot.
    fn hand_back(&mut self) {
        for holding in self.ground.balloons() {
            let part = self.tally.parts.iter_mut().find(|part| part.vnode == holding.vnode);
            let in_vain = |part: &&mut ReclaimPart| {
                let nothing = part.freed == Bytes::ZERO && part.elsewhere == Bytes::ZERO;
                nothing && part.ballooned > Bytes::ZERO && holding.page > BALLOON_PAGE
            };
            if let Some(part) = part.filter(in_vain) {
                self.ground.want(&[(holding.vnode, holding.held.saturating_sub(part.ballooned))]);
                (part.ballooned, part.stop) = (Bytes::ZERO, Some(Stop::WholePages));
            }
        }
    }

    /// What came is room for other VMs, as much as was asked for: pages that were never touched free nothing, but are claimed.
    fn release(&mut self) {
        let page = BALLOON_PAGE.get();
        let mut left = Bytes(self.order.bytes.get().div_ceil(page).saturating_mul(page));
        let on = self.order.exact.then_some(self.order.pnode);
        for part in &mut self.tally.parts {
            part.released = self.ground.release(part.vnode, on, left.min(part.ballooned));
            left = left.saturating_sub(part.released);
        }
        self.ground.tell(&self.tally);
    }

    fn only_whole_pages(&self) -> bool {
        let parts = &self.tally.parts;
        !parts.is_empty() && parts.iter().all(|part| part.stop == Some(Stop::WholePages))
    }

    /// No balloon may be asked for another page.
    fn at_floor(&self) -> bool {
        let there = |vnode| self.now.get(&vnode).map_or(Bytes::ZERO, |now| on(now, self.order.pnode));
        let balloons = self.ground.balloons();
        balloons.iter().filter(|b| there(b.vnode) > Bytes::ZERO).all(|b| b.held >= b.most)
    }

    /// What is wanted still, in whole pages.
    fn missing(&self, gained: impl Fn(&ReclaimTally) -> Bytes) -> Bytes {
        let missing = self.order.bytes.saturating_sub(gained(&self.tally));
        Bytes(missing.get().div_ceil(BALLOON_PAGE.get()).saturating_mul(BALLOON_PAGE.get()))
    }

    /// Asks the vnodes in proportion to `weight` until `gained` is enough or nobody has more.
    fn rounds(
        &mut self,
        weight: impl Fn(&Residency) -> Bytes,
        gained: impl Fn(&ReclaimTally) -> Bytes + Copy,
    ) -> Result<(), HostError> {
        for _ in 0..ROUNDS {
            let missing = self.missing(gained);
            if missing == Bytes::ZERO || self.ground.cancelled() {
                break;
            }
            let balloons: Vec<Holding> =
                self.ground.balloons().into_iter().filter(|b| !self.spent.contains(&b.vnode)).collect();
            let stake = |holding: &Holding| Stake {
                vnode: holding.vnode,
                there: self.now.get(&holding.vnode).map(&weight).unwrap_or_default(),
                room: holding.most.saturating_sub(holding.held),
            };
            let stakes: Vec<Stake> = balloons.iter().map(stake).collect();
            let mut shares = split(&stakes, missing).shares;
            for share in &mut shares {
                let holding = balloons.iter().find(|holding| holding.vnode == share.vnode);
                // Less than a page frees nothing.
                let least =
                    holding.map(|holding| holding.page.min(holding.most.saturating_sub(holding.held)));
                share.bytes = share.bytes.max(least.unwrap_or_default());
            }
            if shares.is_empty() {
                break;
            }
            let held = |vnode| {
                let holding = balloons.iter().find(|holding| holding.vnode == vnode);
                holding.map_or(Bytes::ZERO, |holding| holding.held)
            };
            let wanted: Vec<(VnodeId, Bytes)> = shares
                .iter()
                .map(|share| (share.vnode, held(share.vnode).saturating_add(share.bytes)))
                .collect();
            let stops = self.ground.want(&wanted);
            for (share, stop) in shares.iter().zip(stops) {
                self.settle(share.vnode, share.bytes, held(share.vnode), stop)?;
            }
            self.ground.tell(&self.tally);
        }
        Ok(())
    }

    /// A balloon has ended: what came of it, and what was freed on other pnodes takes pages of this one in.
    fn settle(
        &mut self,
        vnode: VnodeId,
        asked: Bytes,
        held: Bytes,
        stop: Option<Stop>,
    ) -> Result<(), HostError> {
        let pnode = self.order.pnode;
        let Some(before) = self.before.get(&vnode) else { return Ok(()) };
        let last = self.now.get(&vnode).unwrap_or(before);
        let mut now = self.ground.residency(vnode)?;
        let missing = asked.saturating_sub(on(last, pnode).saturating_sub(on(&now, pnode)));
        let rooms: BTreeMap<PnodeId, Bytes> = last
            .on
            .iter()
            .filter(|(other, _)| **other != pnode)
            .map(|(other, bytes)| (*other, bytes.saturating_sub(on(&now, *other))))
            .collect();
        let rooms = limited(rooms, missing.min(on(&now, pnode)));
        let room = rooms.values().fold(Bytes::ZERO, |sum, room| sum.saturating_add(*room));
        let mut moved = Bytes::ZERO;
        if !rooms.is_empty() {
            moved = self.ground.shift(vnode, pnode, &rooms)?;
            now = self.ground.residency(vnode)?;
        }
        let after = self.ground.balloons().into_iter().find(|holding| holding.vnode == vnode);
        let took = after.map_or(Bytes::ZERO, |after| after.held.saturating_sub(held));
        let part = self.tally.part(vnode);
        part.there = on(before, pnode);
        part.asked = part.asked.saturating_add(asked);
        part.ballooned = part.ballooned.saturating_add(took);
        part.freed = on(before, pnode).saturating_sub(on(&now, pnode));
        part.elsewhere = off(before, pnode).saturating_sub(off(&now, pnode));
        part.moved = part.moved.saturating_add(moved);
        part.stop = stop;
        // Pages that cannot be moved would have other pnodes give again and again.
        let stuck = self.order.exact && room.saturating_sub(moved) > STUCK;
        if stop != Some(Stop::Reached) || stuck {
            self.spent.push(vnode);
        }
        self.now.insert(vnode, now);
        Ok(())
    }
}

/// As many rooms as hold `most` together.
fn limited(rooms: BTreeMap<PnodeId, Bytes>, most: Bytes) -> BTreeMap<PnodeId, Bytes> {
    let mut left = most;
    let mut kept = BTreeMap::new();
    for (pnode, room) in rooms {
        let part = room.min(left);
        if part >= BALLOON_PAGE {
            kept.insert(pnode, part);
            left = left.saturating_sub(part);
        }
    }
    kept
}

fn give(order: &ReclaimOrder, ground: &dyn Ground) -> Result<(ReclaimStop, ReclaimTally), HostError> {
    let mut tally = ReclaimTally::default();
    let balloons: Vec<Holding> = ground
        .balloons()
        .into_iter()
        .filter(|holding| ground.may_be_on(holding.vnode, order.pnode))
        .collect();
    let stake = |holding: &Holding| Stake { vnode: holding.vnode, there: holding.held, room: holding.held };
    let stakes: Vec<Stake> = balloons.iter().map(stake).collect();
    let split = split(&stakes, order.bytes);
    let held = |vnode| {
        let holding = balloons.iter().find(|holding| holding.vnode == vnode);
        holding.map_or(Bytes::ZERO, |holding| holding.held)
    };
    let wanted: Vec<(VnodeId, Bytes)> = split
        .shares
        .iter()
        .map(|share| (share.vnode, held(share.vnode).saturating_sub(share.bytes)))
        .collect();
    // Pages that took in what their vnode had given elsewhere go back first: the guest will touch that again.
    for share in &split.shares {
        tally.part(share.vnode).moved = ground.bring_home(share.vnode, order.pnode, share.bytes)?;
    }
    let stops = if wanted.is_empty() { Vec::new() } else { ground.want(&wanted) };
    let after = ground.balloons();
    for (share, stop) in split.shares.iter().zip(stops) {
        let now = after.iter().find(|holding| holding.vnode == share.vnode);
        let part = tally.part(share.vnode);
        part.asked = share.bytes;
        part.ballooned = held(share.vnode).saturating_sub(now.map_or(Bytes::ZERO, |now| now.held));
        part.stop = stop;
    }
    let stop = match () {
        () if tally.ballooned() >= order.bytes => ReclaimStop::Reached,
        () if ground.cancelled() => ReclaimStop::Cancelled,
        () if tally.parts.is_empty() => ReclaimStop::NothingThere,
        () => ReclaimStop::Short,
    };
    ground.tell(&tally);
    Ok((stop, tally))
}
