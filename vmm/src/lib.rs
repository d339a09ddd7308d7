//! Turns a plan into a running virtual machine and keeps it true. Unsafe code lives in `sys` alone.
//!
//! What a VM is and where it lies is decided in `resources`, tables are encoded in `acpi`, devices modelled in
//! `devices`; the words people type are `api`'s.

mod access;
mod attach;
pub mod balloon;
mod board;
mod boot;
pub mod claims;
mod console;
mod control;
mod cpu;
mod diagnosis;
mod disk;
mod error;
mod firmware;
mod handle;
mod host_side;
mod inbox;
mod interrupts;
mod jobs;
mod kvm;
#[cfg(test)]
mod kvm_control_tests;
#[cfg(test)]
mod kvm_tests;
mod lock_file;
mod machine;
mod memory;
pub mod net;
mod ofd_lock;
mod pci;
mod placement;
mod restart;
mod running;
mod serial;
mod socket_file;
mod sys;
#[cfg(any(test, feature = "test-kernel"))]
pub mod test_kernel;
#[cfg(feature = "test-kernel")]
pub mod test_memory;
mod transaction;

pub use board::BoardCounters;
pub use boot::{BootError, Payload};
pub use control::end_signals;
pub use cpu::{ExitCounters, ExitReason, StoppedVcpu};
pub use devices::virtio::VirtioCounters;
pub use devices::virtio::blk::BlkError;
pub use devices::{Figure, FigureKind, Figures};
pub use disk::{DiskError, DiskOptions, RawDisk};
pub use error::Error;
pub use firmware::{Firmware, TablesError, tables};
pub use handle::{
    Answer, DeviceView, DiskFull, Look, Observer, Request, RequestError, VcpuView, VmHandle, VmState, VmView,
};
pub use jobs::{JobId, JobState, JobView, MoveCounts};
pub use kvm::{KvmError, why_no_linux};
pub use memory::{MigrationMode, MoveOutcome, PrefaultError, Progress, RamError, Residency, Written};
pub use serial::{Stream, block_terminal_stops};
pub use socket_file::{Access, Janitor, SocketFile, SocketFileError, sweep};
pub use sys::{HostError, inherited_fd, spawn_without_signals};

use boot::Boot;
use handle::Shared;
use resources::{OnReset, Plan, SerialSpec, VcpuId, VnodeId};
use std::sync::Arc;

/// How to run, beside what was planned.
#[derive(Default)]
pub struct Options {
    /// Where the guest's serial port goes.
    pub serial: SerialSpec,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Who hears how far start-up got.
    pub progress: Option<Box<dyn Progress>>,
    /// Who hears of every change.
    pub observer: Option<Box<dyn Observer>>,
    /// Who answers SIGTERM, SIGINT and SIGHUP.
    pub signals: Signals,
    /// How long the guest may take to power off after the first of them; then it is as if a second one had come.
    pub shutdown_timeout: Option<std::time::Duration>,
    /// What it was promised of the host: kept until all of it is given back.
    pub claim: Option<claims::Held>,
    /// Who removes its sockets if this process is killed.
    pub janitor: Janitor,
    /// Start Linux also where KVM has no hardware virtualization.
    pub force_host: bool,
}

/// Who answers the signals that ask a VM to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signals {
    /// The VM: the first presses the power button, the second ends it.
    #[default]
    Vm,
    /// Whoever started it: the VM leaves them alone.
    Caller,
}

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest reset itself, and that was to be the end.
    Reset,
    /// A vCPU faulted while it handled a fault.
    TripleFault {
        /// Which.
        vcpu: VcpuId,
        /// What KVM knows of it.
        state: Box<StoppedVcpu>,
    },
    /// The user typed the escape.
    Quit,
    /// A second signal to end came, or [`Request::Stop`].
    Killed,
}

impl Exit {
    /// How the guest crashed, in one line, if it did.
    pub fn crash(&self) -> Option<String> {
        match self {
            Self::TripleFault { vcpu, state } => {
                Some(format!("the guest crashed: vCPU {vcpu} shut down after a triple fault{state}"))
            }
            Self::PowerOff | Self::Reset | Self::Quit | Self::Killed => None,
        }
    }
}

/// Why a VM would not start on this host now, as far as that can be known without taking anything: payload, tables,
/// limits of KVM, files, interfaces and sockets of devices. Where `/dev/kvm` does not open, its limits are not known: why
/// is what comes back.
pub fn check(
    plan: &Plan,
    payload: Option<Payload>,
    serial: &SerialSpec,
    force_host: bool,
) -> Result<Option<HostError>, Error> {
    match payload {
        Some(payload) => drop(prepare(plan, payload, force_host)?),
        None => drop(tables(plan)?),
    }
    let closed = match kvm::KvmHost::open(plan) {
        Ok(_) => None,
        Err(KvmError::Open(error)) => Some(*error),
        Err(error) => return Err(error.into()),
    };
    check_devices(plan, serial)?;
    Ok(closed)
}

