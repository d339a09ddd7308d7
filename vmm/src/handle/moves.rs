//! Requests that change where a vnode is: the place is decided and claimed first, then the control loop is asked. What
//! takes time is measured before anybody else has to wait for it.

use super::{Answer, Request, RequestError, VmHandle};
use crate::jobs::JobId;
use crate::memory::MigrationMode;
use crate::placement::{Made, Seen as Others, Turn, memory_of};
use resources::replacement::{self, Mover, ReplacementError, Seen, rehome, replace};
use resources::{
    Affinity, Bytes, HostTopology, Ledger, NodeSet, Placement, PnodeId, VnodeId, VnodePlacement,
};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

/// Looks at the host as it is now.
pub type Look<'a> = &'a dyn Fn() -> Result<HostTopology, RequestError>;

/// How long a request waits for another that changes where vnodes are; its caller may try again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often memory is measured again because something moved meanwhile.
const MEASUREMENTS: usize = 3;

/// What a decision needs to know, as of one placement.
struct Measured {
    now: Placement,
    /// What of each vnode lies where.
    residency: BTreeMap<VnodeId, BTreeMap<PnodeId, Bytes>>,
    others: Others,
}

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
        let topology = &self.plan().topology;
        self.require_idle(&[vnode])?;
        let (turn, measured) = self.measure(&[vnode])?;
        let affinity = at(&measured.now, vnode)?.affinity;
        self.send_off(turn, measured, MigrationMode::Sequential, bandwidth, look, |host, seen| {
            let nothing = BTreeMap::new();
            let residency = seen.residency.get(&vnode).unwrap_or(&nothing);
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
        self.require_idle(&vnodes)?;
        let (turn, measured) = self.measure(&vnodes)?;
        let now = measured.now.clone();
        self.send_off(turn, measured, MigrationMode::Exchange, bandwidth, look, |host, seen| {
            replacement::swap(topology, host, &now, vnodes, seen)
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
        let topology = &self.plan().topology;
        let all: Vec<VnodeId> = topology.vnodes().iter().map(|vnode| vnode.id).collect();
        let (turn, mut measured) = self.measure(&all)?;
        let now = measured.now.clone();
        measured.residency.retain(|vnode, on| {
            let at = now.vnodes.get(vnode.index());
            let placed = at.is_some_and(|at| at.pnodes.contains(pnode) || at.cpu_pnodes.contains(pnode));
            placed || on.contains_key(&pnode)
        });
        let vnodes: Vec<VnodeId> = measured.residency.keys().copied().collect();
        if vnodes.is_empty() {
            drop(turn);
            let host = look()?;
            return match host.pnode(pnode) {
                Some(_) => Ok(Vec::new()),
                None => Err(ReplacementError::NoSuchPnode { pnode, host: host.ids() }.into()),
            };
        }
        let first =
            self.send_off(turn, measured, MigrationMode::Sequential, bandwidth, look, |host, seen| {
                replacement::evacuate(topology, host, &now, pnode, &vnodes, seen)
            })?;
        Ok((first.0..).take(vnodes.len()).map(JobId).collect())
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
        let (mut turn, Measured { now, others, .. }) = self.measure(&[])?;
        self.require_idle(&[vnode])?;
        let now = at(&now, vnode)?;
        let wanted = (affinity, home.unwrap_or(&now.cpu_pnodes));
        let released = turn.released(vnode);
        let decide = |ledger: &Ledger| {
            let place = rehome(&self.plan().topology, &look()?, now, wanted, ledger)?;
            let claim = place.claim.less(&released);
            Ok(vec![(place, claim)])
        };
        turn.change(others, &BTreeMap::from([(vnode, Vec::new())]), decide, |to| {
            let ask = |place| self.ask(Request::Rehome(Box::new(place))).map(drop);
            to.into_iter().try_for_each(ask).map(Made::Done)
        })?;
        drop(turn);
        let threads = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            link.as_ref().map(|link| link.threads.clone()).unwrap_or_default()
        };
        threads.kernel_threads_follow(vnode);
        Ok(())
    }

    fn require_idle(&self, vnodes: &[VnodeId]) -> Result<(), RequestError> {
        let moving = |vnode: &VnodeId| Some((*vnode, self.shared.jobs.moving(*vnode)?));
        match vnodes.iter().find_map(moving) {
            Some((vnode, job)) => Err(RequestError::Busy { vnode, job }),
            None => Ok(()),
        }
    }

    /// Measures where vnodes lie and what others claim, and then waits for the turn to change something. What was
    /// measured is of the placement that the turn finds.
    fn measure(&self, vnodes: &[VnodeId]) -> Result<(Turn<'_>, Measured), RequestError> {
        for _ in 0..MEASUREMENTS {
            let now = self.shared.placement.placement();
            let mut residency = BTreeMap::new();
            for &id in vnodes {
                self.plan().topology.vnode(id).ok_or(ReplacementError::NoSuchVnode(id))?;
                residency.insert(id, self.residency(id).transpose()?.unwrap_or_default().on);
            }
            let others = self.shared.placement.look()?;
            let turn = self.shared.placement.turn_within(PATIENCE).ok_or(RequestError::PlacementBusy)?;
            if self.shared.placement.placement() == now {
                return Ok((turn, Measured { now, residency, others }));
            }
        }
        Err(RequestError::PlacementBusy)
    }

    /// Has places decided for the vnodes that were measured, claims them, and starts the moves; all of it or nothing.
    fn send_off(
        &self,
        mut turn: Turn<'_>,
        measured: Measured,
        mode: MigrationMode,
        bandwidth: Option<Bytes>,
        look: Look<'_>,
        decide: impl Fn(&HostTopology, &Seen<'_>) -> Result<Vec<VnodePlacement>, ReplacementError>,
    ) -> Result<JobId, RequestError> {
        let Measured { residency, others, .. } = measured;
        let vnodes: Vec<VnodeId> = residency.keys().copied().collect();
        self.require_idle(&vnodes)?;
        let mut moving = BTreeMap::new();
        for (&id, on) in &residency {
            let vnode = self.plan().topology.vnode(id).ok_or(ReplacementError::NoSuchVnode(id))?;
            let has = on.iter().map(|(pnode, bytes)| (*pnode, memory_of(vnode, *bytes)));
            moving.insert(id, has.collect());
        }
        let decide = |ledger: &Ledger| {
            let to = decide(&look()?, &Seen { residency: &residency, ledger })?;
            Ok(to.into_iter().map(|place| (place.clone(), place.claim)).collect())
        };
        turn.change(others, &moving, decide, |to| match self.ask(Request::Move { to, mode, bandwidth })? {
            Answer::Started(first) => Ok(Made::Started(first)),
            Answer::Done => Err(RequestError::NoAnswer),
        })
    }
}

fn at(now: &Placement, vnode: VnodeId) -> Result<&VnodePlacement, ReplacementError> {
    now.vnodes.get(vnode.index()).ok_or(ReplacementError::NoSuchVnode(vnode))
}
