//! A VM's state while it runs: its vCPUs, its memory, its devices and the work under way. Only the control loop has it, so
//! nothing here needs a lock. Where vnodes are outlives the guest: the owner in [`crate::placement`] knows it.

mod end_of_moves;
mod pause;
mod placement;
mod reclaim;

use crate::attach::Handles;
use crate::balloon::{Claimer, Keeper, Leases};
use crate::cpu::VcpuThreads;
use crate::handle::{DiskSize, Link, Shared, VmState};
use crate::host_side::{HostSide, KvmSide};
use crate::inbox::Notifier;
use crate::memory::GuestRam;
use crate::pci::Segments;
use crate::serial::SerialLink;
use crate::sys::GuestVm;
use pause::Pausing;
use resources::VmTopology;
use std::sync::Arc;
use std::thread::JoinHandle;

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
    topology: Arc<VmTopology>,
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
    pub fn new(shared: Arc<Shared>, notifier: Notifier, topology: Arc<VmTopology>, parts: Parts) -> Self {
        let Parts { vm, vcpus, segments, handles, ram, serial, leases } = parts;
        Self {
            keeper: Keeper::new(Arc::clone(&handles.balloons), Arc::<Shared>::clone(&shared)),
            claimer: Claimer::new(Arc::clone(&leases)),
            leases,
            shared,
            notifier,
            topology,
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

    /// The reset that comes is one that was asked for from outside: the guest starts again, whatever resets do.
    pub fn ask_restart(&self) {
        self.shared.ask_restart();
        self.shared.starts_again();
    }

    /// The state of the VM.
    pub fn state(&self) -> VmState {
        if self.paused { VmState::Paused } else { VmState::Running }
    }

    fn publish(&self) {
        self.shared.show(self.state(), self.vcpus.ids().collect());
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
        let ram = Arc::clone(&self.ram);
        let vcpus = std::mem::replace(&mut self.vcpus, VcpuThreads::none());
        let kvm = Some(KvmSide::new(Arc::clone(&self.vm), vcpus));
        devices.map(|devices| HostSide { devices, handles, ram, kvm })
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
