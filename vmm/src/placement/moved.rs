//! Where a vnode is at the end of a move of its memory, whether that reached its end or not.

use super::claim::memory_of;
use super::threads::{HostThreads, Step, move_what_may};
use crate::memory::MoveOutcome;
use crate::sys::HostError;
use resources::{Affinity, Bytes, Claim, MemoryPart, NodeClaim, NodeSet, Vnode, VnodePlacement};

/// How the move of a vnode's memory ended.
#[derive(Debug)]
pub struct MoveEnd {
    /// Where it was to go.
    pub(super) to: VnodePlacement,
    /// The pnodes that its policy names now.
    policy_on: NodeSet,
    /// How much of it is to lie on each of these, if it is bound to several.
    parts: Vec<MemoryPart>,
    /// Every page was looked at.
    complete: bool,
    /// Some pages have moved.
    moved_some: bool,
    /// What of it lies outside of `policy_on`.
    left_behind: Claim,
}

impl MoveEnd {
    /// What became of the move of a vnode; whether no call failed.
    pub fn new(vnode: Option<&Vnode>, to: VnodePlacement, outcome: &MoveOutcome, succeeded: bool) -> Self {
        let mut left_behind = Claim::default();
        if let Some(vnode) = vnode {
            let elsewhere = outcome.elsewhere.iter();
            elsewhere.for_each(|(pnode, bytes)| left_behind.add(*pnode, &memory_of(vnode, *bytes)));
        }
        Self {
            to,
            policy_on: outcome.policy_on.clone(),
            parts: outcome.parts.clone(),
            complete: succeeded && !outcome.cancelled,
            moved_some: outcome.moved > Bytes::ZERO,
            left_behind,
        }
    }

    /// Every page was looked at, and new ones come from the new place.
    pub(super) fn has_arrived(&self) -> bool {
        self.complete && self.is_at(&self.to)
    }

    /// New pages of all of the vnode come from there.
    fn is_at(&self, at: &VnodePlacement) -> bool {
        self.policy_on == at.pnodes && self.parts == at.parts
    }

    /// What the vnode needs. If the move did not reach its end, room on both sides is kept: to go on, or back.
    fn claim(&self, now: &VnodePlacement) -> Claim {
        if self.has_arrived() {
            self.to.claim.clone().at_least(&self.left_behind)
        } else if self.is_at(now) && !self.is_at(&self.to) && !self.moved_some {
            now.claim.clone()
        } else {
            now.claim.clone().at_least(&self.to.claim)
        }
    }

    /// Where the vnode is. Its threads follow if every page was looked at, and stay otherwise; the first that cannot go.
    pub(super) fn place(
        &self,
        host: &dyn HostThreads,
        now: &VnodePlacement,
    ) -> (VnodePlacement, Result<(), HostError>) {
        let place = if self.complete { &self.to } else { now };
        let mut place = VnodePlacement {
            pnodes: self.policy_on.clone(),
            parts: self.parts.clone(),
            claim: self.claim(now),
            ..place.clone()
        };
        if !self.complete {
            return (place, Ok(()));
        }
        let mut steps = Step::all(&place);
        if place.affinity == Affinity::None {
            // vCPUs that are not bound need not go anywhere.
            place.vcpus.clone_from(&now.vcpus);
            steps.retain(|step| matches!(step, Step::Workers));
        }
        let moved = move_what_may(host, now, &mut place, steps);
        if moved.is_err() {
            place.claim = place.claim.at_least(&cpus_of(&now.claim));
        }
        (place, moved)
    }
}

/// What of a claim is CPUs.
fn cpus_of(claim: &Claim) -> Claim {
    let cpus = |node: &NodeClaim| NodeClaim {
        vcpus: node.vcpus,
        pinned: node.pinned.clone(),
        ..NodeClaim::default()
    };
    Claim { pnodes: claim.pnodes.iter().map(|(pnode, node)| (*pnode, cpus(node))).collect() }
}
