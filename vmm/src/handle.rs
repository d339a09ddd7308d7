//! How other threads look at a running VM and ask it for things. The control loop decides; nothing here changes a VM
//! by itself.

use crate::balloon::{self, BalloonError, HintError, ReclaimOrder, ReclaimView, Reclaimer, VnodeMemory};
use crate::claims::own::{OwnClaim, memory_of};
use crate::claims::{ClaimsError, Held};
use crate::cpu::ExitCounters;
use crate::inbox::{Event, Notifier};
use crate::jobs::{JobId, JobView, Jobs, MoveCounts};
use crate::memory::{GuestRam, Manner, Residency};
use crate::sys::HostError;
use devices::virtio::{VirtioCounters, VirtioMeter};
use resources::replacement::{self, Mover, ReplacementError, Seen, rehome, replace};
use resources::{
    Affinity, Bytes, CpuSet, HostTopology, NodeSet, Placement, Plan, PnodeId, VcpuId, VnodeId, VnodePlacement,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

/// The control loop answers within microseconds; past this it is stuck and the caller should know.
const ANSWER: Duration = Duration::from_secs(5);

/// Looks at the host as it is now.
pub type Look<'a> = &'a dyn Fn() -> Result<HostTopology, RequestError>;

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
    /// How it stands.
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
}

/// What can be asked of the control loop.
#[derive(Debug)]
pub enum Request {
    /// Stop the vCPUs until further notice.
    Pause,
    /// Let them run again.
    Resume,
    /// Press the power button.
    PowerButton,
    /// End the VM now, also while it starts.
    Stop,
    /// Reset the guest.
    Reset,
    /// Tell the guest the length that a disk has now.
    ResizeDisk {
        /// Its number.
        disk: usize,
        /// Make it so long first; never shorter.
        size: Option<Bytes>,
    },
    /// Change where a vCPU may run.
    Affinity(VcpuId, CpuSet),
    /// Send a vnode's threads to the CPUs of a place made for the placement of now; its memory stays.
    Rehome(Box<VnodePlacement>),
    /// Change how much memory a vnode keeps. How that goes on is in [`VmHandle::memory`].
    MemoryTarget {
        /// Which vnode.
        vnode: VnodeId,
        /// What it keeps.
        keep: Bytes,
        /// Not a page may leave another vnode.
        exact: bool,
    },
    /// Get memory of a pnode back, or give it again. How that goes on is in [`VmHandle::reclaim`].
    Reclaim(ReclaimOrder),
    /// Move vnodes.
    Move {
        /// Where to; made for the placement of now.
        to: Vec<VnodePlacement>,
        /// In which way, if they are several.
        manner: Manner,
        /// Bytes per second.
        bandwidth: Option<Bytes>,
    },
}

