//! A vCPU and its thread: pinned first, then the vCPU is created, so that KVM's own pages for it are local too.
//! What a stop means for the VM is the control loop's decision.

use super::cpuid::CpuidTemplate;
use crate::boot::{Entry, set_boot_registers};
use crate::memory::{GuestRam, pin_this_thread};
use crate::sys::{HostError, Pio, internal_suberror, kick, pio_exit};
use devices::{IoApic, MmioBus, PioBus};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use resources::{Affinity, CpuSet, Plan, VcpuId};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// `IA32_MTRR_DEF_TYPE` (Intel SDM volume 3, 12.11.2.1): MTRRs on, write-back by default.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
/// `KVM_SYSTEM_EVENT_*` (`linux/kvm.h`).
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;
/// How long a stopping thread is given before it is kicked again: a kick that comes just before KVM_RUN is lost.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Why a vCPU stopped by itself.
#[derive(Debug)]
pub enum StopCause {
    /// It faulted while handling a fault.
    TripleFault,
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
    #[error("KVM_RUN for vCPU {vcpu}: KVM_INTERNAL_ERROR, suberror {suberror}, at rip {rip:#x}{note}")]
    Internal {
        /// Which vCPU.
        vcpu: VcpuId,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// Where the guest was.
        rip: u64,
        /// What is known about this host's KVM.
        note: &'static str,
    },
    /// The hardware refused the guest's state.
    #[error("KVM_RUN for vCPU {vcpu}: entry failed, hardware reason {reason:#x}")]
    Entry {
        /// Which vCPU.
        vcpu: VcpuId,
        /// As the hardware gave it.
        reason: u64,
    },
    /// An exit that should not happen.
    #[error("KVM_RUN for vCPU {vcpu}: unexpected exit {exit}")]
    Unexpected {
        /// Which vCPU.
        vcpu: VcpuId,
        /// The exit as text.
        exit: String,
    },
}

/// What all vCPUs need.
pub struct VcpuSetup {
    /// The VM.
    pub vm: Arc<VmFd>,
    /// CPUID as all share it.
    pub cpuid: CpuidTemplate,
    /// Ports.
    pub pio: Arc<PioBus>,
    /// Addresses.
    pub mmio: Arc<MmioBus>,
    /// Hears ends of level-triggered interrupts.
    pub ioapic: Arc<Mutex<IoApic>>,
}

/// A vCPU, in its own thread.
pub struct Vcpu {
    id: VcpuId,
    fd: VcpuFd,
}

/// All vCPU threads of a VM; dropping them stops them.
pub struct VcpuThreads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpu {
    fn create(setup: &VcpuSetup, plan: &Plan, id: VcpuId) -> Result<Self, VcpuError> {
        let named = |error: HostError| error.of(format!("vCPU {id}"));
        let apic_id = u64::from(plan.cpus.apic_id(id).0);
        let fd = setup.vm.create_vcpu(apic_id).map_err(HostError::kvm("KVM_CREATE_VCPU")).map_err(named)?;
        let cpuid = setup.cpuid.for_vcpu(id, &plan.cpus)?;
        fd.set_cpuid2(&cpuid).map_err(HostError::kvm("KVM_SET_CPUID2")).map_err(named)?;
        let mtrr =
            kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, data: MTRR_ENABLE_WRITE_BACK, ..Default::default() };
        match Msrs::from_entries(&[mtrr]).map(|msrs| fd.set_msrs(&msrs)) {
            Ok(Ok(1)) => {}
            // Only a hint to the guest's page tables; a KVM that has no MTRRs has no such hint to give.
            _ => tracing::info!(vcpu = %id, "MTRR default type not set"),
        }
        Ok(Self { id, fd })
    }

    /// Runs until stopped from outside (`None`) or by itself.
    fn run(&mut self, setup: &VcpuSetup, stop: &AtomicBool) -> Option<StopCause> {
        while !stop.load(Ordering::Acquire) {
            match self.fd.run() {
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
                Ok(VcpuExit::Shutdown) => return Some(StopCause::TripleFault),
                Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => return Some(StopCause::Shutdown),
                Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => return Some(StopCause::Reset),
                Ok(VcpuExit::InternalError) => return Some(StopCause::Failed(self.internal_error())),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Some(StopCause::Failed(VcpuError::Entry { vcpu: self.id, reason }));
                }
                Ok(exit) => {
                    let exit = format!("{exit:?}");
                    return Some(StopCause::Failed(VcpuError::Unexpected { vcpu: self.id, exit }));
                }
                // EAGAIN: an application processor that has just been started, or was not yet.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => {
                    let error = HostError::kvm("KVM_RUN")(error).of(format!("vCPU {}", self.id));
                    return Some(StopCause::Failed(error.into()));
                }
            }
        }
        None
    }

    fn wide_port_access(&mut self, setup: &VcpuSetup) {
        match pio_exit(&mut self.fd, setup.vm.run_size()) {
            Some(Pio::Out(port, elements)) => elements.for_each(|data| _ = setup.pio.write(port, data)),
            Some(Pio::In(port, elements)) => elements.for_each(|data| _ = setup.pio.read(port, data)),
            None => {}
        }
    }

    fn internal_error(&mut self) -> VcpuError {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let suberror = internal_suberror(&mut self.fd);
        VcpuError::Internal { vcpu: self.id, suberror, rip, note: crate::kvm::emulation_note() }
    }
}

