//! Moves the threads of a vnode to other CPUs, all of them or as many as may go. Which CPUs, is decided elsewhere.

use crate::sys::HostError;
use crate::transaction::all_or_none;
use resources::{CpuSet, VcpuId, VnodeId, VnodePlacement};
use std::collections::BTreeMap;

/// What the host does for the threads of a VM.
pub trait HostThreads {
    /// Lets a vCPU's thread run on these CPUs only.
    fn set_vcpu(&self, vcpu: VcpuId, cpus: &CpuSet) -> Result<(), HostError>;
    /// Where a vCPU's thread may run.
    fn vcpu(&self, vcpu: VcpuId) -> Result<CpuSet, HostError>;
    /// Lets the workers of a vnode's devices, and those that come, run on these CPUs only: all of them, or none.
    fn set_workers(&self, vnode: VnodeId, cpus: &CpuSet) -> Result<(), HostError>;
    /// Where they may run.
    fn workers(&self, vnode: VnodeId) -> CpuSet;
}

/// Why threads of a vnode stayed behind when it moved, for the first of them.
pub type ThreadsLeftBehind = BTreeMap<VnodeId, HostError>;

/// One step of a change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A vCPU's thread.
    Vcpu(VcpuId),
    /// The workers of the vnode's devices.
    Workers,
}

impl Step {
    /// All threads of a vnode.
    pub fn all(at: &VnodePlacement) -> Vec<Self> {
        at.vcpus.keys().copied().map(Self::Vcpu).chain([Self::Workers]).collect()
    }

    fn take(self, host: &dyn HostThreads, to: &VnodePlacement) -> Result<(), HostError> {
        match self {
            Self::Vcpu(vcpu) => to.vcpus.get(&vcpu).map_or(Ok(()), |cpus| host.set_vcpu(vcpu, cpus)),
            Self::Workers => host.set_workers(to.vnode, &to.cpus),
        }
    }

    /// Notes where the threads are; where the kernel does not say it, they have not moved.
    fn read_back(self, host: &dyn HostThreads, now: &VnodePlacement, at: &mut VnodePlacement) {
        match self {
            Self::Vcpu(vcpu) => {
                let known = || now.vcpus.get(&vcpu).cloned().unwrap_or_default();
                at.vcpus.insert(vcpu, host.vcpu(vcpu).unwrap_or_else(|_| known()));
            }
            Self::Workers => at.cpus = host.workers(at.vnode),
        }
    }
}

/// Takes the steps from `now` to `to`, all or none; gives where the vnode is then. If threads could not go back either it is
/// claimed on both sides.
pub(super) fn move_all(
    host: &dyn HostThreads,
    now: &VnodePlacement,
    to: VnodePlacement,
    steps: Vec<Step>,
) -> (VnodePlacement, Result<(), HostError>) {
    let mut at = now.clone();
    let go_back = |at: &mut VnodePlacement, step: &Step| {
        if let Err(error) = step.take(host, now) {
            tracing::error!(%error, "a thread does not go back");
            step.read_back(host, now, at);
        }
    };
    match all_or_none(&mut at, steps, |_, step| step.take(host, &to), go_back) {
        Ok(()) => (to, Ok(())),
        Err(error) => {
            if at != *now {
                at.claim = at.claim.at_least(&to.claim);
            }
            (at, Err(error))
        }
    }
}

/// Takes all steps that can be taken; `to` says then where the threads are. The error of the first that cannot.
pub(super) fn move_what_may(
    host: &dyn HostThreads,
    now: &VnodePlacement,
    to: &mut VnodePlacement,
    steps: Vec<Step>,
) -> Result<(), HostError> {
    let mut result = Ok(());
    for step in steps {
        if let Err(error) = step.take(host, to) {
            tracing::error!(%error, "cannot move a thread with its vnode");
            step.read_back(host, now, to);
            result = result.and(Err(error));
        }
    }
    result
}
