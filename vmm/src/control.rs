//! The control loop: the one place where a VM's state changes. vCPUs, signals, the terminal and the serial port tell
//! it things; it decides when the VM ends and why.

use crate::Exit;
use crate::cpu::{StopCause, VcpuError};
use crate::handle::{Answer, Request, RequestError};
use crate::inbox::{Event, Inbox};
use crate::running::Running;
use crate::serial_port::{Input, RawTerminal};
use crate::sys::{HostError, block_signals};
use devices::{Power, PowerRequest, Serial};
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// How soon waiting serial output is written, and a busy serial port asked again.
const SERIAL_SOON_MS: i32 = 5;

/// What the loop works with.
pub struct Control {
    inbox: Inbox,
    signals: Option<SignalFd>,
    serial: Arc<Mutex<Serial>>,
    power: Arc<Mutex<Power>>,
    vm: Running,
    stdin: Option<Input>,
    stdin_polls: bool,
    stdin_watched: bool,
    asked_to_power_off: bool,
    end: Option<Result<Exit, VcpuError>>,
}

const WAKE: u32 = 0;
const SIGNAL: u32 = 1;
const STDIN: u32 = 2;

/// Leaves the end signals to the control loop, in this thread and all that it starts from now on. Until then they end
/// the process at once, which leaves nothing behind.
pub fn take_over_signals() -> Result<SignalFd, HostError> {
    block_signals(&end_signals())?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&end_signals(), flags).map_err(|e| HostError::new("signalfd", e))
}

/// The signals that ask a VM to end.
fn end_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

impl Control {
    /// Answers the end signals if it is given them, and has standard input if the guest's serial port is to have it.
    pub fn new(
        inbox: Inbox,
        signals: Option<SignalFd>,
        serial: Arc<Mutex<Serial>>,
        power: Arc<Mutex<Power>>,
        vm: Running,
        stdio: bool,
    ) -> Self {
        Self {
            inbox,
            signals,
            serial,
            power,
            vm,
            stdin: stdio.then(Input::new),
            stdin_polls: true,
            stdin_watched: false,
            asked_to_power_off: false,
            end: None,
        }
    }

    /// Runs until the VM ends, then ends its threads. `stopping` is set in between: it lets writers go that wait for a
    /// slow reader.
    pub fn run(mut self, stopping: &AtomicBool) -> Result<Exit, RunError> {
        self.vm.start();
        let _raw = self.stdin.is_some().then(RawTerminal::enter).flatten();
        let fail =
            |call| move |e: event_manager::Error| HostError::new(call, std::io::Error::other(e.to_string()));
        let mut manager = EventManager::<Self>::new().map_err(fail("epoll_create1"))?;
        let id = manager.add_subscriber(self);
        let mut timeout = 0;
        loop {
            match manager.run_with_timeout(timeout) {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                Err(error) => return Err(fail("epoll_wait")(error).into()),
            }
            let control = manager.subscriber_mut(id).map_err(fail("epoll_wait"))?;
            if let Some(end) = control.end.take() {
                stopping.store(true, Ordering::Relaxed);
                return Ok(end?);
            }
            timeout = if control.serve_serial() { SERIAL_SOON_MS } else { -1 };
            let change = control.stdin_change();
            if let Some(watch) = change {
                let ops = &mut manager.event_ops(id).map_err(fail("epoll_ctl"))?;
                let watched = watch_stdin(ops, watch);
                manager.subscriber_mut(id).map_err(fail("epoll_wait"))?.stdin_is(watched);
            }
        }
    }

