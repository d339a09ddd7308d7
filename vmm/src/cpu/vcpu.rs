//! A vCPU: created, then run exit by exit. Its thread is `threads`' work, what a stop means for the VM the control
//! loop's decision.

use super::cpuid::CpuidTemplate;
use super::exits::{ExitCounters, ExitHistory, ExitReason};
use super::fault::FaultPlace;
use super::gate::Gate;
use super::msrs::set_boot_msrs;
use super::state::VcpuState;
use super::stopped::StoppedVcpu;
use crate::memory::GuestRam;
use crate::sys::{GuestVcpu, GuestVm, HostError, ImmediateExit, Pio, pio_exit};
use devices::{IoApic, MmioBus, PioBus};
use kvm_ioctls::VcpuExit;
use resources::{Diagnosis, ErrorKind, Gpa, Plan, VcpuId};
use std::sync::{Arc, Mutex, PoisonError};

/// `KVM_SYSTEM_EVENT_*` (`linux/kvm.h`).
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;

/// Why a vCPU stopped by itself.
#[derive(Debug)]
pub enum StopCause {
    /// It faulted while handling a fault.
    TripleFault(VcpuId, Box<StoppedVcpu>),
    /// KVM says the guest powered off.
    Shutdown,
    /// KVM says the guest reset itself.
    Reset,
    /// It cannot go on.
    Failed(VcpuError),
}

/// Why a vCPU cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// A call was refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// KVM's CPUID does not fit.
    #[error(transparent)]
    Cpuid(#[from] super::cpuid::TooManyEntries),
    /// KVM met an instruction or a state that it cannot handle.
    #[error("KVM_RUN for vCPU {vcpu}: KVM_INTERNAL_ERROR, suberror {suberror}{note}{state}")]
    Internal {
        /// Which vCPU.
        vcpu: VcpuId,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What is known about this host's KVM.
        note: &'static str,
        /// Where the guest was.
        state: Box<StoppedVcpu>,
    },
    /// The hardware refused the guest's state.
    #[error("KVM_RUN for vCPU {vcpu}: entry failed, hardware reason {reason:#x}{state}")]
    Entry {
        /// Which vCPU.
        vcpu: VcpuId,
        /// As the hardware gave it.
        reason: u64,
        /// Where the guest was.
        state: Box<StoppedVcpu>,
    },
    /// The host had no page for an address of the guest.
    #[error("KVM_RUN for vCPU {vcpu}: no host memory for {place}: {source}{note}")]
    NoMemory {
        /// Which vCPU.
        vcpu: VcpuId,
        /// For which address, and whose it is.
        place: FaultPlace,
        /// What the kernel said.
        source: std::io::Error,
        /// What is the likely cause.
        note: &'static str,
    },
    /// An exit that should not happen.
    #[error("KVM_RUN for vCPU {vcpu}: unexpected exit {exit}{state}")]
    Unexpected {
        /// Which vCPU.
        vcpu: VcpuId,
        /// The exit as text.
        exit: String,
        /// Where the guest was.
        state: Box<StoppedVcpu>,
    },
}

impl VcpuError {
    /// What kind of failure it is, and its stable code.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Host(error) => error.diagnosis(),
            Self::Cpuid(_) => Diagnosis::new(ErrorKind::Internal, "internal"),
            Self::Internal { .. } => Diagnosis::new(ErrorKind::Unsupported, "kvm_internal_error"),
            Self::Entry { .. } => Diagnosis::new(ErrorKind::Host, "kvm_entry_failed"),
            Self::NoMemory { .. } => Diagnosis::new(ErrorKind::NoRoom, "no_memory"),
            Self::Unexpected { .. } => Diagnosis::new(ErrorKind::Host, "kvm_exit"),
        }
    }
}

/// What all vCPUs need.
pub struct VcpuSetup {
    /// The VM.
    pub vm: Arc<GuestVm>,
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// CPUID as all share it.
    pub cpuid: CpuidTemplate,
    /// Numbers of the model-specific registers that are part of a vCPU's state.
    pub msrs: Vec<u32>,
    /// Ports.
    pub pio: Arc<PioBus>,
    /// Addresses.
    pub mmio: Arc<MmioBus>,
    /// Hears ends of level-triggered interrupts.
    pub ioapic: Arc<Mutex<IoApic>>,
}

/// Why, and at which port or address or for which vector.
fn reason(exit: &Result<VcpuExit<'_>, kvm_ioctls::Error>) -> (ExitReason, u64) {
    match exit {
        Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => (ExitReason::Port, (*port).into()),
        Ok(VcpuExit::MmioWrite(address, _) | VcpuExit::MmioRead(address, _)) => (ExitReason::Mmio, *address),
        Ok(VcpuExit::IoapicEoi(vector)) => (ExitReason::EndOfInterrupt, (*vector).into()),
        Ok(VcpuExit::Intr) | Err(_) => (ExitReason::Interrupted, 0),
        Ok(_) => (ExitReason::Other, 0),
    }
}

/// A vCPU. Belongs to the thread that created it.
pub struct Vcpu {
    id: VcpuId,
    pub(super) fd: GuestVcpu,
    pub(super) immediate_exit: Arc<ImmediateExit>,
    history: ExitHistory,
    power_on: VcpuState,
}

