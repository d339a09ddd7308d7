//! The end of a move, in the mover's thread: the control loop has threads follow, then what is no longer needed is given
//! back, then the job is over. Whoever sees it over sees it so.

use crate::claims::own::{Settled, memory_of};
use crate::handle::Shared;
use crate::inbox::{Event, Landed, Notifier};
use crate::jobs::Ended;
use crate::memory::MoveOutcome;
use crate::pci::DeviceThreads;
use resources::{Claim, Plan, VnodeId, VnodePlacement};
use std::sync::{Arc, mpsc};

/// Who is told.
pub struct Landing {
    pub shared: Arc<Shared>,
    pub notifier: Notifier,
    pub plan: Arc<Plan>,
    pub threads: DeviceThreads,
}

impl Landing {
    pub(crate) fn land(&self, ended: Vec<Ended>) {
        let landed: Vec<Landed> = ended.iter().map(|ended| self.place(ended)).collect();
        let claims: Vec<_> = landed.iter().zip(&ended).map(|(to, ended)| settled(to, ended)).collect();
        let (reply, heard) = mpsc::sync_channel(1);
        self.notifier.send(Event::Landed(landed, reply));
        // A VM that ends keeps what it has until it is over.
        let mut stragglers = heard.recv().inspect(|_| self.shared.settle(&claims)).unwrap_or_default();
        for ended in &ended {
            self.threads.kernel_threads_follow(ended.to.vnode);
        }
        for Ended { id, to, moved: (outcome, error), .. } in ended {
            self.shared.jobs.end(id, (outcome, error.or(stragglers.remove(&to.vnode))));
            self.shared.tell_job(id);
        }
    }

    /// Where the vnode lies now, and what it needs there. If the move did not reach its end its threads stay, its
    /// policy may be the new one, and room on both sides is kept: to go on, or back.
    fn place(&self, ended: &Ended) -> Landed {
        let Ended { from, to, moved: (outcome, error), .. } = ended;
        let follow = error.is_none() && !outcome.cancelled;
        let there = is_there(ended);
        let untouched = !is_at(outcome, to) && is_at(outcome, from) && outcome.moved.get() == 0;
        let claim = match (there, untouched) {
            (true, _) => to.claim.clone().at_least(&self.left_behind(to, outcome)),
            (false, true) => from.claim.clone(),
            (false, false) => from.claim.clone().at_least(&to.claim),
        };
        let place = if follow { to } else { from };
        let (pnodes, parts) = (outcome.policy_on.clone(), outcome.parts.clone());
        Landed { place: VnodePlacement { pnodes, parts, claim, ..place.clone() }, follow }
    }

    fn left_behind(&self, to: &VnodePlacement, outcome: &MoveOutcome) -> Claim {
        let mut claim = Claim::default();
        if let Some(vnode) = self.plan.topology.vnode(to.vnode) {
            outcome.elsewhere.iter().for_each(|(pnode, bytes)| claim.add(*pnode, &memory_of(vnode, *bytes)));
        }
        claim
    }
}

/// Every page was looked at, and new ones come from the new place.
fn is_there(Ended { to, moved: (outcome, error), .. }: &Ended) -> bool {
    error.is_none() && !outcome.cancelled && is_at(outcome, to)
}

/// New pages of all of the vnode come from there.
fn is_at(outcome: &MoveOutcome, at: &VnodePlacement) -> bool {
    outcome.policy_on == at.pnodes && outcome.parts == at.parts
}

/// A vnode that has moved claims all its memory at its new place; what it had released was of the old one.
fn settled(landed: &Landed, ended: &Ended) -> (VnodeId, Settled) {
    let claim = landed.place.claim.clone();
    (landed.place.vnode, if is_there(ended) { Settled::Moved(claim) } else { Settled::Stays(claim) })
}
