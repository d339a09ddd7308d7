//! How other threads tell the control loop something. What it makes of it is `control`'s business.

use crate::cpu::StopCause;
use crate::handle::{Reply, Request};
use crate::placement::{MoveEnd, ThreadsLeftBehind};
use crate::sys::HostError;
use devices::{PowerRequest, PowerSink};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the loop hears from other threads.
#[derive(Debug)]
pub enum Event {
    /// The user typed the escape.
    Quit,
    /// A vCPU stopped by itself.
    Vcpu(StopCause),
    /// Somebody asks for something.
    Request(Request, Reply),
    /// The memory of vnodes was moved; the reply comes when their threads have followed, and says which could not.
    MovesEnded(Vec<MoveEnd>, mpsc::SyncSender<ThreadsLeftBehind>),
    /// The guest uses memory that is not claimed, and stands still; or it may go on.
    HoldStill(bool),
}

/// How other threads tell the loop something.
#[derive(Clone)]
pub struct Notifier {
    sender: mpsc::Sender<Event>,
    wake: Arc<EventFd>,
    power: Arc<AtomicU8>,
}

/// Bits of what the guest wants.
const POWER_OFF: u8 = 1 << 0;
const RESET: u8 = 1 << 1;

impl Notifier {
    /// Tells the loop; after its end nobody listens.
    pub fn send(&self, event: Event) {
        let _ = self.sender.send(event);
        self.wake();
    }

    fn wake(&self) {
        // Cannot block: the counter would have to be at 2^64 - 2.
        let _ = self.wake.write(1);
    }
}

/// A guest may ask as often as it likes: what it asked already costs nothing.
impl PowerSink for Notifier {
    fn request(&self, request: PowerRequest) {
        let bit = match request {
            PowerRequest::PowerOff => POWER_OFF,
            PowerRequest::Reset => RESET,
        };
        if self.power.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.wake();
        }
    }
}

/// The receiving end, before the machine exists.
pub struct Inbox {
    events: mpsc::Receiver<Event>,
    notifier: Notifier,
}

impl Inbox {
    /// A new inbox and what to tell it with.
    pub fn new() -> Result<(Self, Notifier), HostError> {
        let (sender, events) = mpsc::channel();
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(|e| HostError::new("eventfd", e))?);
        let notifier = Notifier { sender, wake, power: Arc::default() };
        Ok((Self { events, notifier: notifier.clone() }, notifier))
    }

    /// Readable when something came.
    pub fn wake(&self) -> &EventFd {
        &self.notifier.wake
    }

    /// The next event, if there is one.
    pub fn next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Nobody takes events any more: those who wait for a reply hear that.
    pub fn close(&mut self) {
        self.events = mpsc::channel().1;
    }

    /// Whether the guest asked for power off since the last call, and whether for a reset.
    pub fn take_power(&self) -> (bool, bool) {
        let power = self.notifier.power.swap(0, Ordering::AcqRel);
        (power & POWER_OFF != 0, power & RESET != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Inbox;
    use devices::{PowerRequest, PowerSink};

    #[test]
    fn a_guest_that_asks_for_power_off_all_the_time_fills_nothing() {
        let (inbox, notifier) = Inbox::new().unwrap();
        for _ in 0..100_000 {
            notifier.request(PowerRequest::Reset);
            notifier.request(PowerRequest::PowerOff);
        }
        assert!(inbox.next().is_none());
        assert_eq!(inbox.wake().read().unwrap(), 2);
        assert_eq!(inbox.take_power(), (true, true));
        assert_eq!(inbox.take_power(), (false, false));
        notifier.request(PowerRequest::Reset);
        assert_eq!((inbox.wake().read().unwrap(), inbox.take_power()), (1, (false, true)));
    }
}
