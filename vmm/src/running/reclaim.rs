//! Memory asked back from a running guest: by vnode, and by pnode. Balloons are `balloon`'s.

use super::Running;
use crate::balloon::{
    Ask, BalloonError, ClaimerContext, Home, ReclaimOrder, Release, advise, pages_out, release,
};
use crate::handle::{Answer, RequestError};
use crate::sys::Advice;
use resources::{Bytes, VnodeId, VnodePlacement};
use std::sync::Arc;

impl Running {
    /// Changes how much memory a vnode keeps; its guest needs time for that.
    pub fn set_memory_target(
        &mut self,
        vnode: VnodeId,
        keep: Bytes,
        exact: bool,
    ) -> Result<Answer, RequestError> {
        if self.paused {
            return Err(RequestError::State {
                state: self.state(),
                needs: "the guest must be running to inflate the balloon",
            });
        }
        let found = self.topology.vnode(vnode).ok_or(BalloonError::NoSuchVnode(vnode))?;
        let ask = Ask { pages: pages_out(found, keep)?, exact };
        match self.keeper.want(vnode, ask)? {
            true => Ok(Answer::Done),
            false => Err(BalloonError::NoMemory(vnode).into()),
        }
    }

    /// Starts getting memory of a pnode back, or giving it again.
    pub fn start_reclaim(&mut self, order: ReclaimOrder) -> Result<Answer, RequestError> {
        if self.paused {
            return Err(RequestError::State {
                state: self.state(),
                needs: "the guest must be running to inflate the balloon",
            });
        }
        if order.bytes == Bytes::ZERO {
            return Err(RequestError::NothingAsked);
        }
        if let Some(id) = self.shared.reclaimer.running() {
            return Err(RequestError::Reclaiming(id));
        }
        let home = |at: &VnodePlacement| Home { pnodes: at.pnodes.clone(), parts: at.parts.clone() };
        let homes = self.shared.placement.placement().vnodes.iter().map(|at| (at.vnode, home(at))).collect();
        self.claimer.start(|| ClaimerContext {
            shared: Arc::clone(&self.shared),
            notifier: self.notifier.clone(),
            topology: Arc::clone(&self.topology),
            ram: Arc::downgrade(&self.ram),
            entries: Arc::clone(&self.handles.balloons),
            leases: Arc::clone(&self.leases),
        })?;
        let (wants, ram) = (self.keeper.wants()?, Arc::clone(&self.ram));
        let release = self.releasing();
        let thread = self.shared.reclaimer.start(order, wants, ram, homes, release)?;
        self.movers.retain(|mover| !mover.is_finished());
        self.movers.push(thread);
        Ok(Answer::Done)
    }

    /// Lowers the claim of a vnode by what its balloon holds. If that cannot be written, the VM keeps it claimed.
    fn releasing(&self) -> Release {
        let (shared, topology) = (Arc::clone(&self.shared), Arc::clone(&self.topology));
        let (leases, ram) = (Arc::clone(&self.leases), Arc::clone(&self.ram));
        Box::new(move |vnode, on, most| {
            let Some(vnode) = topology.vnode(vnode) else { return Bytes::ZERO };
            // A touch of one page shall not bring a huge page, of which the other parts are not claimed.
            let first = || advise(&ram, vnode.id, Advice::SmallPages);
            release(&shared.placement, &leases, vnode, (on, most), first).unwrap_or_else(|error| {
                tracing::warn!(vnode = %vnode.id, "{error}; reclaimed memory stays claimed");
                if leases.of(vnode.id).released() == Bytes::ZERO {
                    advise(&ram, vnode.id, Advice::HugePages);
                }
                Bytes::ZERO
            })
        })
    }
}
