//! The thread of each vCPU: pinned first, then the vCPU is created, so that KVM's own pages for it are local too. It stays
//! over resets; between two guests it does what it is ordered.

use super::exits::ExitCounters;
use super::gate::{Gate, Wanted};
use super::vcpu::{StopCause, Vcpu, VcpuError, VcpuSetup};
use crate::boot::{Entry, set_boot_registers};
use crate::sys::{self, HostError, ImmediateExit, accept_kicks, interrupt, pin_this_thread};
use nix::unistd::{Pid, gettid};
use resources::{Affinity, ApicId, CpuSet, Plan, VcpuId, VnodeId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// The run loop and the devices behind it need a few KiB; untouched stack costs nothing.
const STACK: usize = 256 << 10;
/// How long until a signal that the kernel could not queue is sent again.
const SIGNAL_AGAIN: Duration = Duration::from_millis(1);

/// All vCPU threads of a VM, over all of its guests; dropping them ends them.
pub struct VcpuThreads {
    gate: Arc<Gate>,
    threads: Vec<VcpuThread>,
    rested: mpsc::Receiver<()>,
}

/// One of them.
struct VcpuThread {
    vcpu: VcpuId,
    id: Pid,
    exits: Arc<ExitCounters>,
    immediate_exit: Arc<ImmediateExit>,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

/// What a thread does while its vCPU has no guest.
enum Order {
    /// Has the vCPU as it was at power-on.
    Reset(mpsc::Sender<Result<(), VcpuError>>),
    /// Runs a guest.
    Begin(Guest, mpsc::Sender<Result<(), VcpuError>>),
}

/// What a vCPU runs with.
struct Guest {
    setup: Arc<VcpuSetup>,
    /// Of the vCPU that starts by itself.
    boot: Option<(Entry, ApicId)>,
    /// Hears when it stops by itself.
    stopped: Box<dyn Fn(StopCause) + Send>,
}

impl VcpuThreads {
    /// None.
    pub fn none() -> Self {
        Self { gate: Arc::new(Gate::new()), threads: Vec::new(), rested: mpsc::channel().1 }
    }

    /// Starts a thread per vCPU; returns when every vCPU exists and has its guest, see [`begin`](Self::begin). What they count
    /// they count in `exits`, where those that were there before them have counted.
    pub fn start(
        setup: &Arc<VcpuSetup>,
        plan: &Arc<Plan>,
        entry: Entry,
        exits: &mut BTreeMap<VcpuId, Arc<ExitCounters>>,
        stopped: impl Fn(StopCause) + Clone + Send + 'static,
    ) -> Result<Self, VcpuError> {
        let (rest, rested) = mpsc::channel();
        let mut all = Self { gate: Arc::new(Gate::new()), threads: Vec::new(), rested };
        for (vcpu, vnode) in plan.topology.vcpus() {
            let (created, result) = mpsc::channel();
            let (orders, to_do) = mpsc::channel();
            let (setup, plan) = (Arc::clone(setup), Arc::clone(plan));
            let (gate, rest) = (Arc::clone(&all.gate), rest.clone());
            let exits = Arc::clone(exits.entry(vcpu).or_default());
            let counters = Arc::clone(&exits);
            let body = move || {
                let vcpu = create(&setup, &plan, vcpu, vnode);
                drop((setup, plan));
                match vcpu {
                    Ok(vcpu) => {
                        let _ = created.send(Ok((gettid(), Arc::clone(&vcpu.immediate_exit))));
                        live(vcpu, to_do, &gate, &counters, &rest);
                    }
                    Err(error) => drop(created.send(Err(error))),
                }
            };
            let builder = std::thread::Builder::new().name(format!("vcpu{vcpu}")).stack_size(STACK);
            let died = |e: std::io::Error| HostError::new("clone", e).of(format!("vCPU {vcpu}"));
            let thread = builder.spawn(body).map_err(died)?;
            // One after the other: KVM takes them under one lock anyway.
            let (id, immediate_exit) = result.recv().map_err(|e| died(std::io::Error::other(e)))??;
            all.threads.push(VcpuThread { vcpu, id, exits, immediate_exit, orders, thread });
        }
        all.begin(setup, plan, entry, stopped)?;
        Ok(all)
    }

    /// Gives the vCPUs, which are at rest, their guest. None runs before [`Self::run`].
    ///
    /// `stopped` is called, from the vCPU's thread, when one stops by itself.
    pub fn begin(
        &mut self,
        setup: &Arc<VcpuSetup>,
        plan: &Plan,
        entry: Entry,
        stopped: impl Fn(StopCause) + Clone + Send + 'static,
    ) -> Result<(), VcpuError> {
        self.gate.set(Wanted::Wait);
        self.order(|vcpu, answer| {
            let boot = (vcpu == VcpuId(0)).then(|| (entry, plan.cpus.max_apic_id()));
            let stopped = Box::new(stopped.clone());
            Order::Begin(Guest { setup: Arc::clone(setup), boot, stopped }, answer)
        })
    }

    /// Ends their guest; the vCPUs are at rest then, and hold nothing of it.
    pub fn rest(&self) {
        self.gate.set(Wanted::End);
        kick_all(&self.threads, VcpuThread::kick);
        // One message each.
        for _ in &self.threads {
            let _ = self.rested.recv();
        }
    }

    /// Has the vCPUs, which are at rest, as they were at power-on.
    pub fn reset(&self) -> Result<(), VcpuError> {
        self.order(|_, answer| Order::Reset(answer))
    }

    /// Has all of them do something side by side, and waits for it.
    fn order(
        &self,
        order: impl Fn(VcpuId, mpsc::Sender<Result<(), VcpuError>>) -> Order,
    ) -> Result<(), VcpuError> {
        let (answer, answers) = mpsc::channel();
        for thread in &self.threads {
            // One that is gone gives no answer.
            let _ = thread.orders.send(order(thread.vcpu, answer.clone()));
        }
        drop(answer);
        let mut count = 0;
        for answer in &answers {
            answer?;
            count += 1;
        }
        if count < self.threads.len() {
            let gone = std::io::Error::other("a thread of a vCPU is gone");
            return Err(HostError::new("recv", gone).into());
        }
        Ok(())
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
        for VcpuThread { orders, thread, .. } in self.threads.drain(..) {
            drop(orders);
            let _ = thread.join();
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

    /// Changes where a vCPU's thread may run.
    pub fn set_affinity(&self, vcpu: VcpuId, cpus: &CpuSet) -> Result<(), HostError> {
        let set = self.thread(vcpu).and_then(|thread| sys::set_affinity(thread.id, cpus));
        set.map_err(|error| error.of(format!("vCPU {vcpu} to CPUs {cpus}")))
    }

    /// Where the kernel lets a vCPU's thread run.
    pub fn affinity(&self, vcpu: VcpuId) -> Result<CpuSet, HostError> {
        let cpus = self.thread(vcpu).and_then(|thread| sys::affinity(thread.id));
        cpus.map_err(|error| error.of(format!("vCPU {vcpu}")))
    }

    fn thread(&self, vcpu: VcpuId) -> Result<&VcpuThread, HostError> {
        let gone = || HostError::new("sched_setaffinity", io::Error::from_raw_os_error(libc::ESRCH));
        self.threads.iter().find(|thread| thread.vcpu == vcpu).ok_or_else(gone)
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

/// A vCPU's life: guest after guest, as it is ordered.
fn live(
    mut vcpu: Vcpu,
    orders: mpsc::Receiver<Order>,
    gate: &Gate,
    exits: &ExitCounters,
    rest: &mpsc::Sender<()>,
) {
    for order in orders {
        match order {
            Order::Reset(answer) => drop(answer.send(vcpu.reset().map_err(VcpuError::from))),
            Order::Begin(guest, answer) => {
                let _rest = Rest(rest);
                let ready = guest.boot.map_or(Ok(()), |(entry, max_apic_id)| {
                    set_boot_registers(&vcpu.fd, entry, max_apic_id, &guest.setup.ram)
                });
                let _ = answer.send(ready.map_err(VcpuError::from));
                drop(answer);
                run(&mut vcpu, guest, gate, exits);
            }
        }
    }
}

fn run(vcpu: &mut Vcpu, guest: Guest, gate: &Gate, exits: &ExitCounters) {
    if let Some(cause) = vcpu.run(&guest.setup, gate, exits) {
        (guest.stopped)(cause);
    }
}

/// Tells when a vCPU has nothing of its guest any more.
struct Rest<'a>(&'a mpsc::Sender<()>);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn create(setup: &VcpuSetup, plan: &Plan, id: VcpuId, vnode: VnodeId) -> Result<Vcpu, VcpuError> {
    accept_kicks()?;
    let at = plan.placement.vnodes.get(vnode.index());
    let placed = at.and_then(|at| Some((at.affinity, at.vcpus.get(&id)?)));
    match placed {
        Some((Affinity::Hard | Affinity::Soft, cpus)) => {
            pin_this_thread(cpus).map_err(|error| error.of(format!("vCPU {id} to CPUs {cpus}")))?;
        }
        // Only if it was sent elsewhere since the VM started.
        Some((Affinity::None, cpus)) if sys::affinity(Pid::from_raw(0))? != *cpus => {
            if let Err(error) = pin_this_thread(cpus) {
                tracing::warn!(%error, vcpu = %id, "vCPU not pinned");
            }
        }
        Some((Affinity::None, _)) | None => {}
    }
    Vcpu::create(setup, plan, id)
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
