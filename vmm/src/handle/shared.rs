//! What handles share with the control loop: the VM's state, where its vnodes are, and the link to the guest that runs now.

use super::request::request;
use super::{DiskFull, DiskSize, Observer, Request, VcpuView, VmState, VmView};
use crate::balloon::{self, Leases, Reclaimer, VnodeMemory};
use crate::board::BoardCounters;
use crate::cpu::ExitCounters;
use crate::inbox::{Event, Notifier};
use crate::jobs::{JobId, Jobs};
use crate::memory::GuestRam;
use crate::pci::{DeviceHandle, DeviceThreads};
use crate::placement::{PlacementOwner, Turn, bytes_of};
use crate::sys::GuestVm;
use devices::virtio::net::NetHandle;
use resources::lease::Lease;
use resources::{CpuSet, Plan, VcpuId, Vnode};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// The part of a handle that changes when the guest starts again.
pub(crate) struct Link {
    pub(crate) notifier: Notifier,
    pub(crate) ram: Weak<GuestRam>,
    pub(crate) devices: Vec<DeviceHandle>,
    pub(crate) vm: Weak<GuestVm>,
    pub(crate) exits: Vec<(VcpuId, Arc<ExitCounters>)>,
    pub(crate) board: Arc<BoardCounters>,
    /// By number.
    pub(crate) disks: Vec<DiskSize>,
    /// By number.
    pub(crate) nets: Vec<Arc<NetHandle>>,
    pub(crate) threads: DeviceThreads,
}

/// What handles share with the control loop.
pub(crate) struct Shared {
    /// What was decided before the start.
    pub(super) plan: Arc<Plan>,
    /// Where vnodes are since, and what they claim.
    pub(crate) placement: PlacementOwner,
    status: Mutex<Status>,
    pub(super) link: Mutex<Option<Link>>,
    observer: Option<Box<dyn Observer>>,
    restart: AtomicBool,
    /// When the guest has to be off.
    deadline: Mutex<Option<Instant>>,
    /// To end before it runs.
    pub(crate) abandoned: AtomicBool,
    pub(super) balloons: Mutex<Arc<[balloon::Entry]>>,
    /// What balloons were asked for when the guest before ended.
    held: Mutex<Vec<balloon::Held>>,
    pub(crate) reclaimer: Reclaimer,
    pub(crate) jobs: Jobs,
    /// Held by who logs what is written.
    pub(super) dirty_log: Mutex<()>,
}

/// What the control loop says of the guest that runs now.
struct Status {
    state: VmState,
    /// Each vCPU and its thread; none until they run.
    threads: Vec<(VcpuId, i32)>,
}

impl balloon::Tell for Shared {
    fn ended(&self, memory: &VnodeMemory) {
        if let Some(observer) = &self.observer {
            observer.balloon(memory);
        }
    }
}

impl Shared {
    pub(crate) fn new(
        plan: &Arc<Plan>,
        observer: Option<Box<dyn Observer>>,
        placement: PlacementOwner,
    ) -> Arc<Self> {
        Arc::new(Self {
            plan: Arc::clone(plan),
            placement,
            status: Mutex::new(Status { state: VmState::Starting, threads: Vec::new() }),
            link: Mutex::new(None),
            observer,
            restart: AtomicBool::new(false),
            deadline: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            balloons: Mutex::default(),
            held: Mutex::default(),
            reclaimer: Reclaimer::default(),
            jobs: Jobs::default(),
            dirty_log: Mutex::default(),
        })
    }

    /// What was decided before the start.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The state and the threads of vCPUs are these now.
    pub(crate) fn show(&self, state: VmState, threads: Vec<(VcpuId, i32)>) {
        *self.status() = Status { state, threads };
        self.publish();
    }

    /// Tells of a change of what [`view`](Self::view) gives.
    pub(crate) fn publish(&self) {
        if let Some(observer) = &self.observer {
            observer.view(&self.view());
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the VM.
    pub(crate) fn state(&self) -> VmState {
        self.status().state
    }

    /// What others see of it.
    pub(crate) fn view(&self) -> VmView {
        let status = self.status();
        let placement = self.placement.placement();
        let affinities: BTreeMap<VcpuId, &CpuSet> =
            placement.vnodes.iter().flat_map(|at| &at.vcpus).map(|(vcpu, cpus)| (*vcpu, cpus)).collect();
        let vcpu = |(id, thread): &(VcpuId, i32)| VcpuView {
            id: *id,
            thread: *thread,
            affinity: affinities.get(id).copied().cloned().unwrap_or_default(),
        };
        let vcpus = status.threads.iter().map(vcpu).collect();
        VmView { state: status.state, placement, vcpus }
    }

    pub(crate) fn host_short(&self, short: &balloon::HostShort) {
        if let Some(observer) = &self.observer {
            observer.host_short(short);
        }
    }

    pub(crate) fn disk_full(&self, full: &DiskFull) {
        if let Some(observer) = &self.observer {
            observer.disk_full(full);
        }
    }

    pub(crate) fn tell_job(&self, id: JobId) {
        if let Some((observer, job)) = self.observer.as_ref().zip(self.jobs.view(id)) {
            observer.job(&job);
        }
    }

    /// The leases of the vnodes as `plan` boots them, which may be smaller than they were planned.
    pub(crate) fn leases(&self, plan: &Plan) -> Leases {
        let turn = self.placement.turn();
        let lease = |vnode: &Vnode| {
            let released = bytes_of(vnode, &turn.released(vnode.id));
            let planned = self.plan.topology.vnode(vnode.id).map_or(vnode.memory, |vnode| vnode.memory);
            Lease::new(released, planned.saturating_sub(vnode.memory))
        };
        Leases::new(plan.topology.vnodes().iter().map(lease))
    }

    /// Ends the leases of vnodes that have moved: all of their memory is claimed where they are now.
    pub(crate) fn end_leases(&self, turn: &Turn<'_>) {
        let ram = self
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|link| link.ram.upgrade());
        let balloons = Arc::clone(&self.balloons.lock().unwrap_or_else(PoisonError::into_inner));
        for entry in balloons.iter().filter(|entry| turn.released(entry.vnode).is_empty()) {
            entry.end_lease(ram.as_deref());
        }
    }

    /// The guest has to be off by then, or earlier if that was said before.
    pub(crate) fn power_off_by(&self, deadline: Instant) {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(deadline);
    }

    /// When the guest has to be off, if that was said.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ask_restart(&self) {
        self.restart.store(true, Ordering::Release);
    }

    /// Whether a restart was asked for, once.
    pub(crate) fn take_restart(&self) -> bool {
        self.restart.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn connect(&self, new: Link) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if self.abandoned.load(Ordering::Acquire) {
            new.notifier.send(Event::Request(Request::Stop, request().0));
        }
        *link = Some(new);
    }

    pub(crate) fn show_balloons(&self, balloons: Arc<[balloon::Entry]>) {
        *self.balloons.lock().unwrap_or_else(PoisonError::into_inner) = balloons;
    }

    /// The guest ends with this wanted of its balloons.
    pub(crate) fn hold(&self, held: Vec<balloon::Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// What is wanted of the balloons of one that starts; nothing of the first.
    pub(crate) fn held(&self) -> Vec<balloon::Held> {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn disconnect(&self, state: VmState) {
        self.show_balloons(Arc::default());
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.show(state, Vec::new());
    }

    /// The guest is about to start again, where it lies. Whoever asked for it sees that before the answer.
    pub(crate) fn starts_again(&self) {
        self.show(VmState::Starting, Vec::new());
    }
}
