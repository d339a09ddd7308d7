//! The command queue: commands for the whole VM are accepted or rejected here, and carried out one at a time by one
//! thread. `admission` has the rules.

mod execute;

pub use execute::check;

use crate::claims::ClaimsAt;
use crate::http::admission::{Admission, Command, Denial, Queue, State, Ticket, Verdict, verdict};
use crate::http::events::EventLog;
use crate::http::problem::Problem;
use crate::http::{convert, wire};
use execute::join;
use resources::{Bytes, CpuSet, VcpuId, VmSpec, VmTopology};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vmm::{Exit, Janitor, Request, VmHandle, VmView};

/// Interval of prefault events.
const PREFAULT_TICK: Duration = Duration::from_millis(250);

/// A queued command with its arguments.
#[derive(Debug)]
pub enum Task {
    /// Describe the VM.
    Define(Box<VmSpec>),
    /// Start it.
    Boot,
    /// Pause all vCPUs.
    Pause,
    /// Resume all vCPUs.
    Resume,
    /// Press the power button.
    Shutdown,
    /// Reset the guest.
    Reset,
    /// Stop and delete it.
    Delete,
    /// Set the affinity of a vCPU.
    Affinity(VcpuId, CpuSet),
}

impl Task {
    fn command(&self) -> Command {
        match self {
            Self::Define(_) => Command::Define,
            Self::Boot => Command::Boot,
            Self::Pause => Command::Pause,
            Self::Resume => Command::Resume,
            Self::Shutdown => Command::Shutdown,
            Self::Reset => Command::Reset,
            Self::Delete => Command::Delete,
            Self::Affinity(..) => Command::Affinity,
        }
    }
}

/// The outcome of a command.
type Outcome = Result<Done, Problem>;

/// The result of a successful command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Done, or nothing to do.
    So,
    /// A VM was created.
    Created,
}

/// Whether there is a guest to notify of the power button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It starts, runs or is paused.
    GuestMayAnswer,
    /// It does not run.
    NoGuest,
}

/// The VM.
struct Current {
    spec: Arc<VmSpec>,
    topology: Arc<VmTopology>,
    handle: Option<VmHandle>,
    /// `None` if another thread of the program runs it.
    thread: Option<JoinHandle<()>>,
    end: Option<wire::End>,
}

struct Inner {
    queue: Queue,
    tasks: BTreeMap<Ticket, (Task, Vec<oneshot::Sender<Outcome>>)>,
    vm: Option<Current>,
    closed: bool,
}

/// The queue.
pub struct CommandQueue {
    inner: Mutex<Inner>,
    changed: Condvar,
    events: Arc<EventLog>,
    /// The claims directory.
    pub claims: ClaimsAt,
    /// Socket cleanup, if this process is killed.
    cleanup: Janitor,
    /// Start Linux also where KVM has no hardware virtualization.
    pub force_host: bool,
    /// Called when the VM or a job changes.
    notify: Box<dyn Fn() + Send + Sync>,
}