impl VcpuThreads {
    /// Starts a thread per vCPU; returns when every vCPU exists and none has run yet. They run once `go` is called.
    ///
    /// `stopped` is called, from the vCPU's thread, when one stops by itself.
    pub fn start(
        setup: Arc<VcpuSetup>,
        plan: &Arc<Plan>,
        ram: &Arc<GuestRam>,
        entry: Entry,
        stopped: impl Fn(StopCause) + Clone + Send + 'static,
    ) -> Result<Self, VcpuError> {
        let mut all = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        let (ready, created) = mpsc::channel();
        let mut starts = Vec::new();
        for (vcpu, vnode) in plan.topology.vcpus() {
            let (go, wait) = mpsc::channel::<()>();
            starts.push(go);
            let (setup, plan, ram) = (Arc::clone(&setup), Arc::clone(plan), Arc::clone(ram));
            let (stop, ready, stopped) = (Arc::clone(&all.stop), ready.clone(), stopped.clone());
            let body = move || {
                let first = (vcpu.0 == 0).then_some(entry);
                let result = pin(&plan, vcpu, vnode).and_then(|()| Vcpu::create(&setup, &plan, vcpu));
                let result = result.and_then(|vcpu| {
                    first.map_or(Ok(()), |entry| {
                        set_boot_registers(&vcpu.fd, entry, plan.cpus.max_apic_id(), &ram)
                    })?;
                    Ok(vcpu)
                });
                drop(ram);
                match result {
                    Err(error) => drop(ready.send(Err(error))),
                    Ok(mut vcpu) => {
                        drop(ready.send(Ok(())));
                        drop(ready);
                        if wait.recv().is_ok()
                            && let Some(cause) = vcpu.run(&setup, &stop)
                        {
                            stopped(cause);
                        }
                    }
                }
            };
            let thread =
                std::thread::Builder::new().name(format!("vcpu{vcpu}")).stack_size(STACK).spawn(body);
            all.threads.push(thread.map_err(|e| HostError::new("clone", e).of(format!("vCPU {vcpu}")))?);
        }
        drop(ready);
        // Threads that wait to go end when their `go` is dropped, so an error here leaves nothing behind.
        for result in created {
            result?;
        }
        for go in starts {
            let _ = go.send(());
        }
        Ok(all)
    }

    /// Stops all threads and waits for them.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                kick(thread.as_pthread_t());
                std::thread::sleep(KICK_AGAIN);
            }
            let _ = thread.join();
        }
    }
}

/// The run loop and the devices behind it need a few KiB; untouched stack costs nothing.
const STACK: usize = 256 << 10;

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pin(plan: &Plan, vcpu: VcpuId, vnode: resources::VnodeId) -> Result<(), VcpuError> {
    let placed = plan.placement.vnodes.get(vnode.index()).and_then(|p| p.vcpus.get(&vcpu));
    let affinity = plan.topology.vnode(vnode).map(|v| v.affinity);
    match (placed, affinity) {
        (Some(cpus), Some(Affinity::Hard | Affinity::Soft)) => pin_to(cpus, vcpu),
        (_, Some(Affinity::None) | None) | (None, _) => Ok(()),
    }
}

fn pin_to(cpus: &CpuSet, vcpu: VcpuId) -> Result<(), VcpuError> {
    pin_this_thread(cpus).map_err(|error| error.of(format!("vCPU {vcpu} to CPUs {cpus}")).into())
}
