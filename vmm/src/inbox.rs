//! How other threads tell the control loop something. What it makes of it is `control`'s business.

use crate::cpu::StopCause;
use crate::handle::{Reply, Request};
use crate::sys::HostError;
use devices::{PowerRequest, PowerSink, SerialHost};
use resources::{VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the loop hears from other threads.
#[derive(Debug)]
pub enum Event {
    /// The guest wants power off or reset.
    Power(PowerRequest),
    /// A vCPU stopped by itself.
    Vcpu(StopCause),
    /// Somebody asks for something.
    Request(Request, Reply),
    /// Vnodes moved and lie so now; the reply comes when their threads have followed, and says which could not.
    Landed(Vec<Landed>, mpsc::SyncSender<Stragglers>),
}

/// Why threads of a vnode did not follow it, for the first of them.
pub type Stragglers = BTreeMap<VnodeId, HostError>;

/// Where a vnode lies after a move.
#[derive(Debug)]
pub struct Landed {
    /// Its place.
    pub place: VnodePlacement,
    /// Its threads go there.
    pub follow: bool,
}

/// How other threads tell the loop something.
#[derive(Clone)]
pub struct Notifier {
    sender: mpsc::Sender<Event>,
    wake: Arc<EventFd>,
    serial_output: Arc<AtomicBool>,
}

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

impl PowerSink for Notifier {
    fn request(&self, request: PowerRequest) {
        self.send(Event::Power(request));
    }
}

impl SerialHost for Notifier {
    fn input_room(&self) {
        self.wake();
    }

    fn output_waiting(&self) {
        self.serial_output.store(true, Ordering::Release);
        self.wake();
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
        let notifier = Notifier { sender, wake, serial_output: Arc::default() };
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

    /// Has the loop look again, as if something had come.
    pub fn look_again(&self) {
        self.notifier.wake();
    }

    /// Set when serial output waits to be written.
    pub fn serial_output(&self) -> &AtomicBool {
        &self.notifier.serial_output
    }
}
