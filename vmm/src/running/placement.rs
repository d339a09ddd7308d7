//! Requests that change where vnodes are, as far as they are the control loop's: it moves threads, and starts the jobs that
//! move memory. What is where is noted by the owner of the placement.

use super::Running;
use super::end_of_moves::EndOfMoves;
use crate::cpu::VcpuThreads;
use crate::handle::{Answer, RequestError};
use crate::jobs::{JobId, Planned};
use crate::memory::{MemoryMove, MigrationMode};
use crate::pci::Segments;
use crate::placement::{HostThreads, MoveEnd, ThreadsLeftBehind};
use crate::sys::HostError;
use resources::replacement::ReplacementError;
use resources::{Bytes, CpuSet, VcpuId, VnodeId, VnodePlacement};
use std::sync::Arc;

/// The threads of this guest.
struct Threads<'a> {
    vcpus: &'a VcpuThreads,
    segments: &'a Segments,
}

impl HostThreads for Threads<'_> {
    fn set_vcpu(&self, vcpu: VcpuId, cpus: &CpuSet) -> Result<(), HostError> {
        self.vcpus.set_affinity(vcpu, cpus)
    }

    fn vcpu(&self, vcpu: VcpuId) -> Result<CpuSet, HostError> {
        self.vcpus.affinity(vcpu)
    }

    fn set_workers(&self, vnode: VnodeId, cpus: &CpuSet) -> Result<(), HostError> {
        self.segments.follow(vnode, cpus)
    }

    fn workers(&self, vnode: VnodeId) -> CpuSet {
        self.segments.cpus(vnode)
    }
}

impl Running {
    fn threads(&self) -> Threads<'_> {
        Threads { vcpus: &self.vcpus, segments: &self.segments }
    }

    /// Changes where a vCPU may run.
    pub fn set_affinity(&mut self, vcpu: VcpuId, cpus: CpuSet) -> Result<Answer, RequestError> {
        let set = self.shared.placement.set_affinity(&self.threads(), vcpu, cpus);
        self.shared.publish();
        set.ok_or(RequestError::NoSuchVcpu(vcpu))??;
        Ok(Answer::Done)
    }

    /// Sends the threads of a vnode to other CPUs: all of them, or if one cannot go none.
    pub fn rehome(&mut self, place: VnodePlacement) -> Result<Answer, RequestError> {
        let moved = self.shared.placement.rehome(&self.threads(), place);
        self.shared.publish();
        moved?;
        Ok(Answer::Done)
    }

    /// Starts moving the memory of vnodes. Their vCPUs follow when that is done.
    pub fn start_moves(
        &mut self,
        to: Vec<VnodePlacement>,
        mode: MigrationMode,
        bandwidth: Option<Bytes>,
    ) -> Result<Answer, RequestError> {
        let plan = |to: VnodePlacement| {
            let no_such = || ReplacementError::NoSuchVnode(to.vnode);
            let vnode = self.topology.vnode(to.vnode).ok_or_else(no_such)?;
            if let Some(job) = self.shared.jobs.moving(to.vnode) {
                return Err(RequestError::Busy { vnode: to.vnode, job });
            }
            let from = self.shared.placement.at(to.vnode).ok_or_else(no_such)?;
            let job = MemoryMove::between(&from, &to, vnode.policy);
            Ok(Planned { job, from, to })
        };
        let moves = to.into_iter().map(plan).collect::<Result<Vec<_>, RequestError>>()?;
        let vnodes: Vec<VnodeId> = moves.iter().map(|planned| planned.job.vnode).collect();
        let end = EndOfMoves {
            shared: Arc::clone(&self.shared),
            notifier: self.notifier.clone(),
            topology: Arc::clone(&self.topology),
            threads: self.segments.threads().clone(),
        };
        let ended = move |ended| end.reach(ended);
        let ram = Arc::clone(&self.ram);
        let (first, thread) = self.shared.jobs.start_moves(ram, moves, mode, bandwidth, ended)?;
        self.movers.retain(|mover| !mover.is_finished());
        self.movers.push(thread);
        (first.0..).zip(&vnodes).for_each(|(id, _)| self.shared.tell_job(JobId(id)));
        Ok(Answer::Started(first))
    }

    /// The memory of vnodes was moved: their threads follow, and which could not is said.
    pub fn memory_moved(&mut self, ends: &[MoveEnd]) -> ThreadsLeftBehind {
        let left_behind = self.shared.placement.memory_moved(&self.threads(), ends);
        self.shared.publish();
        left_behind
    }
}