impl Vcpu {
    pub(super) fn create(setup: &VcpuSetup, plan: &Plan, id: VcpuId) -> Result<Self, VcpuError> {
        let named = |error: HostError| error.of(format!("vCPU {id}"));
        let apic_id = u64::from(plan.cpus.apic_id(id).0);
        let fd = setup.vm.create_vcpu(apic_id).map_err(named)?;
        let cpuid = setup.cpuid.for_vcpu(id, &plan.cpus)?;
        fd.set_cpuid2(&cpuid).map_err(HostError::kvm("KVM_SET_CPUID2")).map_err(named)?;
        set_boot_msrs(&fd, id);
        let immediate_exit = Arc::new(ImmediateExit::of(&fd).map_err(named)?);
        let mut power_on = VcpuState::save(&fd, &setup.msrs).map_err(named)?;
        power_on.set_tsc(0);
        Ok(Self { id, fd, immediate_exit, history: ExitHistory::default(), power_on })
    }

    /// Has it as it was at power-on.
    pub(super) fn reset(&mut self) -> Result<(), HostError> {
        self.history = ExitHistory::default();
        self.power_on.restore(&self.fd).map_err(|error| error.of(format!("vCPU {}", self.id)))
    }

    /// Runs until stopped from outside (`None`) or by itself.
    pub(super) fn run(&mut self, setup: &VcpuSetup, gate: &Gate, exits: &ExitCounters) -> Option<StopCause> {
        // Whether KVM has still to finish what the last exit began, such as the load that an MMIO read was for.
        let mut unfinished = false;
        loop {
            if !gate.open() {
                if unfinished {
                    self.immediate_exit.set();
                } else if !gate.pass() {
                    return None;
                } else {
                    // The guest should not take the time it waited for a lock-up. No clock, no complaint.
                    let _ = self.fd.kvmclock_ctrl();
                    continue;
                }
            }
            let exit = self.fd.run();
            let (why, at) = reason(&exit);
            exits.count(why);
            self.history.add(why, at);
            unfinished = exit.is_ok();
            match exit {
                Ok(VcpuExit::IoOut(port, data @ [_])) => {
                    setup.pio.write(port, data);
                }
                Ok(VcpuExit::IoIn(port, data @ [_])) => {
                    setup.pio.read(port, data);
                }
                Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => self.wide_port_access(setup),
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    setup.mmio.write(address, data);
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    setup.mmio.read(address, data);
                }
                Ok(VcpuExit::IoapicEoi(vector)) => {
                    setup.ioapic.lock().unwrap_or_else(PoisonError::into_inner).end_of_interrupt(vector);
                }
                Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => {}
                Ok(VcpuExit::Shutdown) => return Some(StopCause::TripleFault(self.id, self.state())),
                Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => return Some(StopCause::Shutdown),
                Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => return Some(StopCause::Reset),
                Ok(VcpuExit::InternalError) => return Some(StopCause::Failed(self.internal_error())),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    let error = VcpuError::Entry { vcpu: self.id, reason, state: self.state() };
                    return Some(StopCause::Failed(error));
                }
                // EFAULT, with the address.
                Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                    return Some(self.no_memory(setup, Some(Gpa(gpa)), libc::EFAULT));
                }
                Ok(exit) => {
                    let exit = format!("{exit:?}");
                    let error = VcpuError::Unexpected { vcpu: self.id, exit, state: self.state() };
                    return Some(StopCause::Failed(error));
                }
                // A kick. Before the gate is looked at again: a kick that comes after that look sets it again.
                Err(error) if error.errno() == libc::EINTR => self.immediate_exit.clear(),
                // An application processor that has just been started, or was not yet.
                Err(error) if error.errno() == libc::EAGAIN => {}
                Err(error) if matches!(error.errno(), libc::EFAULT | libc::EHWPOISON) => {
                    return Some(self.no_memory(setup, None, error.errno()));
                }
                Err(error) => {
                    let error = HostError::kvm("KVM_RUN")(error).of(format!("vCPU {}", self.id));
                    return Some(StopCause::Failed(error.into()));
                }
            }
        }
    }

    fn wide_port_access(&mut self, setup: &VcpuSetup) {
        match pio_exit(&mut self.fd) {
            Some(Pio::Out(port, elements)) => elements.for_each(|data| _ = setup.pio.write(port, data)),
            Some(Pio::In(port, elements)) => elements.for_each(|data| _ = setup.pio.read(port, data)),
            None => {}
        }
    }

    fn state(&self) -> Box<StoppedVcpu> {
        StoppedVcpu::of(&self.fd, self.history.runs().collect())
    }

    /// The host has no page for the guest: a pool ran dry, or the page is broken.
    fn no_memory(&self, setup: &VcpuSetup, gpa: Option<Gpa>, errno: i32) -> StopCause {
        let place = FaultPlace::of(&setup.ram, gpa);
        let note = match errno {
            libc::EHWPOISON => "; hardware memory error on the host",
            _ if place.may_be_pool() => {
                "; the pool has no free page, use prefault=on to allocate all pages at start"
            }
            _ => "",
        };
        let source = std::io::Error::from_raw_os_error(errno);
        StopCause::Failed(VcpuError::NoMemory { vcpu: self.id, place, source, note })
    }

    fn internal_error(&mut self) -> VcpuError {
        let suberror = self.fd.internal_suberror();
        let (note, state) = (crate::kvm::emulation_note(), self.state());
        VcpuError::Internal { vcpu: self.id, suberror, note, state }
    }
}

#[cfg(test)]
#[path = "vcpu_tests.rs"]
mod tests;