fn prepare(plan: &Plan, payload: Payload, force_host: bool) -> Result<(Firmware, Boot), Error> {
    let firmware = tables(plan)?;
    let boot = Boot::prepare(payload, plan, &firmware)?;
    if boot.is_linux() && !force_host && kvm::is_emulating() {
        return Err(KvmError::NoHardware { path: boot.kernel().to_owned() }.into());
    }
    Ok((firmware, boot))
}

fn check_devices(plan: &Plan, serial: &SerialSpec) -> Result<(), Error> {
    attach::check(&plan.devices, plan.memory_map.ram().len())?;
    match serial {
        SerialSpec::File(path) => {
            access::can_append(path).map_err(|source| Error::Serial { serial: serial.clone(), source })
        }
        SerialSpec::Stdio | SerialSpec::None => Ok(()),
    }
}

/// A VM that can start: everything that can be refused without touching memory has been looked at.
pub struct Vm {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    boot: Boot,
    firmware: Firmware,
    kvm: kvm::KvmHost,
    options: Options,
    claim: ClaimUntilTheEnd,
}

/// Gives back what the VM was promised, when it is gone; handles live longer.
struct ClaimUntilTheEnd(Arc<Shared>);

impl Drop for ClaimUntilTheEnd {
    fn drop(&mut self) {
        self.0.placement.release();
    }
}

impl Vm {
    /// Inspects the payload, encodes the tables, and asks KVM whether it can do it, and the host whether it has the
    /// devices.
    pub fn new(plan: Plan, payload: Payload, mut options: Options) -> Result<Self, Error> {
        let plan = Arc::new(plan);
        let (firmware, boot) = prepare(&plan, payload, options.force_host)?;
        let kvm = kvm::KvmHost::open(&plan)?;
        check_devices(&plan, &options.serial)?;
        let placement = placement::PlacementOwner::new(options.claim.take(), plan.placement.clone());
        let shared = Shared::new(&plan, options.observer.take(), placement);
        let claim = ClaimUntilTheEnd(Arc::clone(&shared));
        Ok(Self { shared, plan, boot, firmware, kvm, options, claim })
    }

    /// For other threads to look at it and ask it for things.
    pub fn handle(&self) -> VmHandle {
        VmHandle::new(Arc::clone(&self.shared))
    }

    /// Runs it to its end, in this thread and those it starts.
    ///
    /// With [`Signals::Vm`] takes over SIGTERM, SIGINT and SIGHUP: the first asks the guest to power off, the second
    /// ends it.
    pub fn run(self) -> Result<Exit, Error> {
        let Self { shared, mut plan, mut boot, mut firmware, kvm, mut options, claim: _claim } = self;
        sys::prepare_kicks()?;
        let port = serial::SerialPort::open(&options.serial)
            .map_err(|source| Error::Serial { serial: options.serial.clone(), source })?;
        let mut host = None;
        loop {
            let machine = machine::Machine::build(
                &shared,
                &plan,
                (&mut boot, &firmware),
                &kvm,
                &mut options,
                &port,
                host.take(),
            )?;
            let Some(machine) = machine else {
                return Ok(Exit::Killed);
            };
            let (exit, kept) = machine.run()?;
            host = kept;
            match (exit, options.on_reset) {
                (Exit::Reset, _) if shared.take_restart() => tracing::info!("reset by request"),
                (Exit::Reset, OnReset::Reboot) => tracing::info!("guest reset"),
                (exit, _) => return Ok(exit),
            }
            // It starts again where its vnodes are now, and claims no more than that: a move under way has come to nothing.
            let vnodes: Vec<VnodeId> = plan.topology.vnodes().iter().map(|vnode| vnode.id).collect();
            shared.placement.turn().give_back(&vnodes);
            let left_out = restart::claim_all_back(&shared);
            let placement = shared.placement.placement();
            let mut next = Plan { placement, ..shared.plan().without(&left_out) };
            if next.memory_map != plan.memory_map {
                firmware = tables(&next)?;
                boot.fit(&next, &firmware)?;
            }
            // What a disk begins with now, its guest may have written.
            next.devices.disks.iter_mut().for_each(|disk| disk.known_raw = true);
            plan = Arc::new(next);
            shared.starts_again();
        }
    }
}
