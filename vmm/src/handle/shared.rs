//! What handles share with the control loop: the last published view, and the link to the guest that runs now.

use super::request::request;
use super::{DiskFull, DiskSize, Observer, Request, VmState, VmView};
use crate::balloon::{self, Leases, Reclaimer, VnodeMemory};
use crate::board::BoardCounters;
use crate::claims::Held;
use crate::claims::own::{OwnClaim, Settled, bytes_of};
use crate::cpu::ExitCounters;
use crate::inbox::{Event, Notifier};
use crate::jobs::{JobId, Jobs};
use crate::memory::GuestRam;
use crate::pci::{DeviceHandle, DeviceThreads};
use crate::sys::GuestVm;
use devices::virtio::net::NetHandle;
use resources::lease::Lease;
use resources::{Plan, VcpuId, Vnode, VnodeId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
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
    pub(super) plan: Arc<Plan>,
    view: Mutex<Arc<VmView>>,
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
    pub(crate) claim: OwnClaim,
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
        claim: Option<Held>,
    ) -> Arc<Self> {
        let view = VmView { state: VmState::Starting, placement: plan.placement.clone(), vcpus: Vec::new() };
        Arc::new(Self {
            plan: Arc::clone(plan),
            view: Mutex::new(Arc::new(view)),
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
            claim: OwnClaim::new(claim, &plan.placement),
        })
    }

    /// What was decided before the start.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn publish(&self, view: VmView) {
        let view = Arc::new(view);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        if let Some(observer) = &self.observer {
            observer.view(&view);
        }
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
        let turn = self.claim.turn();
        let lease = |vnode: &Vnode| {
            let released = bytes_of(vnode, &turn.released(vnode.id));
            let planned = self.plan.topology.vnode(vnode.id).map_or(vnode.memory, |vnode| vnode.memory);
            Lease::new(released, planned.saturating_sub(vnode.memory))
        };
        Leases::new(plan.topology.vnodes().iter().map(lease))
    }

    /// Puts claims in the place of others; leases of vnodes that have moved end.
    pub(crate) fn settle(&self, claims: &[(VnodeId, Settled)]) {
        let mut turn = self.claim.turn();
        turn.settle(claims);
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
        let now = self.view();
        self.publish(VmView { state, placement: now.placement.clone(), vcpus: Vec::new() });
    }

    /// The guest is about to start again, where it lies. Whoever asked for it sees that before the answer.
    pub(crate) fn starts_again(&self) {
        let placement = self.view().placement.clone();
        self.publish(VmView { state: VmState::Starting, placement, vcpus: Vec::new() });
    }

    pub(crate) fn view(&self) -> Arc<VmView> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
