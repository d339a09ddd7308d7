//! The owner of a VM's placement. It outlives guests: one that resets starts where the vnodes are.

use super::claim::{Record, Turn, VnodeClaim};
use super::moved::MoveEnd;
use super::threads::{HostThreads, Step, ThreadsLeftBehind, move_all};
use crate::claims::{Claims, Held};
use crate::sys::HostError;
use resources::{Claim, CpuSet, Placement, VcpuId, VnodeId, VnodePlacement};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where vnodes are, and what they claim. The control loop alone moves threads; who has the turn changes claims.
#[derive(Debug)]
pub struct PlacementOwner {
    /// Where it is claimed; `None` where nobody is told.
    pub(super) claims: Option<Claims>,
    /// Locked for moments.
    state: Mutex<State>,
    /// `None` while somebody has a turn.
    record: Mutex<Option<Record>>,
    back: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub placement: Placement,
    /// By vnode.
    pub claims: Vec<VnodeClaim>,
}

impl State {
    fn put(&mut self, places: impl IntoIterator<Item = VnodePlacement>) {
        for place in places {
            if let Some(at) = self.placement.vnodes.get_mut(place.vnode.index()) {
                *at = place;
            }
        }
        self.placement.claim = self.placement.vnodes.iter().map(|at| &at.claim).sum();
    }

    /// What the VM claims with these claims of its vnodes, and what it has released.
    pub fn claimed(&self, claims: &[VnodeClaim]) -> (Claim, Claim) {
        let each: Vec<Claim> =
            self.placement.vnodes.iter().zip(claims).map(|(at, claim)| claim.of(at)).collect();
        (each.iter().sum(), claims.iter().map(|claim| &claim.released).sum())
    }
}

impl PlacementOwner {
    /// As planned and claimed; `held` is `None` where nobody is told.
    pub fn new(held: Option<Held>, placement: Placement) -> Self {
        let claims = held.as_ref().map(Held::claims).cloned();
        let written = (placement.claim.clone(), Claim::default());
        let record = Record { file: held.map(|held| Box::new(held) as _), written };
        Self::with_record(record, claims, placement)
    }

    /// With a record that is kept elsewhere.
    pub(super) fn with_record(record: Record, claims: Option<Claims>, placement: Placement) -> Self {
        let vnodes = placement.vnodes.iter().map(|_| VnodeClaim::default()).collect();
        Self {
            claims,
            state: Mutex::new(State { placement, claims: vnodes }),
            record: Mutex::new(Some(record)),
            back: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Option<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where everything is now.
    pub fn placement(&self) -> Placement {
        self.state().placement.clone()
    }

    /// Where a vnode is now.
    pub fn at(&self, vnode: VnodeId) -> Option<VnodePlacement> {
        self.state().placement.vnodes.get(vnode.index()).cloned()
    }

    /// Waits for the turn to change something.
    pub fn turn(&self) -> Turn<'_> {
        let record = self.back.wait_while(self.record(), |record| record.is_none());
        let record = record.unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        Turn::new(self, record)
    }

    /// Waits for the turn, but not for long.
    pub fn turn_within(&self, patience: Duration) -> Option<Turn<'_>> {
        let waited = self.back.wait_timeout_while(self.record(), patience, |record| record.is_none());
        let record = waited.unwrap_or_else(PoisonError::into_inner).0.take()?;
        Some(Turn::new(self, record))
    }

    /// A turn is over.
    pub(super) fn put_back(&self, record: Record) {
        *self.record() = Some(record);
        self.back.notify_one();
    }

    /// Lets a vCPU run elsewhere; `None` if there is no such vCPU.
    pub fn set_affinity(
        &self,
        host: &dyn HostThreads,
        vcpu: VcpuId,
        cpus: CpuSet,
    ) -> Option<Result<(), HostError>> {
        let now = {
            let state = self.state();
            state.placement.vnodes.iter().find(|at| at.vcpus.contains_key(&vcpu)).cloned()?
        };
        let mut to = now.clone();
        to.vcpus.insert(vcpu, cpus);
        Some(self.change(host, &now, to, vec![Step::Vcpu(vcpu)]))
    }

    /// Moves all threads of a vnode to the CPUs of a place, or none; its memory stays.
    pub fn rehome(&self, host: &dyn HostThreads, to: VnodePlacement) -> Result<(), HostError> {
        let Some(now) = self.at(to.vnode) else { return Ok(()) };
        let steps = Step::all(&to);
        self.change(host, &now, to, steps)
    }

    fn change(
        &self,
        host: &dyn HostThreads,
        now: &VnodePlacement,
        to: VnodePlacement,
        steps: Vec<Step>,
    ) -> Result<(), HostError> {
        let (place, moved) = move_all(host, now, to, steps);
        self.state().put([place]);
        moved
    }

    /// Moves of vnodes have ended, of all that belong together: threads follow those whose every page was looked at; which
    /// could not is said.
    pub fn memory_moved(&self, host: &dyn HostThreads, ends: &[MoveEnd]) -> ThreadsLeftBehind {
        let mut left_behind = ThreadsLeftBehind::new();
        let mut places = Vec::with_capacity(ends.len());
        for end in ends {
            let Some(now) = self.at(end.to.vnode) else { continue };
            let (place, moved) = end.place(host, &now);
            left_behind.extend(moved.err().map(|error| (place.vnode, error)));
            places.push(place);
        }
        let mut state = self.state();
        state.put(places);
        for end in ends.iter().filter(|end| end.has_arrived()) {
            // All of its memory is claimed where it is now.
            if let Some(claim) = state.claims.get_mut(end.to.vnode.index()) {
                claim.released = Claim::default();
            }
        }
        left_behind
    }
}
