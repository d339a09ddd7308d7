//! The control loop: the one place where a VM's state changes. vCPUs, signals, and those who ask tell it things; it
//! decides when the VM ends and why. It waits for events and for nothing else: whatever may take a while is a job's, the
//! serial port's thread's, or done by whoever asks.

use crate::Exit;
use crate::cpu::{StopCause, VcpuError};
use crate::handle::{Answer, Reply, Request, Shared};
use crate::host_side::HostSide;
use crate::inbox::{Event, Inbox};
use crate::running::Running;
use crate::sys::{HostError, block_signals, is_ignored};
use devices::Power;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the loop works with.
pub struct Control {
    inbox: Inbox,
    signals: Option<SignalFd>,
    power: Arc<Mutex<Power>>,
    vm: Running,
    asked_to_power_off: bool,
    /// How long the guest may take to do so after a signal.
    shutdown_timeout: Option<Duration>,
    /// Knows when it has to be off, whether it starts again meanwhile or not.
    shared: Arc<Shared>,
    end: Option<End>,
}

type End = Result<Exit, VcpuError>;

const WAKE: u32 = 0;
const SIGNAL: u32 = 1;

/// Leaves the end signals to the control loop, in this thread and all that it starts from now on. Until then they end
/// the process at once, which leaves nothing behind.
pub fn take_over_signals() -> Result<SignalFd, HostError> {
    let signals = end_signals();
    block_signals(&signals)?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&signals, flags).map_err(|e| HostError::new("signalfd", e))
}

/// The signals that ask a VM to end: those of SIGTERM, SIGINT and SIGHUP that whoever started this process does not want
/// ignored, as `nohup` does a hangup.
pub fn end_signals() -> SigSet {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    signals.into_iter().filter(|signal| !is_ignored(*signal)).collect()
}

/// Which of several ends that come at once counts, the highest: what a user wants before what went wrong, and that before
/// what the guest wants. A stop that was answered is not lost against a guest that resets itself meanwhile.
fn rank(end: &End) -> u8 {
    match end {
        Ok(Exit::Killed | Exit::Quit) => 4,
        Err(_) => 3,
        Ok(Exit::TripleFault { .. }) => 2,
        Ok(Exit::PowerOff) => 1,
        Ok(Exit::Reset) => 0,
    }
}

/// The one that counts of what there was and what comes.
fn higher(first: Option<End>, second: End) -> End {
    match first {
        Some(first) if rank(&first) >= rank(&second) => first,
        Some(_) | None => second,
    }
}

impl Control {
    /// Answers the end signals if it is given them.
    pub fn new(
        inbox: Inbox,
        signals: Option<SignalFd>,
        shutdown_timeout: Option<Duration>,
        shared: &Arc<Shared>,
        power: Arc<Mutex<Power>>,
        vm: Running,
    ) -> Self {
        let (asked_to_power_off, shared, end) = (false, Arc::clone(shared), None);
        Self { inbox, signals, power, vm, asked_to_power_off, shutdown_timeout, shared, end }
    }

    /// Runs until the VM ends, then ends its threads. After a reset, what it has of the host is for the next machine.
    pub fn run(mut self) -> Result<(Exit, Option<HostSide>), RunError> {
        self.vm.start();
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
            let left = control.time_left(Instant::now());
            if left == Some(Duration::ZERO) {
                tracing::warn!("the guest did not power off in time, killing the VM");
                control.finish(Ok(Exit::Killed));
            }
            if let Some(end) = control.end.take() {
                // Before threads are waited for that wait for this one.
                control.inbox.close();
                let exit = end?;
                let host = if matches!(exit, Exit::Reset) { control.vm.end_for_next() } else { None };
                return Ok((exit, host));
            }
            let after = control.vm.look().into_iter().chain(left).min();
            // Whole milliseconds, not before the time.
            let millis =
                |after: Duration| i32::try_from(after.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            timeout = after.map_or(-1, millis);
        }
    }

    /// How long the guest still has to power off, if there is an end to it.
    fn time_left(&self, now: Instant) -> Option<Duration> {
        self.shared.deadline().map(|deadline| deadline.saturating_duration_since(now))
    }

    fn finish(&mut self, end: End) {
        self.end = Some(higher(self.end.take(), end));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Quit => self.finish(Ok(Exit::Quit)),
            Event::Vcpu(StopCause::Shutdown) => self.finish(Ok(Exit::PowerOff)),
            Event::Vcpu(StopCause::Reset) => self.finish(Ok(Exit::Reset)),
            Event::Vcpu(StopCause::TripleFault(vcpu, state)) => {
                self.finish(Ok(Exit::TripleFault { vcpu, state }))
            }
            Event::Vcpu(StopCause::Failed(error)) => self.finish(Err(error)),
            Event::Request(request, reply) => {
                // Nobody waits any more for one that was given up, and it must not be done.
                if reply.take() {
                    self.answer(request, reply);
                }
            }
            Event::MovesEnded(ends, reply) => {
                let _ = reply.send(self.vm.memory_moved(&ends));
            }
            Event::HoldStill(hold) => self.vm.hold_still(hold),
        }
    }

    fn answer(&mut self, request: Request, reply: Reply) {
        let answer = match request {
            Request::Pause => return self.vm.pause(reply),
            Request::Resume => self.vm.resume(),
            Request::MemoryTarget { vnode, keep, exact } => self.vm.set_memory_target(vnode, keep, exact),
            Request::Reclaim(order) => self.vm.start_reclaim(order),
            Request::Affinity(vcpu, cpus) => self.vm.set_affinity(vcpu, cpus),
            Request::Rehome(place) => self.vm.rehome(*place),
            Request::Move { to, mode, bandwidth } => self.vm.start_moves(to, mode, bandwidth),
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
        };
        reply.send(answer);
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
            tracing::info!(
                signal = signal.ssi_signo,
                "requesting guest power-off; a second signal kills the VM"
            );
            self.asked_to_power_off = true;
            if let Some(deadline) = self.shutdown_timeout.and_then(|it| Instant::now().checked_add(it)) {
                self.shared.power_off_by(deadline);
            }
            self.press_power_button();
        }
    }
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
                match self.inbox.take_power() {
                    (true, _) => self.finish(Ok(Exit::PowerOff)),
                    (false, true) => self.finish(Ok(Exit::Reset)),
                    (false, false) => {}
                }
                while let Some(event) = self.inbox.next() {
                    self.handle(event);
                }
            }
            SIGNAL => self.take_signals(),
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

#[cfg(test)]
mod tests {
    use super::{End, higher, rank};
    use crate::Exit;
    use crate::sys::HostError;
    use resources::VcpuId;

    #[test]
    fn whatever_comes_first_the_highest_end_counts() {
        let ends: [fn() -> End; 5] = [
            || Ok(Exit::Reset),
            || Ok(Exit::PowerOff),
            || Ok(Exit::TripleFault { vcpu: VcpuId(0), state: Box::default() }),
            || Err(HostError::new("KVM_RUN", std::io::Error::other("broken")).into()),
            || Ok(Exit::Killed),
        ];
        for (at, first) in ends.iter().enumerate() {
            for (then, second) in ends.iter().enumerate() {
                let counts = higher(Some(higher(None, first())), second());
                assert_eq!(rank(&counts), rank(&ends[at.max(then)]()), "{at} {then}");
            }
        }
        assert!(matches!(higher(Some(Ok(Exit::Quit)), Ok(Exit::Killed)), Ok(Exit::Quit)));
    }
}
