//! The claim of a VM that runs here, vnode by vnode: it grows before a vnode moves and shrinks after. While a move is
//! under way, and after one that did not reach its end, both sides are claimed, so that it can go on, or back.

use crate::claims::{Claims, ClaimsError, Held, touched};
use resources::{Bytes, Claim, Ledger, NodeClaim, Placement, PnodeId, Vnode, VnodeId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The claim. Calls may wait for the directory's lock: not for the control loop.
#[derive(Debug, Default)]
pub struct OwnClaim {
    inner: Mutex<Inner>,
}

/// One who may change the claim: nobody else does meanwhile.
#[derive(Debug)]
pub struct Turn<'a>(MutexGuard<'a, Inner>);

#[derive(Debug, Default)]
struct Inner {
    held: Option<Held>,
    vnodes: Vec<Claim>,
}

impl OwnClaim {
    /// As it was claimed at the start; `held` is `None` where nobody is told.
    pub fn new(held: Option<Held>, placement: &Placement) -> Self {
        let vnodes = placement.vnodes.iter().map(|at| at.claim.clone()).collect();
        Self { inner: Mutex::new(Inner { held, vnodes }) }
    }

    /// Waits for a turn.
    pub fn turn(&self) -> Turn<'_> {
        Turn(self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives all of it back.
    pub fn release(&self) {
        self.turn().0.held = None;
    }
}

impl Turn<'_> {
    /// Has `decide` say what vnodes claim beside others, and claims it before anybody else decides anything; nothing is
    /// claimed if it refuses. It is asked with what others were promised, other VMs and the vnodes of this one that do
    /// not move, and looks at the host itself. `moving` is what each vnode that moves has where.
    pub fn grow<E: From<ClaimsError>>(
        &mut self,
        moving: &BTreeMap<VnodeId, Vec<(PnodeId, NodeClaim)>>,
        decide: impl FnOnce(&Ledger) -> Result<Vec<(VnodeId, Claim)>, E>,
    ) -> Result<(), E> {
        let claims = self.0.held.as_ref().map(Held::claims);
        let survey = claims.as_ref().map(Claims::survey).transpose()?;
        let mut has = touched::of(std::process::id(), touched::own_start()).unwrap_or_default().has;
        for (pnode, node) in moving.values().flatten() {
            let here = Claim { pnodes: [(*pnode, node.clone())].into() };
            has = has.less(&here);
        }
        let book = match (&claims, survey) {
            (Some(claims), Some(survey)) => Some(claims.lock(survey)?),
            _ => None,
        };
        let mut ledger = match (&book, &self.0.held) {
            (Some(book), Some(held)) => book.ledger_without(held),
            _ => Ledger::new(),
        };
        let staying = self.0.vnodes.iter().enumerate();
        let staying = staying.filter(|(at, _)| !moving.keys().any(|vnode| vnode.index() == *at));
        ledger.add(&staying.map(|(_, claim)| claim).sum(), &has);
        let mut vnodes = self.0.vnodes.clone();
        for (vnode, claim) in decide(&ledger)? {
            if let Some(own) = vnodes.get_mut(vnode.index()) {
                *own = std::mem::take(own).at_least(&claim);
            }
        }
        if let (Some(book), Some(held)) = (book, &mut self.0.held) {
            book.replace(held, &vnodes.iter().sum())?;
        }
        self.0.vnodes = vnodes;
        Ok(())
    }

    /// What the vnodes claim now.
    pub fn of(&self, vnode: VnodeId) -> Claim {
        self.0.vnodes.get(vnode.index()).cloned().unwrap_or_default()
    }

    /// Puts other claims in the place of these. If the directory does not take them, the larger ones stay: nothing is
    /// lost, only some room.
    pub fn settle(&mut self, settled: &[(VnodeId, Claim)]) {
        let mut vnodes = self.0.vnodes.clone();
        for (vnode, claim) in settled {
            if let Some(own) = vnodes.get_mut(vnode.index()) {
                *own = claim.clone();
            }
        }
        let total: Claim = vnodes.iter().sum();
        let replaced = self.0.held.as_mut().map_or(Ok(()), |held| {
            let claims = held.claims();
            claims.lock(claims.survey()?)?.replace(held, &total)
        });
        match replaced {
            Ok(()) => self.0.vnodes = vnodes,
            Err(error) => tracing::warn!("{error}; what moved vnodes no longer need stays claimed"),
        }
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

#[cfg(test)]
mod tests {
    use super::OwnClaim;
    use crate::claims::{Claims, ClaimsError};
    use resources::test_host::HostShape;
    use resources::{Bytes, Claim, NodeClaim, Plan, PnodeId, VmSpec, VnodeId};
    use std::collections::BTreeMap;

    fn claim(pnode: u32, memory: Bytes) -> Claim {
        Claim { pnodes: [(PnodeId(pnode), NodeClaim { memory, ..NodeClaim::default() })].into() }
    }

    #[test]
    fn a_claim_grows_before_a_move_shrinks_after_and_is_seen_by_others() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path()).unwrap();
        let spec = VmSpec { memory: Some(Bytes::gib(1)), vcpus: Some(1), ..VmSpec::default() };
        let plan = Plan::new(&spec, &HostShape::new(2).topology()).unwrap();
        let held = claims.lock(claims.survey().unwrap()).unwrap().claim(&plan.placement.claim).unwrap();
        let own = OwnClaim::new(Some(held), &plan.placement);
        let seen = || claims.living().unwrap()[0].claim.clone();
        assert_eq!(seen(), plan.placement.claim);
        let moving = BTreeMap::from([(VnodeId(0), Vec::new())]);
        let there = claim(1, Bytes::gib(1));
        // Others are promised nothing, and what moves is not in its own way.
        own.turn()
            .grow(&moving, |ledger| {
                assert_eq!(ledger.untouched_memory(PnodeId(0)), Bytes::ZERO);
                Ok::<_, ClaimsError>(vec![(VnodeId(0), there.clone())])
            })
            .unwrap();
        assert_eq!(seen(), plan.placement.claim.clone().at_least(&there));
        let busy = || ClaimsError::Busy { path: root.path().to_owned(), holder: None, seconds: 0 };
        assert!(own.turn().grow(&moving, |_| Err(busy())).is_err());
        assert_eq!(seen(), plan.placement.claim.clone().at_least(&there));
        own.turn().settle(&[(VnodeId(0), there.clone())]);
        assert_eq!(seen(), there);
        own.release();
        assert_eq!(claims.living().unwrap(), []);
    }

    #[test]
    fn a_claim_that_cannot_be_written_stays_as_large_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("claims");
        let claims = Claims::open(&directory).unwrap();
        let spec = VmSpec { memory: Some(Bytes::gib(1)), vcpus: Some(1), ..VmSpec::default() };
        let plan = Plan::new(&spec, &HostShape::new(2).topology()).unwrap();
        let held = claims.lock(claims.survey().unwrap()).unwrap().claim(&plan.placement.claim).unwrap();
        let own = OwnClaim::new(Some(held), &plan.placement);
        std::fs::rename(&directory, root.path().join("gone")).unwrap();
        own.turn().settle(&[(VnodeId(0), Claim::default())]);
        assert_eq!(own.turn().of(VnodeId(0)), plan.placement.claim);
        let grown = own
            .turn()
            .grow(&BTreeMap::new(), |_| Ok::<_, ClaimsError>(vec![(VnodeId(0), claim(1, Bytes(1)))]));
        assert!(grown.is_err());
        assert_eq!(own.turn().of(VnodeId(0)), plan.placement.claim);
    }
}
