//! A VM's state while it runs: its vCPUs, its memory, where both lie now, and the work under way. Only the control loop
//! has it, so nothing here needs a lock.

use crate::attach::Handles;
use crate::balloon::{
    Ask, BalloonError, Claimer, ClaimerGround, Home, Keeper, Leases, ReclaimOrder, Release, advise,
    pages_out, release,
};
use crate::cpu::VcpuThreads;
use crate::handle::{Answer, DiskSize, Link, Reply, RequestError, Shared, VcpuView, VmState, VmView};
use crate::host_side::{HostSide, KvmSide};
use crate::inbox::{Landed, Notifier, Stragglers};
use crate::jobs::{JobId, Planned};
use crate::landing::Landing;
use crate::memory::{GuestRam, Manner, MemoryMove};
use crate::pci::Segments;
use crate::serial::SerialLink;
use crate::sys::{Advice, GuestVm, HostError};
use resources::{Affinity, Bytes, CpuSet, Placement, Plan, VcpuId, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// vCPUs stop within microseconds; one that does not is held up by the host.
const PAUSE_WITHIN: Duration = Duration::from_millis(200);
/// Between two looks whether they have.
const PAUSE_LOOK: Duration = Duration::from_millis(1);

/// Requests in flight end when the host's storage has answered them.
const HOLD_WITHIN: Duration = Duration::from_secs(3);

/// A pause that waits for vCPUs, then for devices.
struct Pausing {
    replies: Vec<Reply>,
    until: Instant,
    /// vCPUs have stopped.
    devices: bool,
}

/// What it consists of.
pub struct Parts {
    /// KVM's side of it.
    pub vm: Arc<GuestVm>,
    /// Its vCPUs.
    pub vcpus: VcpuThreads,
    /// Its devices.
    pub segments: Segments,
    /// Their handles.
    pub handles: Handles,
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// Where its serial port goes.
    pub serial: Arc<SerialLink>,
    /// What its vnodes have released.
    pub leases: Arc<Leases>,
}

/// The state.
pub struct Running {
    shared: Arc<Shared>,
    notifier: Notifier,
    plan: Arc<Plan>,
    placement: Placement,
    affinity: BTreeMap<VcpuId, CpuSet>,
    paused: bool,
    /// The host has no memory for what the guest would use.
    still: bool,
    pausing: Option<Pausing>,
    movers: Vec<JoinHandle<()>>,
    leases: Arc<Leases>,
    // Threads first, then the memory that they use.
    keeper: Keeper,
    claimer: Claimer,
    vcpus: VcpuThreads,
    vm: Arc<GuestVm>,
    segments: Segments,
    handles: Handles,
    ram: Arc<GuestRam>,
    serial: Arc<SerialLink>,
    ended: bool,
}

impl Running {
    /// vCPUs exist and wait.
    pub fn new(shared: Arc<Shared>, notifier: Notifier, plan: Arc<Plan>, parts: Parts) -> Self {
        let Parts { vm, vcpus, segments, handles, ram, serial, leases } = parts;
        let placement = plan.placement.clone();
        let affinity = placement.vnodes.iter().flat_map(|vnode| vnode.vcpus.clone()).collect();
        Self {
            keeper: Keeper::new(Arc::clone(&handles.balloons), Arc::<Shared>::clone(&shared)),
            claimer: Claimer::new(Arc::clone(&leases)),
            leases,
            shared,
            notifier,
            plan,
            placement,
            affinity,
            paused: false,
            still: false,
            pausing: None,
            movers: Vec::new(),
            vcpus,
            vm,
            segments,
            handles,
            ram,
            serial,
            ended: false,
        }
    }

    /// vCPUs go where those of the guest before were sent; what the host does not allow any more stays as planned.
    pub fn take_affinities(&mut self, before: BTreeMap<VcpuId, CpuSet>) {
        for (vcpu, cpus) in before {
            let differs = self.affinity.get(&vcpu).is_some_and(|now| *now != cpus);
            if differs && let Err(error) = self.set_affinity(vcpu, cpus) {
                tracing::warn!(%error, "cannot restore the affinity of a vCPU, using the planned one");
            }
        }
    }

    /// Lets the vCPUs run, and others look and ask.
    pub fn start(&mut self) {
        self.shared.connect(Link {
            notifier: self.notifier.clone(),
            ram: Arc::downgrade(&self.ram),
            vm: Arc::downgrade(&self.vm),
            devices: self.segments.handles().to_vec(),
            exits: self.vcpus.exits().collect(),
            board: Arc::clone(&self.handles.board),
            nets: self.handles.nets.clone(),
            disks: self.handles.disks.iter().cloned().map(DiskSize::new).collect(),
            threads: self.segments.threads().clone(),
        });
        self.shared.show_balloons(Arc::clone(&self.handles.balloons));
        self.publish();
        if let Err(error) = self.keeper.hold(&self.shared.held()) {
            tracing::error!(%error, "cannot empty the balloon after reset");
        }
        self.vcpus.run();
    }

    /// Stops the vCPUs, then the devices; answered when nothing touches guest memory any more, or something would not stop in
    /// time: then all run on.
    pub fn pause(&mut self, reply: Reply) {
        match &mut self.pausing {
            None if self.paused => reply.send(Ok(Answer::Done)),
            Some(pausing) => pausing.replies.push(reply),
            None => {
                self.vcpus.pause();
                self.keeper.pause();
                // One that waits for a slow reader of its output would not stop.
                self.serial.let_guest_wait(false);
                let until = Instant::now() + PAUSE_WITHIN;
                self.pausing = Some(Pausing { replies: vec![reply], until, devices: false });
            }
        }
    }

    /// Goes on with what waits for threads of this VM; when to look again.
    pub fn look(&mut self) -> Option<Duration> {
        let pausing = self.pausing.as_mut()?;
        let running = self.vcpus.running();
        if running == 0 && !pausing.devices {
            // No vCPU has anything for them any more.
            (pausing.devices, pausing.until) = (true, Instant::now() + HOLD_WITHIN);
            self.segments.hold();
        }
        let (devices, until) = (pausing.devices, pausing.until);
        match if devices { self.segments.active() } else { running } {
            0 => {
                self.paused = true;
                self.publish();
                self.end_pause(|| Ok(Answer::Done));
                None
            }
            left if Instant::now() >= until => {
                self.let_run();
                self.end_pause(|| Err(not_stopped(devices, left)));
                None
            }
            _ => Some(PAUSE_LOOK),
        }
    }

    fn end_pause(&mut self, answer: impl Fn() -> Result<Answer, RequestError>) {
        let replies = self.pausing.take().map(|pausing| pausing.replies);
        replies.into_iter().flatten().for_each(|reply| reply.send(answer()));
    }

    fn let_run(&self) {
        self.serial.let_guest_wait(true);
        self.segments.go_on();
        self.run_vcpus();
        self.keeper.resume();
    }

    fn run_vcpus(&self) {
        if !self.still {
            self.vcpus.run();
        }
    }

    /// Has the guest's vCPUs stand still, whatever else is asked of it, or go on.
    pub fn hold_still(&mut self, hold: bool) {
        self.still = hold;
        if hold {
            self.vcpus.pause();
        } else if !self.paused && self.pausing.is_none() {
            self.vcpus.run();
        }
    }

    /// Lets them run again. One who waits for a pause is told that it did not come to that.
    pub fn resume(&mut self) -> Result<Answer, RequestError> {
        if let Some(Pausing { devices, .. }) = self.pausing {
            let left = if devices { self.segments.active() } else { self.vcpus.running() };
            self.let_run();
            self.end_pause(|| Err(not_stopped(devices, left)));
        }
        if self.paused {
            self.paused = false;
            self.publish();
            self.let_run();
        }
        Ok(Answer::Done)
    }

    /// Changes where a vCPU may run.
    pub fn set_affinity(&mut self, vcpu: VcpuId, cpus: CpuSet) -> Result<Answer, RequestError> {
        self.vcpus.set_affinity(vcpu, &cpus).ok_or(RequestError::NoSuchVcpu(vcpu))??;
        self.affinity.insert(vcpu, cpus);
        self.publish();
        Ok(Answer::Done)
    }

    /// Sends the threads of a vnode to other CPUs: all of its vCPUs, or if one cannot go none.
    pub fn rehome(&mut self, place: VnodePlacement) -> Result<Answer, RequestError> {
        let before = self.affinity.clone();
        for (vcpu, cpus) in &place.vcpus {
            let Err(error) = self.set_affinity(*vcpu, cpus.clone()) else { continue };
            for vcpu in place.vcpus.keys() {
                if let Some(Err(error)) = before.get(vcpu).map(|cpus| self.set_affinity(*vcpu, cpus.clone()))
                {
                    tracing::error!(%error, "cannot restore the affinity of a vCPU");
                }
            }
            return Err(error);
        }
        if let Err(error) = self.segments.follow(place.vnode, &place.cpus) {
            tracing::warn!(%error, "cannot move a device thread with its vnode");
        }
        self.settle_at(place);
        self.publish();
        Ok(Answer::Done)
    }

    fn settle_at(&mut self, place: VnodePlacement) {
        if let Some(now) = self.placement.vnodes.get_mut(place.vnode.index()) {
            *now = place;
        }
        self.placement.claim = self.placement.vnodes.iter().map(|at| &at.claim).sum();
    }

    /// Changes how much memory a vnode keeps; its guest needs time for that.
    pub fn set_memory_target(
        &mut self,
        vnode: VnodeId,
        keep: Bytes,
        exact: bool,
    ) -> Result<Answer, RequestError> {
        if self.paused {
            return Err(RequestError::State {
                state: self.state(),
                needs: "the guest must be running to inflate the balloon",
            });
        }
        let found = self.plan.topology.vnode(vnode).ok_or(BalloonError::NoSuchVnode(vnode))?;
        let ask = Ask { pages: pages_out(found, keep)?, exact };
        match self.keeper.want(vnode, ask)? {
            true => Ok(Answer::Done),
            false => Err(BalloonError::NoMemory(vnode).into()),
        }
    }

    /// Starts getting memory of a pnode back, or giving it again.
    pub fn start_reclaim(&mut self, order: ReclaimOrder) -> Result<Answer, RequestError> {
        if self.paused {
            return Err(RequestError::State {
                state: self.state(),
                needs: "the guest must be running to inflate the balloon",
            });
        }
        if order.bytes == Bytes::ZERO {
            return Err(RequestError::NothingAsked);
        }
        if let Some(id) = self.shared.reclaimer.running() {
            return Err(RequestError::Reclaiming(id));
        }
        let home = |at: &VnodePlacement| Home { pnodes: at.pnodes.clone(), parts: at.parts.clone() };
        let homes = self.placement.vnodes.iter().map(|at| (at.vnode, home(at))).collect();
        self.claimer.start(|| ClaimerGround {
            shared: Arc::clone(&self.shared),
            notifier: self.notifier.clone(),
            plan: Arc::clone(&self.plan),
            ram: Arc::downgrade(&self.ram),
            entries: Arc::clone(&self.handles.balloons),
            leases: Arc::clone(&self.leases),
        })?;
        let (wants, ram) = (self.keeper.wants()?, Arc::clone(&self.ram));
        let release = self.releasing();
        let thread = self.shared.reclaimer.start(order, wants, ram, homes, release)?;
        self.movers.retain(|mover| !mover.is_finished());
        self.movers.push(thread);
        Ok(Answer::Done)
    }

    /// Lowers the claim of a vnode by what its balloon holds. If that cannot be written, the VM keeps it claimed.
    fn releasing(&self) -> Release {
        let (shared, plan) = (Arc::clone(&self.shared), Arc::clone(&self.plan));
        let (leases, ram) = (Arc::clone(&self.leases), Arc::clone(&self.ram));
        Box::new(move |vnode, on, most| {
            let Some(vnode) = plan.topology.vnode(vnode) else { return Bytes::ZERO };
            // A touch of one page shall not bring a huge page, of which the other parts are not claimed.
            let first = || advise(&ram, vnode.id, Advice::SmallPages);
            release(&shared.claim, &leases, vnode, (on, most), first).unwrap_or_else(|error| {
                tracing::warn!(vnode = %vnode.id, "{error}; reclaimed memory stays claimed");
                Bytes::ZERO
            })
        })
    }

    /// Starts moving the memory of vnodes. Their vCPUs follow when that is done.
    pub fn start_moves(
        &mut self,
        to: Vec<VnodePlacement>,
        manner: Manner,
        bandwidth: Option<Bytes>,
    ) -> Result<Answer, RequestError> {
        let plan = |to: VnodePlacement| {
            let no_such = || resources::replacement::ReplacementError::NoSuchVnode(to.vnode);
            let vnode = self.plan.topology.vnode(to.vnode).ok_or_else(no_such)?;
            if let Some(job) = self.shared.jobs.moving(to.vnode) {
                return Err(RequestError::Busy { vnode: to.vnode, job });
            }
            let from = self.placement.vnodes.get(to.vnode.index()).ok_or_else(no_such)?.clone();
            let (now, then) = (from.pnodes.clone(), to.pnodes.clone());
            let job = MemoryMove {
                vnode: to.vnode,
                from: now,
                to: then,
                policy: vnode.policy,
                parts_from: from.parts.clone(),
                parts_to: to.parts.clone(),
            };
            Ok(Planned { job, from, to })
        };
        let moves = to.into_iter().map(plan).collect::<Result<Vec<_>, RequestError>>()?;
        let vnodes: Vec<VnodeId> = moves.iter().map(|planned| planned.job.vnode).collect();
        let landing = Landing {
            shared: Arc::clone(&self.shared),
            notifier: self.notifier.clone(),
            plan: Arc::clone(&self.plan),
            threads: self.segments.threads().clone(),
        };
        let ended = move |ended| landing.land(ended);
        let ram = Arc::clone(&self.ram);
        let (first, thread) = self.shared.jobs.start_moves(ram, moves, manner, bandwidth, ended)?;
        self.movers.retain(|mover| !mover.is_finished());
        self.movers.push(thread);
        (first.0..).zip(&vnodes).for_each(|(id, _)| self.shared.tell_job(JobId(id)));
        Ok(Answer::Started(first))
    }

    /// Vnodes moved. Of those whose every page was looked at, threads follow; which of them could not is said.
    pub fn landed(&mut self, landed: Vec<Landed>) -> Stragglers {
        let mut stragglers = Stragglers::new();
        for Landed { mut place, follow } in landed {
            if follow && let Err(error) = self.follow(&mut place) {
                tracing::error!(%error, "cannot move a thread with its vnode");
                stragglers.insert(place.vnode, error);
            }
            self.settle_at(place);
        }
        self.publish();
        stragglers
    }

    /// All threads that can go there do; the place says where the others are still. The first error.
    fn follow(&mut self, to: &mut VnodePlacement) -> Result<(), HostError> {
        let mut result = self.segments.follow(to.vnode, &to.cpus);
        let bound = to.affinity != Affinity::None;
        for (vcpu, cpus) in to.vcpus.iter_mut().filter(|_| bound) {
            match self.vcpus.set_affinity(*vcpu, cpus) {
                Some(Ok(())) => drop(self.affinity.insert(*vcpu, cpus.clone())),
                Some(Err(error)) => {
                    result = result.and(Err(error));
                    cpus.clone_from(self.affinity.entry(*vcpu).or_default());
                }
                None => {}
            }
        }
        result
    }

    /// The reset that comes is one that was asked for from outside: the guest starts again, whatever resets do.
    pub fn ask_restart(&self) {
        self.shared.ask_restart();
        self.shared.starts_again();
    }

    /// How it stands.
    pub fn state(&self) -> VmState {
        if self.paused { VmState::Paused } else { VmState::Running }
    }

    fn publish(&self) {
        let vcpu = |(id, thread)| VcpuView {
            id,
            thread,
            affinity: self.affinity.get(&id).cloned().unwrap_or_default(),
        };
        self.shared.publish(VmView {
            state: self.state(),
            placement: self.placement.clone(),
            vcpus: self.vcpus.ids().map(vcpu).collect(),
        });
    }
}

/// Why there is no pause.
fn not_stopped(devices: bool, left: usize) -> RequestError {
    match devices {
        true => RequestError::DevicesNotHeld(left),
        false => RequestError::NotStopped(left),
    }
}

impl Running {
    /// The machine is over, and its guest starts again: what it had of the host, for the next one. `None` if requests hang.
    pub fn end_for_next(&mut self) -> Option<HostSide> {
        self.end_guest();
        self.vcpus.rest();
        let devices = self.segments.take_devices();
        if devices.is_none() {
            self.segments.end();
        }
        self.join_movers();
        let handles = Handles { balloons: Arc::default(), ..std::mem::take(&mut self.handles) };
        let (ram, affinity) = (Arc::clone(&self.ram), self.affinity.clone());
        let vcpus = std::mem::replace(&mut self.vcpus, VcpuThreads::none());
        let kvm = Some(KvmSide::new(Arc::clone(&self.vm), vcpus));
        devices.map(|devices| HostSide { devices, handles, ram, affinity, kvm })
    }

    /// Nobody can ask any more, and no vCPU runs.
    fn end_guest(&mut self) {
        self.ended = true;
        self.shared.hold(self.keeper.held());
        self.shared.disconnect(VmState::Ended);
        self.vcpus.pause();
        // One that waits for a slow reader of its output would not stop.
        self.serial.disconnect();
        self.shared.jobs.abandon_all();
        self.shared.reclaimer.abandon();
        self.segments.release_vcpus();
        self.leases.end();
    }

    fn join_movers(&mut self) {
        for mover in self.movers.drain(..) {
            let _ = mover.join();
        }
    }
}

impl Drop for Running {
    /// First threads end, and only then memory goes.
    fn drop(&mut self) {
        if !self.ended {
            self.end_guest();
            self.vcpus.stop();
            self.segments.end();
            self.join_movers();
        }
    }
}
