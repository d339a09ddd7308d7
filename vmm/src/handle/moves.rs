//! Requests that change where a vnode is: the place is decided and claimed first, then the control loop is asked.

use super::{Answer, Request, RequestError, VmHandle, VmView};
use crate::claims::own::memory_of;
use crate::jobs::JobId;
use crate::memory::Manner;
use resources::replacement::{self, Mover, ReplacementError, Seen, rehome, replace};
use resources::{Affinity, Bytes, HostTopology, NodeSet, PnodeId, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// Looks at the host as it is now.
pub type Look<'a> = &'a dyn Fn() -> Result<HostTopology, RequestError>;

impl VmHandle {
    /// Starts moving a vnode to other pnodes; its vCPU threads follow when its memory is there. Room there is claimed
    /// first.
    pub fn move_vnode(
        &self,
        vnode: VnodeId,
        to: &NodeSet,
        bandwidth: Option<Bytes>,
        look: Look<'_>,
    ) -> Result<JobId, RequestError> {
        let (topology, now) = (&self.plan().topology, self.view());
        self.send_off(&[vnode], Manner::InTurn, bandwidth, look, |host, seen| {
            let nothing = BTreeMap::new();
            let residency = seen.residency.get(&vnode).unwrap_or(&nothing);
            let affinity = at(&now, vnode)?.affinity;
            Ok(vec![replace(topology, host, &Mover { vnode, affinity, residency, ledger: seen.ledger }, to)?])
        })
    }

    /// Starts moving two vnodes into each other's places; gives the first of the two jobs.
    pub fn swap(
        &self,
        vnodes: [VnodeId; 2],
        bandwidth: Option<Bytes>,
        look: Look<'_>,
    ) -> Result<JobId, RequestError> {
        let topology = &self.plan().topology;
        let now = self.view();
        self.send_off(&vnodes, Manner::Trade, bandwidth, look, |host, seen| {
            replacement::swap(topology, host, &now.placement, vnodes, seen)
        })
    }

    /// Starts moving every vnode that has anything on a pnode to the best other places, or says why there are none;
    /// gives the first of the jobs and how many there are.
    pub fn evacuate(
        &self,
        pnode: PnodeId,
        bandwidth: Option<Bytes>,
        look: Look<'_>,
    ) -> Result<Vec<JobId>, RequestError> {
        let (topology, now) = (&self.plan().topology, self.view());
        let mut vnodes = Vec::new();
        for at in &now.placement.vnodes {
            let residency = self.residency(at.vnode).transpose()?.unwrap_or_default();
            if at.pnodes.contains(pnode) || at.cpu_pnodes.contains(pnode) || residency.on.contains_key(&pnode)
            {
                vnodes.push(at.vnode);
            }
        }
        if vnodes.is_empty() {
            let host = look()?;
            return match host.pnode(pnode) {
                Some(_) => Ok(Vec::new()),
                None => Err(ReplacementError::NoSuchPnode { pnode, host: host.ids() }.into()),
            };
        }
        let first = self.send_off(&vnodes, Manner::InTurn, bandwidth, look, |host, seen| {
            replacement::evacuate(topology, host, &now.placement, pnode, &vnodes, seen)
        })?;
        Ok((first.0..).take(vnodes.len()).map(JobId).collect())
    }

    /// Has places decided for vnodes, claims them, and starts the moves; all of it or nothing.
    fn send_off(
        &self,
        vnodes: &[VnodeId],
        manner: Manner,
        bandwidth: Option<Bytes>,
        look: Look<'_>,
        decide: impl FnOnce(&HostTopology, &Seen<'_>) -> Result<Vec<VnodePlacement>, ReplacementError>,
    ) -> Result<JobId, RequestError> {
        let mut turn = self.shared.claim.turn();
        let mut moving = BTreeMap::new();
        let mut residency = BTreeMap::new();
        for &id in vnodes {
            if let Some(job) = self.shared.jobs.moving(id) {
                return Err(RequestError::Busy { vnode: id, job });
            }
            let vnode = self.plan().topology.vnode(id).ok_or(ReplacementError::NoSuchVnode(id))?;
            let on = self.residency(id).transpose()?.unwrap_or_default().on;
            let has = on.iter().map(|(pnode, bytes)| (*pnode, memory_of(vnode, *bytes)));
            moving.insert(id, has.collect());
            residency.insert(id, on);
        }
        let before: Vec<_> = vnodes.iter().map(|vnode| (*vnode, turn.of(*vnode))).collect();
        let mut to = Vec::new();
        turn.grow(&moving, |ledger| {
            to = decide(&look()?, &Seen { residency: &residency, ledger })?;
            Ok::<_, RequestError>(to.iter().map(|at| (at.vnode, at.claim.clone())).collect())
        })?;
        match self.ask(Request::Move { to, manner, bandwidth }) {
            Ok(Answer::Started(first)) => Ok(first),
            refused => {
                turn.settle(&before);
                refused.and(Err(RequestError::NoAnswer))
            }
        }
    }

    /// Holds the vCPUs of a vnode otherwise, on the CPUs of `home` or of the pnodes they are at home on; what works for the
    /// vnode follows. CPUs of their own are claimed first.
    pub fn set_vnode_affinity(
        &self,
        vnode: VnodeId,
        affinity: Affinity,
        home: Option<&NodeSet>,
        look: Look<'_>,
    ) -> Result<(), RequestError> {
        let mut turn = self.shared.claim.turn();
        if let Some(job) = self.shared.jobs.moving(vnode) {
            return Err(RequestError::Busy { vnode, job });
        }
        let view = self.view();
        let now = at(&view, vnode)?;
        let wanted = (affinity, home.unwrap_or(&now.cpu_pnodes));
        let (before, mut to) = (turn.of(vnode), None);
        turn.grow(&BTreeMap::from([(vnode, Vec::new())]), |ledger| {
            let place = rehome(&self.plan().topology, &look()?, now, wanted, ledger)?;
            let claim = to.insert(place).claim.clone();
            Ok::<_, RequestError>(vec![(vnode, claim)])
        })?;
        let Some(place) = to else { return Err(RequestError::NoAnswer) };
        let claim = place.claim.clone();
        let told = self.ask(Request::Rehome(Box::new(place)));
        turn.settle(&[(vnode, if told.is_ok() { claim } else { before })]);
        told?;
        drop(turn);
        let threads = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            link.as_ref().map(|link| link.threads.clone()).unwrap_or_default()
        };
        threads.kernel_threads_follow(vnode);
        Ok(())
    }
}

fn at(view: &VmView, vnode: VnodeId) -> Result<&VnodePlacement, ReplacementError> {
    view.placement.vnodes.get(vnode.index()).ok_or(ReplacementError::NoSuchVnode(vnode))
}
