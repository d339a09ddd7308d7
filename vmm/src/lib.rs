//! Turns a plan into a running virtual machine and keeps it true. Unsafe code lives in `sys` alone.
//!
//! What a VM is and where it lies is decided in `resources`, tables are encoded in `acpi`, devices modelled in
//! `devices`; the words people type are `api`'s.

mod attach;
pub mod balloon;
mod boot;
pub mod claims;
mod console;
mod control;
mod cpu;
mod disk;
mod firmware;
mod handle;
mod inbox;
mod interrupts;
mod jobs;
mod kvm;
#[cfg(test)]
mod kvm_control_tests;
#[cfg(test)]
mod kvm_tests;
mod landing;
mod lock_file;
mod machine;
mod memory;
pub mod net;
mod ofd_lock;
mod pci;
mod restart;
mod running;
mod serial;
mod socket_file;
mod sys;
#[cfg(any(test, feature = "test-kernel"))]
pub mod test_kernel;

pub use boot::{BootError, Payload};
pub use control::end_signals;
pub use cpu::{ExitCounters, ExitReason, StoppedVcpu};
pub use devices::virtio::blk::{BlkError, BlkFigures};
pub use devices::virtio::console::ConsoleCounters;
pub use devices::virtio::net::{Datapath, NetCounters};
pub use devices::virtio::vsock::VsockCounters;
pub use devices::virtio::{RngCounters, VirtioCounters};
pub use disk::{DiskError, DiskOptions, RawDisk};
pub use firmware::{Firmware, TablesError, tables};
pub use handle::{
    Answer, DeviceFigures, DeviceView, DiskFull, Look, Observer, Request, RequestError, VcpuView, VmHandle,
    VmState, VmView,
};
pub use jobs::{JobId, JobState, JobView, MoveCounts};
pub use kvm::KvmError;
pub use memory::{Manner, MoveOutcome, PrefaultError, Progress, RamError, Residency};
pub use serial::{Stream, block_terminal_stops};
pub use socket_file::{Access, Janitor, SocketFile, SocketFileError, sweep};
pub use sys::{HostError, inherited_fd, spawn_without_signals};

use boot::Boot;
use claims::own::Settled;
use handle::Shared;
use resources::{OnReset, Plan, SerialSpec, VcpuId, VnodePlacement};
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

/// Why a VM did not start or could not go on. One line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kernel, initramfs or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// `/dev/kvm`.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Taking guest memory.
    #[error(transparent)]
    Prefault(#[from] PrefaultError),
    /// The serial port's file.
    #[error("serial: {serial}: {source}")]
    Serial {
        /// As typed.
        serial: SerialSpec,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
    /// Running.
    #[error(transparent)]
    Run(#[from] control::RunError),
    /// Starting vCPUs.
    #[error(transparent)]
    Vcpu(#[from] cpu::VcpuError),
    /// Two devices at one address: a mistake of ours.
    #[error(transparent)]
    Bus(#[from] devices::BusError),
    /// Opening a device.
    #[error(transparent)]
    Attach(#[from] attach::AttachError),
    /// Putting a device on its segment.
    #[error(transparent)]
    Pci(#[from] pci::PciError),
    /// The host refused something else.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Error {
    /// Whether what was typed is to blame, and not the host.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Boot(_) | Self::Tables(_) | Self::Serial { .. } => true,
            Self::Attach(error) => error.is_input(),
            Self::Pci(error) => match error {
                pci::PciError::Segment(_)
                | pci::PciError::Function(_)
                | pci::PciError::NoSuchVnode { .. } => true,
                pci::PciError::Host(_) => false,
            },
            Self::Kvm(error) => match error {
                KvmError::TooManyVcpus { .. }
                | KvmError::ApicIdTooHigh { .. }
                | KvmError::TooManyAddresses { .. }
                | KvmError::TooManyRanges { .. } => true,
                KvmError::Host(_) | KvmError::Missing(_) => false,
            },
            Self::Ram(_)
            | Self::Prefault(_)
            | Self::Run(_)
            | Self::Vcpu(_)
            | Self::Bus(_)
            | Self::Host(_) => false,
        }
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
        self.0.claim.release();
    }
}

impl Vm {
    /// Inspects the payload, encodes the tables, and asks KVM whether it can do it.
    pub fn new(plan: Plan, payload: Payload, mut options: Options) -> Result<Self, Error> {
        let plan = Arc::new(plan);
        let firmware = tables(&plan)?;
        let boot = Boot::prepare(payload, &plan, &firmware)?;
        let kvm = kvm::KvmHost::open(&plan)?;
        let shared = Shared::new(&plan, options.observer.take(), options.claim.take());
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
        loop {
            let machine =
                machine::Machine::build(&shared, &plan, &mut boot, &firmware, &kvm, &mut options, &port)?;
            let Some(machine) = machine else {
                return Ok(Exit::Killed);
            };
            match (machine.run()?, options.on_reset) {
                (Exit::Reset, _) if shared.take_restart() => tracing::info!("reset by request"),
                (Exit::Reset, OnReset::Reboot) => tracing::info!("the guest resets"),
                (exit, _) => return Ok(exit),
            }
            // It starts again where it lies now, and claims no more than that.
            let placement = shared.view().placement.clone();
            let settled = |at: &VnodePlacement| (at.vnode, Settled::Stays(at.claim.clone()));
            shared.settle(&placement.vnodes.iter().map(settled).collect::<Vec<_>>());
            let left_out = restart::claim_all_back(&shared);
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