impl CommandQueue {
    /// A queue without a VM. `notify` is called whenever the VM or one of its jobs changes, and must return at once.
    pub fn new(
        events: Arc<EventLog>,
        claims: ClaimsAt,
        cleanup: Janitor,
        force_host: bool,
        notify: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let inner =
            Inner { queue: Queue::new(State::Absent), tasks: BTreeMap::new(), vm: None, closed: false };
        Arc::new(Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            events,
            claims,
            cleanup,
            force_host,
            notify: Box::new(notify),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts a VM that its owner runs; the owner calls [`Self::ended`] at its end.
    pub fn adopt(&self, spec: VmSpec, handle: VmHandle) {
        let topology = Arc::new(handle.plan().topology.clone());
        let vm = Current { spec: Arc::new(spec), topology, handle: Some(handle), thread: None, end: None };
        self.lock().vm = Some(vm);
        self.set_state(State::Starting, None);
    }

    /// An observer for `vmm`, which emits events.
    pub fn observer(self: &Arc<Self>) -> Box<dyn vmm::Observer> {
        Box::new(Observer(Arc::clone(self)))
    }

    /// The VM ended for good.
    pub fn ended(&self, result: &Result<Exit, vmm::Error>) {
        let end = convert::end(result);
        if let Some(vm) = &mut self.lock().vm {
            vm.end = Some(end.clone());
        }
        self.set_state(State::Stopped, Some(&end));
    }

    /// A progress observer for `vmm`, which emits prefault events.
    fn prefault(&self) -> Box<dyn vmm::Progress> {
        Box::new(Prefault { events: Arc::clone(&self.events), last: Instant::now() })
    }

    fn set_state(&self, state: State, end: Option<&wire::End>) {
        let mut inner = self.lock();
        let changed = inner.queue.state() != state;
        inner.queue.set_state(state);
        drop(inner);
        self.changed.notify_all();
        if changed {
            let name = wire_state(state).map_or("absent", wire::VmState::name);
            let end = end.map(|end| json!({"state": name, "end": end}));
            self.events.add("vm_state", end.unwrap_or_else(|| json!({ "state": name })));
        }
        (self.notify)();
    }

    /// Queues a task and waits until it is done, or rejects it.
    pub async fn ask(&self, task: Task) -> Outcome {
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.lock();
            if inner.closed {
                return Err(Problem::unavailable("ending", "this process is shutting down"));
            }
            match inner.queue.submit(task.command()) {
                Admission::AlreadySo => return Ok(Done::So),
                Admission::Deny(denial) => return Err(denial.into()),
                Admission::Join(ticket) => {
                    if let Some((_, replies)) = inner.tasks.get_mut(&ticket) {
                        replies.push(reply);
                    }
                }
                Admission::Wait(ticket) => {
                    inner.tasks.insert(ticket, (task, vec![reply]));
                }
            }
        }
        self.changed.notify_all();
        answer.await.unwrap_or_else(|_| Err(Problem::unavailable("ending", "this process is shutting down")))
    }

    /// Carries out queued tasks until the queue is closed.
    pub fn work(self: &Arc<Self>) {
        loop {
            let mut inner = self.lock();
            let (ticket, verdict) = loop {
                match inner.queue.first() {
                    _ if inner.closed => return,
                    Some((ticket, _, verdict)) => break (ticket, verdict),
                    None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                }
            };
            // Stays in the queue, so that what comes now is judged by how this ends; others may join it.
            let task = inner.tasks.get_mut(&ticket).map(|(task, _)| std::mem::replace(task, Task::Pause));
            drop(inner);
            let outcome = match (verdict, task) {
                (Verdict::Do, Some(task)) => self.execute(task),
                (Verdict::Deny(denial), _) => Err(denial.into()),
                (Verdict::AlreadySo, _) | (_, None) => Ok(Done::So),
            };
            let mut inner = self.lock();
            inner.queue.finish_first();
            let replies = inner.tasks.remove(&ticket).map(|(_, replies)| replies);
            drop(inner);
            for reply in replies.into_iter().flatten() {
                // The client may have disconnected.
                let _ = reply.send(outcome.clone());
            }
        }
    }

    /// The running VM, if the command is allowed now.
    pub fn handle(&self, command: Command) -> Result<VmHandle, Problem> {
        let inner = self.lock();
        if let Verdict::Deny(denial) = verdict(inner.queue.state(), command) {
            return Err(denial.into());
        }
        let handle = inner.vm.as_ref().and_then(|vm| vm.handle.clone());
        handle.ok_or_else(|| Denial::NotRunning.into())
    }

    /// The running VM, or the last one that was not deleted.
    pub fn last_handle(&self) -> Option<VmHandle> {
        self.lock().vm.as_ref().and_then(|vm| vm.handle.clone())
    }

    /// The configuration.
    pub fn spec(&self) -> Result<Arc<VmSpec>, Problem> {
        self.lock().vm.as_ref().map(|vm| Arc::clone(&vm.spec)).ok_or_else(|| Denial::NoVm.into())
    }

    /// The state of the VM, if there is one.
    pub fn state(&self) -> Option<wire::VmState> {
        wire_state(self.lock().queue.state())
    }

    /// The VM as a wire type.
    pub fn vm(&self) -> Result<wire::Vm, Problem> {
        let inner = self.lock();
        let (Some(vm), Some(state)) = (&inner.vm, wire_state(inner.queue.state())) else {
            return Err(Denial::NoVm.into());
        };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(wire::Vm {
            state,
            end: vm.end.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            memory: vm.topology.memory().get(),
            vcpus: count(vm.topology.vcpu_count()),
            vnodes: count(vm.topology.vnodes().len()),
            spec: vm.spec.as_ref().clone(),
        })
    }

    /// Presses the power button, if there is a guest.
    pub fn press_power_button(&self) -> bool {
        let handle = self.handle(Command::Shutdown);
        handle.is_ok_and(|handle| handle.ask(Request::PowerButton).is_ok())
    }

    /// Waits until `over` returns a value; it is called on every change and on [`Self::wake`].
    pub fn wait_until<T>(&self, over: impl Fn(Standing) -> Option<T>) -> T {
        let mut inner = self.lock();
        loop {
            let standing = match inner.queue.state() {
                State::Absent | State::Defined | State::Stopped => Standing::NoGuest,
                State::Starting | State::Running | State::Paused => Standing::GuestMayAnswer,
            };
            if let Some(over) = over(standing) {
                return over;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes waiting threads.
    pub fn wake(&self) {
        let _inner = self.lock();
        self.changed.notify_all();
    }

    /// Closes the queue, and ends a VM that it runs.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        let ours = self.lock().vm.as_ref().is_some_and(|vm| vm.thread.is_some());
        if ours && self.end().is_ok() {
            let thread = self.lock().vm.as_mut().and_then(|vm| vm.thread.take());
            join(thread);
        }
    }
}

fn wire_state(state: State) -> Option<wire::VmState> {
    match state {
        State::Absent => None,
        State::Defined => Some(wire::VmState::Defined),
        State::Starting => Some(wire::VmState::Starting),
        State::Running => Some(wire::VmState::Running),
        State::Paused => Some(wire::VmState::Paused),
        State::Stopped => Some(wire::VmState::Stopped),
    }
}

struct Observer(Arc<CommandQueue>);

impl vmm::Observer for Observer {
    fn view(&self, view: &VmView) {
        match view.state {
            vmm::VmState::Starting => self.0.set_state(State::Starting, None),
            vmm::VmState::Running => self.0.set_state(State::Running, None),
            vmm::VmState::Paused => self.0.set_state(State::Paused, None),
            // Ended for good, or about to reset: its owner knows.
            vmm::VmState::Ended => (self.0.notify)(),
        }
    }

    fn job(&self, job: &vmm::JobView) {
        self.0.events.add("job", json!({"job": convert::job(job)}));
        (self.0.notify)();
    }

    fn balloon(&self, memory: &vmm::balloon::VnodeMemory) {
        self.0.events.add("balloon", convert::balloon_event(memory));
        (self.0.notify)();
    }

    fn host_short(&self, short: &vmm::balloon::HostShort) {
        self.0.events.add("host_short", convert::host_short_event(short));
        (self.0.notify)();
    }

    fn disk_full(&self, full: &vmm::DiskFull) {
        self.0.events.add("disk_full", convert::disk_full_event(full));
    }
}

/// Emits prefault events, periodically and at the end.
struct Prefault {
    events: Arc<EventLog>,
    last: Instant,
}

impl vmm::Progress for Prefault {
    fn prefault(&mut self, done: Bytes, total: Bytes) {
        if done == total || self.last.elapsed() >= PREFAULT_TICK {
            self.last = Instant::now();
            self.events.add("prefault", json!({"done": done, "total": total}));
        }
    }
}
