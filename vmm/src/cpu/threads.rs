//! The thread of each vCPU: pinned first, then the vCPU is created, so that KVM's own pages for it are local too.

use super::exits::ExitCounters;
use super::gate::{Gate, Wanted};
use super::vcpu::{StopCause, Vcpu, VcpuError, VcpuSetup};
use crate::boot::{Entry, set_boot_registers};
use crate::memory::{GuestRam, kernel_cpus, pin_this_thread};
use crate::sys::{HostError, ImmediateExit, accept_kicks, interrupt};
use nix::sched::sched_setaffinity;
use nix::unistd::{Pid, gettid};
use resources::{Affinity, CpuSet, Plan, VcpuId, VnodeId};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// The run loop and the devices behind it need a few KiB; untouched stack costs nothing.
const STACK: usize = 256 << 10;
/// How long until a signal that the kernel could not queue is sent again.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);
/// All vCPU threads of a VM; dropping them ends them.
pub struct VcpuThreads {
    gate: Arc<Gate>,
    threads: Vec<VcpuThread>,
}

/// One of them.
struct VcpuThread {
    vcpu: VcpuId,
    id: Pid,
    exits: Arc<ExitCounters>,
    immediate_exit: Arc<ImmediateExit>,
    thread: JoinHandle<()>,
}

impl VcpuThreads {
    /// Starts a thread per vCPU; returns when every vCPU exists. None runs before [`Self::run`].
    ///
    /// `stopped` is called, from the vCPU's thread, when one stops by itself.
    pub fn start(
        setup: &Arc<VcpuSetup>,
        plan: &Arc<Plan>,
        ram: &Arc<GuestRam>,
        entry: Entry,
        stopped: impl Fn(StopCause) + Clone + Send + 'static,
    ) -> Result<Self, VcpuError> {
        let mut all = Self { gate: Arc::new(Gate::new()), threads: Vec::new() };
        for (vcpu, vnode) in plan.topology.vcpus() {
            let (created, result) = mpsc::channel();
            let (setup, plan, ram) = (Arc::clone(setup), Arc::clone(plan), Arc::clone(ram));
            let (gate, stopped) = (Arc::clone(&all.gate), stopped.clone());
            let exits = Arc::<ExitCounters>::default();
            let counters = Arc::clone(&exits);
            let body = move || {
                let vcpu = create(&setup, &plan, &ram, entry, vcpu, vnode);
                drop((plan, ram));
                let (answer, vcpu) = match vcpu {
                    Ok(vcpu) => (Ok((gettid(), Arc::clone(&vcpu.immediate_exit))), Some(vcpu)),
                    Err(error) => (Err(error), None),
                };
                let _ = created.send(answer);
                if let Some(cause) = vcpu.and_then(|mut vcpu| vcpu.run(&setup, &gate, &counters)) {
                    stopped(cause);
                }
            };
            let builder = std::thread::Builder::new().name(format!("vcpu{vcpu}")).stack_size(STACK);
            let died = |e: std::io::Error| HostError::new("clone", e).of(format!("vCPU {vcpu}"));
            let thread = builder.spawn(body).map_err(died)?;
            // One after the other: KVM takes them under one lock anyway.
            let (id, immediate_exit) = result.recv().map_err(|e| died(std::io::Error::other(e)))??;
            all.threads.push(VcpuThread { vcpu, id, exits, immediate_exit, thread });
        }
        Ok(all)
    }

    /// Lets all vCPUs run.
    pub fn run(&self) {
        self.gate.set(Wanted::Run);
    }

    /// Has all vCPUs stop until they are to [`run`](Self::run) again. Does not wait for it: see [`running`](Self::running).
    pub fn pause(&self) {
        self.gate.set(Wanted::Wait);
        kick_all(&self.threads, VcpuThread::kick);
    }

    /// How many vCPUs have not stopped yet.
    pub fn running(&self) -> usize {
        self.threads.len().saturating_sub(self.gate.wait_for(self.threads.len(), Duration::ZERO))
    }

    /// Ends all threads and waits for them. All are kicked before the first is waited for, so they end side by side.
    pub fn stop(&mut self) {
        self.gate.set(Wanted::End);
        kick_all(&self.threads, VcpuThread::kick);
        for thread in self.threads.drain(..) {
            let _ = thread.thread.join();
        }
    }

    /// Each vCPU and its thread.
    pub fn ids(&self) -> impl Iterator<Item = (VcpuId, i32)> + '_ {
        self.threads.iter().map(|thread| (thread.vcpu, thread.id.as_raw()))
    }

    /// Each vCPU and the counts of its exits.
    pub fn exits(&self) -> impl Iterator<Item = (VcpuId, Arc<ExitCounters>)> + '_ {
        self.threads.iter().map(|thread| (thread.vcpu, Arc::clone(&thread.exits)))
    }

    /// Changes where a vCPU's thread may run; `None` when there is no such vCPU.
    pub fn set_affinity(&self, vcpu: VcpuId, cpus: &CpuSet) -> Option<Result<(), HostError>> {
        let thread = self.threads.iter().find(|thread| thread.vcpu == vcpu)?;
        let set = kernel_cpus(cpus).and_then(|set| {
            sched_setaffinity(thread.id, &set).map_err(|e| HostError::new("sched_setaffinity", e))
        });
        Some(set.map_err(|error| error.of(format!("vCPU {vcpu} to CPUs {cpus}"))))
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl VcpuThread {
    /// Brings the thread out of KVM_RUN, now or if it is about to enter it; false if it has to be kicked again.
    fn kick(&self) -> bool {
        self.immediate_exit.set();
        interrupt(&self.thread)
    }
}

/// Kicks each thread once; again only those whose signal the kernel could not queue.
fn kick_all<T>(threads: &[T], kick: impl Fn(&T) -> bool) {
    let mut left: Vec<&T> = threads.iter().filter(|thread| !kick(thread)).collect();
    while !left.is_empty() {
        std::thread::sleep(SIGNAL_AGAIN);
        left.retain(|thread| !kick(thread));
    }
}

fn create(
    setup: &VcpuSetup,
    plan: &Plan,
    ram: &GuestRam,
    entry: Entry,
    id: VcpuId,
    vnode: VnodeId,
) -> Result<Vcpu, VcpuError> {
    accept_kicks()?;
    let at = plan.placement.vnodes.get(vnode.index());
    let placed = at.and_then(|at| Some((at.affinity, at.vcpus.get(&id)?)));
    match placed {
        Some((Affinity::Hard | Affinity::Soft, cpus)) => {
            pin_this_thread(cpus).map_err(|error| error.of(format!("vCPU {id} to CPUs {cpus}")))?;
        }
        Some((Affinity::None, _)) | None => {}
    }
    let vcpu = Vcpu::create(setup, plan, id)?;
    if id == VcpuId(0) {
        set_boot_registers(&vcpu.fd, entry, plan.cpus.max_apic_id(), ram)?;
    }
    Ok(vcpu)
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