    fn finish(&mut self, end: Result<Exit, VcpuError>) {
        self.end.get_or_insert(end);
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Power(PowerRequest::PowerOff) | Event::Vcpu(StopCause::Shutdown) => {
                self.finish(Ok(Exit::PowerOff))
            }
            Event::Power(PowerRequest::Reset) | Event::Vcpu(StopCause::Reset) => self.finish(Ok(Exit::Reset)),
            Event::Vcpu(StopCause::TripleFault(vcpu, rip)) => {
                self.finish(Ok(Exit::TripleFault { vcpu, rip }))
            }
            Event::Vcpu(StopCause::Failed(error)) => self.finish(Err(error)),
            Event::Request(request, reply) => {
                // Who asked may have gone away.
                let _ = reply.send(self.answer(request));
            }
            Event::Landed(landed, reply) => {
                let _ = reply.send(self.vm.landed(landed));
            }
        }
    }

    fn answer(&mut self, request: Request) -> Result<Answer, RequestError> {
        match request {
            Request::Pause => self.vm.pause(),
            Request::Resume => self.vm.resume(),
            Request::ResizeDisk { disk, size } => self.vm.resize_disk(disk, size),
            Request::MemoryTarget { vnode, keep, exact } => self.vm.set_memory_target(vnode, keep, exact),
            Request::Reclaim(order) => self.vm.start_reclaim(order),
            Request::Affinity(vcpu, cpus) => self.vm.set_affinity(vcpu, cpus),
            Request::Rehome(place) => self.vm.rehome(*place),
            Request::Move { to, manner, bandwidth } => self.vm.start_moves(to, manner, bandwidth),
            Request::PowerButton => {
                self.press_power_button();
                Ok(Answer::Done)
            }
            Request::Stop => {
                self.finish(Ok(Exit::Killed));
                Ok(Answer::Done)
            }
            Request::Reset => {
                self.vm.ask_restart();
                self.finish(Ok(Exit::Reset));
                Ok(Answer::Done)
            }
        }
    }

    fn press_power_button(&self) {
        let power = self.power.lock();
        if let Err(error) = power.unwrap_or_else(PoisonError::into_inner).press_power_button() {
            tracing::error!(%error, "power button");
        }
    }

    fn take_signals(&mut self) {
        while let Some(Ok(Some(signal))) = self.signals.as_ref().map(SignalFd::read_signal) {
            if self.asked_to_power_off {
                return self.finish(Ok(Exit::Killed));
            }
            tracing::info!(signal = signal.ssi_signo, "asking the guest to power off, once more stops it");
            self.asked_to_power_off = true;
            self.press_power_button();
        }
    }

    /// Hands input over and writes waiting output; true when it has to look again soon. A vCPU that waits for a slow
    /// reader of the output holds the port, and the loop must not wait for it.
    fn serve_serial(&mut self) -> bool {
        let flag = self.inbox.serial_output();
        let waiting = self.stdin.as_ref().is_some_and(Input::has_waiting);
        let output = flag.load(Ordering::Acquire);
        if !output && !waiting {
            return false;
        }
        let mut serial = match self.serial.try_lock() {
            Ok(serial) => serial,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return true,
        };
        if let Some(input) = self.stdin.as_mut().filter(|input| input.has_waiting()) {
            // What does not fit waits for `input_room`.
            input.give(|bytes| serial.enqueue(bytes));
        }
        if output && flag.swap(false, Ordering::AcqRel) {
            serial.flush();
        }
        false
    }

    /// Standard input is watched while there is room for what it brings: whether that has to change.
    fn stdin_change(&self) -> Option<bool> {
        let want = self.stdin_polls && self.stdin.as_ref().is_some_and(Input::hungry);
        (want != self.stdin_watched).then_some(want)
    }

    fn stdin_is(&mut self, watched: Option<bool>) {
        match watched {
            Some(watched) => self.stdin_watched = watched,
            // A regular file is always readable and cannot be watched: read what fits, whenever there is room.
            None => {
                self.stdin_polls = false;
                self.inbox.look_again();
            }
        }
    }

    fn read_stdin(&mut self) {
        if self.stdin.as_mut().is_some_and(|input| input.hungry() && input.read()) {
            self.finish(Ok(Exit::Quit));
        }
    }
}

/// Whether standard input is watched now; `None` if it cannot be.
fn watch_stdin(ops: &mut EventOps, watch: bool) -> Option<bool> {
    let events = Events::with_data(&std::io::stdin(), STDIN, EventSet::IN);
    let result = if watch { ops.add(events) } else { ops.remove(events) };
    result.is_ok().then_some(watch)
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps) {
        let wake = Events::with_data(self.inbox.wake(), WAKE, EventSet::IN);
        let signal =
            self.signals.as_ref().map(|fd| Events::with_data_raw(fd.as_raw_fd(), SIGNAL, EventSet::IN));
        for events in std::iter::once(wake).chain(signal) {
            if let Err(error) = ops.add(events) {
                let error = HostError::new("epoll_ctl", std::io::Error::other(error.to_string()));
                self.finish(Err(error.into()));
            }
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        match events.data() {
            WAKE => {
                let _ = self.inbox.wake().read();
                while let Some(event) = self.inbox.next() {
                    self.hear(event);
                }
                if !self.stdin_polls {
                    self.read_stdin();
                }
            }
            SIGNAL => self.take_signals(),
            STDIN => self.read_stdin(),
            _ => {}
        }
    }
}

/// Why the loop could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A vCPU could not go on.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}
