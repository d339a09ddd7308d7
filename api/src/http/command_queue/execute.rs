//! Carries out accepted commands, one at a time, in the thread of the queue.

use super::{CommandQueue, Current, Done, Outcome, Task};
use crate::http::admission::{Command, Denial, State};
use crate::http::problem::Problem;
use crate::start::{StartError, StartOptions, prepare};
use resources::{VmDevices, VmSpec, VmTopology, VnodeCount};
use serde_json::json;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm::Request;

/// Retry interval for stopping a VM that is starting: it accepts no requests before it runs.
const ASK_AGAIN: Duration = Duration::from_millis(20);

impl CommandQueue {
    pub(super) fn execute(self: &Arc<Self>, task: Task) -> Outcome {
        match task {
            Task::Define(spec) => self.define(*spec),
            Task::Boot => self.boot(),
            Task::Pause => self.send(Request::Pause),
            Task::Resume => self.send(Request::Resume),
            Task::Shutdown => self.send(Request::PowerButton),
            Task::Reset => self.send(Request::Reset),
            Task::Delete => self.delete(),
            Task::Affinity(vcpu, cpus) => {
                self.send(Request::Affinity(vcpu, cpus.clone()))?;
                self.events.add("affinity", json!({"vcpu": vcpu, "cpus": cpus}));
                Ok(Done::So)
            }
        }
    }

    fn send(&self, request: Request) -> Outcome {
        self.handle(Command::Look)?.ask(request)?;
        Ok(Done::So)
    }

    fn define(&self, spec: VmSpec) -> Outcome {
        let topology = check(&spec)?;
        let vm = Current {
            spec: Arc::new(spec),
            topology: Arc::new(topology),
            handle: None,
            thread: None,
            end: None,
        };
        let before = self.lock().vm.replace(vm);
        self.set_state(State::Defined, None);
        match before {
            Some(before) => {
                join(before.thread);
                Ok(Done::So)
            }
            None => Ok(Done::Created),
        }
    }

    fn boot(self: &Arc<Self>) -> Outcome {
        let (spec, before) = match &mut self.lock().vm {
            Some(vm) => (Arc::clone(&vm.spec), vm.thread.take()),
            None => return Err(Denial::NoVm.into()),
        };
        join(before);
        let options = StartOptions {
            progress: Some(self.prefault()),
            observer: Some(self.observer()),
            signals: vmm::Signals::Caller,
            shutdown_timeout: None,
            claims: self.claims.clone(),
            cleanup: self.cleanup.clone(),
            force_host: self.force_host,
        };
        let vm = prepare(spec.as_ref().clone(), options)?;
        let handle = vm.handle();
        self.put(|current| {
            current.handle = Some(handle);
            current.end = None;
        });
        self.set_state(State::Starting, None);
        let commands = Arc::clone(self);
        let thread = std::thread::Builder::new().name("vm".to_owned()).spawn(move || {
            let result = vm.run();
            commands.ended(&result);
        });
        match thread {
            Ok(thread) => {
                self.put(|current| current.thread = Some(thread));
                Ok(Done::So)
            }
            Err(error) => {
                self.put(|current| current.handle = None);
                self.set_state(State::Defined, None);
                Err(vmm::HostError::new("clone", error).of("the VM").into())
            }
        }
    }

    fn put(&self, change: impl FnOnce(&mut Current)) {
        if let Some(vm) = &mut self.lock().vm {
            change(vm);
        }
    }

    fn delete(&self) -> Outcome {
        self.end()?;
        let vm = self.lock().vm.take();
        if let Some(vm) = vm {
            join(vm.thread);
        }
        self.set_state(State::Absent, None);
        Ok(Done::So)
    }

    /// Ends the VM if it runs, and waits until it is over, if it is this process that runs it.
    pub(super) fn end(&self) -> Result<(), Problem> {
        let mut inner = self.lock();
        loop {
            let handle = inner.vm.as_ref().and_then(|vm| vm.handle.clone());
            let ours = inner.vm.as_ref().is_some_and(|vm| vm.thread.is_some());
            match (inner.queue.state(), handle) {
                (State::Absent | State::Defined | State::Stopped, _) | (_, None) => return Ok(()),
                (State::Starting | State::Running | State::Paused, Some(handle)) => {
                    drop(inner);
                    match handle.ask(Request::Stop) {
                        Ok(_) if !ours => return Ok(()),
                        // It takes no requests while it starts, or ended by itself just now.
                        Ok(_) | Err(vmm::RequestError::State { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                    inner = self.lock();
                }
            }
            inner = self.changed.wait_timeout(inner, ASK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Validates a configuration, independent of the host.
pub fn check(spec: &VmSpec) -> Result<VmTopology, Problem> {
    let topology = VmTopology::try_from(spec)?;
    // How many vnodes there will be, `auto` decides when it is started.
    if !(spec.vnodes == Some(VnodeCount::Auto) && spec.numa.is_empty()) {
        VmDevices::of(spec, &topology)?;
    }
    match spec.kernel {
        Some(_) => Ok(topology),
        None => Err(StartError::NoKernel.into()),
    }
}

pub(super) fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // It ended, or is about to: its VM is over.
        let _ = thread.join();
    }
}