/// What the control loop answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// A job does it; where several do, the first of them: their numbers follow each other.
    Started(JobId),
    /// The disk has that many bytes for the guest.
    Resized(Bytes),
}

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not in this state.
    #[error("the VM is {state:?}, {needs}")]
    State {
        /// How it stands.
        state: VmState,
        /// How it should.
        needs: &'static str,
    },
    /// Another job is at it.
    #[error("vnode {vnode} is being moved by job {}", .job.0)]
    Busy {
        /// Which vnode.
        vnode: VnodeId,
        /// Which job.
        job: JobId,
    },
    /// One at a time.
    #[error("reclaim {0} is at it")]
    Reclaiming(u64),
    /// Nothing was asked for.
    #[error("bytes: 0 is nothing, must be 1 or more")]
    NothingAsked,
    /// No such disk.
    #[error("disk {0}: does not exist")]
    NoSuchDisk(usize),
    /// The disk's new length cannot be told.
    #[error(transparent)]
    Disk(#[from] devices::virtio::blk::BlkError),
    /// No such vCPU.
    #[error("vCPU {0}: does not exist")]
    NoSuchVcpu(VcpuId),
    /// The vnode cannot have that target.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// The vnode cannot go there.
    #[error(transparent)]
    Replacement(#[from] ReplacementError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What other VMs were promised cannot be known, or changed.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The host cannot be looked at.
    #[error("{0}")]
    Look(String),
    /// So many vCPUs did not stop in time; all run on.
    #[error("{0} vCPUs did not stop in time, the VM runs on")]
    NotStopped(usize),
    /// The loop did not answer.
    #[error("the VM did not answer in time")]
    NoAnswer,
}

pub(crate) type Reply = mpsc::SyncSender<Result<Answer, RequestError>>;

/// The part of a handle that changes when the guest starts again.
struct Link {
    notifier: Notifier,
    ram: Weak<GuestRam>,
    devices: Vec<(VnodeId, Arc<VirtioMeter>)>,
    exits: Vec<(VcpuId, Arc<ExitCounters>)>,
}

/// A device as others see it.
#[derive(Debug, Clone)]
pub struct DeviceView {
    /// Its name, such as `blk0`.
    pub name: String,
    /// Where it sits.
    pub vnode: VnodeId,
    /// What its transport counts.
    pub counters: VirtioCounters,
}

/// What handles share with the control loop.
pub(crate) struct Shared {
    plan: Arc<Plan>,
    view: Mutex<Arc<VmView>>,
    link: Mutex<Option<Link>>,
    observer: Option<Box<dyn Observer>>,
    restart: AtomicBool,
    /// To end before it runs.
    pub(crate) abandoned: AtomicBool,
    balloons: Mutex<Arc<[balloon::Entry]>>,
    pub(crate) reclaimer: Reclaimer,
    pub(crate) jobs: Jobs,
    pub(crate) claim: OwnClaim,
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
            abandoned: AtomicBool::new(false),
            balloons: Mutex::default(),
            reclaimer: Reclaimer::default(),
            jobs: Jobs::default(),
            claim: OwnClaim::new(claim, &plan.placement),
        })
    }

    pub(crate) fn publish(&self, view: VmView) {
        let view = Arc::new(view);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        if let Some(observer) = &self.observer {
            observer.view(&view);
        }
    }

    pub(crate) fn tell_job(&self, id: JobId) {
        if let Some((observer, job)) = self.observer.as_ref().zip(self.jobs.view(id)) {
            observer.job(&job);
        }
    }

    pub(crate) fn ask_restart(&self) {
        self.restart.store(true, Ordering::Release);
    }

    /// Whether a restart was asked for, once.
    pub(crate) fn take_restart(&self) -> bool {
        self.restart.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn connect(
        &self,
        notifier: Notifier,
        ram: &Arc<GuestRam>,
        devices: Vec<(VnodeId, Arc<VirtioMeter>)>,
        exits: Vec<(VcpuId, Arc<ExitCounters>)>,
    ) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if self.abandoned.load(Ordering::Acquire) {
            notifier.send(Event::Request(Request::Stop, mpsc::sync_channel(1).0));
        }
        *link = Some(Link { notifier, ram: Arc::downgrade(ram), devices, exits });
    }

    pub(crate) fn show_balloons(&self, balloons: Arc<[balloon::Entry]>) {
        *self.balloons.lock().unwrap_or_else(PoisonError::into_inner) = balloons;
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

/// A VM from outside. Cheap to clone; outlives the VM.
#[derive(Clone)]
pub struct VmHandle {
    shared: Arc<Shared>,
}

impl VmHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What was decided before the start.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// What the control loop published last. Never waits for it.
    pub fn view(&self) -> Arc<VmView> {
        self.shared.view()
    }

    /// Where the pages of a vnode lie, asked from the kernel now; `None` unless the VM runs. Takes about a second for
    /// 40 GiB.
    pub fn residency(&self, vnode: VnodeId) -> Option<Result<Residency, HostError>> {
        let ram = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            link.as_ref()?.ram.upgrade()?
        };
        Some(Residency::measure(&ram, vnode))
    }

    /// The virtio devices and what they count; none unless the VM runs.
    pub fn devices(&self) -> Vec<DeviceView> {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = link.as_ref().map_or(&[][..], |link| &link.devices);
        let view = |(vnode, meter): &(VnodeId, Arc<VirtioMeter>)| DeviceView {
            name: meter.name().to_owned(),
            vnode: *vnode,
            counters: meter.counters(),
        };
        devices.iter().map(view).collect()
    }

    /// Why each vCPU left the guest how often, since the guest started; nothing unless the VM runs.
    pub fn exits(&self) -> Vec<(VcpuId, Arc<ExitCounters>)> {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map(|link| link.exits.clone()).unwrap_or_default()
    }

    /// The memory of each vnode that has a balloon, how its last target stands, and what its device counts; none unless
    /// the VM runs.
    pub fn memory(&self) -> Vec<VnodeMemory> {
        let balloons = Arc::clone(&self.shared.balloons.lock().unwrap_or_else(PoisonError::into_inner));
        balloons.iter().inspect(|entry| entry.refresh()).map(balloon::Entry::view).collect()
    }

    /// What the guest has free of each vnode, as it says when asked; takes as long as the guest does.
    ///
    /// # Errors
    /// There is no driver that says it, or it takes too long.
    pub fn free_memory(&self) -> Result<Vec<(VnodeId, Bytes)>, HintError> {
        let balloons = Arc::clone(&self.shared.balloons.lock().unwrap_or_else(PoisonError::into_inner));
        balloon::free_memory(&balloons)
    }

    /// The order by pnode that is under way, or the last that was.
    pub fn reclaim(&self) -> Option<ReclaimView> {
        self.shared.reclaimer.view()
    }

    /// Asks it to end; what was had is kept. False when none runs.
    pub fn cancel_reclaim(&self) -> bool {
        self.shared.reclaimer.cancel()
    }

    /// Asks the control loop and waits for its answer, which is a matter of microseconds but for a pause.
    pub fn ask(&self, request: Request) -> Result<Answer, RequestError> {
        let (reply, answer) = mpsc::sync_channel(1);
        {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            let state = self.view().state;
            match (&*link, &request) {
                (Some(link), _) => link.notifier.send(Event::Request(request, reply)),
                (None, Request::Stop) if state == VmState::Starting => {
                    self.shared.abandoned.store(true, Ordering::Release);
                    return Ok(Answer::Done);
                }
                (None, _) => return Err(RequestError::State { state, needs: "it must run" }),
            }
        }
        match answer.recv_timeout(ANSWER) {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(RequestError::NoAnswer),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(RequestError::State { state: self.view().state, needs: "it must run" })
            }
        }
    }

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
        told.map(drop)
    }

    /// What moves of a vnode have done so far.
    pub fn move_counts(&self, vnode: VnodeId) -> MoveCounts {
        self.shared.jobs.counts(vnode)
    }

    /// All jobs that are remembered, oldest first.
    pub fn jobs(&self) -> Vec<JobView> {
        self.shared.jobs.views()
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<JobView> {
        self.shared.jobs.view(id)
    }

    /// Asks a job to end after the chunk it is at; false when it is not running.
    pub fn cancel(&self, id: JobId) -> bool {
        self.shared.jobs.cancel(id)
    }
}

fn at(view: &VmView, vnode: VnodeId) -> Result<&VnodePlacement, ReplacementError> {
    view.placement.vnodes.get(vnode.index()).ok_or(ReplacementError::NoSuchVnode(vnode))
}
