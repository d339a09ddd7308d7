//! What others see of a VM, and who hears when it changes.

use crate::balloon::{HostShort, VnodeMemory};
use crate::jobs::JobView;
use devices::Figure;
use devices::virtio::VirtioCounters;
use resources::{CpuSet, Placement, VcpuId, VnodeId};
use std::path::PathBuf;
use std::sync::Arc;

/// How a VM stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Memory is taken, the payload loaded.
    Starting,
    /// vCPUs run.
    Running,
    /// vCPUs wait.
    Paused,
    /// Over.
    Ended,
}

/// A vCPU as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuView {
    /// Which.
    pub id: VcpuId,
    /// Its thread.
    pub thread: i32,
    /// The CPUs it may run on.
    pub affinity: CpuSet,
}

/// What the control loop publishes.
#[derive(Debug, Clone)]
pub struct VmView {
    /// The state of the VM.
    pub state: VmState,
    /// Where everything lies now.
    pub placement: Placement,
    /// By vCPU id; empty until they run.
    pub vcpus: Vec<VcpuView>,
}

/// Hears of every change of a VM. Called in the control loop, so it must return at once.
pub trait Observer: Send + Sync {
    /// What is published changed.
    fn view(&self, view: &VmView);

    /// A job started or ended.
    fn job(&self, job: &JobView);

    /// A request for a vnode's memory ended, as its outcome says. Each one does once. Called from the thread that looks at
    /// balloons, or that asks for something else; [`VmHandle::memory`](crate::VmHandle::memory) would wait for that.
    fn balloon(&self, memory: &VnodeMemory);

    /// A guest wants memory back that it gave and that others were promised meanwhile. Told once each time that it begins
    /// to wait, or starts without it.
    fn host_short(&self, short: &HostShort) {
        let _ = short;
    }

    /// Requests of a disk failed because the host's storage is full. Called from the disk's threads, at a limited rate.
    fn disk_full(&self, full: &DiskFull) {
        let _ = full;
    }
}

/// A disk whose storage on the host is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFull {
    /// Which, from 0 in the order in which they were given.
    pub disk: usize,
    /// Its path on the host.
    pub path: PathBuf,
    /// Requests that failed for that since it was said last.
    pub failed: u64,
}

/// A device as others see it. Its figures are of all guests since the VM started.
#[derive(Debug, Clone)]
pub struct DeviceView {
    /// Its name, such as `blk0`.
    pub name: String,
    /// Where it sits.
    pub vnode: VnodeId,
    /// What its transport counts.
    pub counters: Arc<VirtioCounters>,
    /// What it counts itself; what the kernel serves is not counted here.
    pub figures: Vec<Figure>,
}
