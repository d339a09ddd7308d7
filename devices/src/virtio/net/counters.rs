//! What a network device counts, and the handle through which the host reads it and moves its link.
//! Who asks for it is left to `vmm`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::LogLimit;
use crate::virtio::VirtioInterrupt;
use crate::virtio::counter::Counter;

/// Where the frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// Nowhere: no driver runs the device.
    Stopped,
    /// Through this process.
    Own,
    /// Through the kernel (vhost); frames are not counted then.
    Kernel,
}

/// What happened since the device was made. "Received" and "sent" are the guest's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames that the guest received.
    pub received_frames: u64,
    /// Their bytes, without headers.
    pub received_bytes: u64,
    /// Frames for the guest that no buffers of its could hold, or that came while the link was down.
    pub received_dropped: u64,
    /// Frames that did not fit where it was tried first and were copied once more.
    pub received_copied: u64,
    /// How often the guest had no buffers left.
    pub receive_starved: u64,
    /// Frames that the guest sent.
    pub sent_frames: u64,
    /// Their bytes, without headers.
    pub sent_bytes: u64,
    /// Frames from the guest that the host refused, or that came while the link was down.
    pub sent_dropped: u64,
    /// How often the host took no more for now.
    pub send_blocked: u64,
    /// Buffers that cannot be a frame's, or a command's.
    pub malformed: u64,
    /// Commands on the control queue.
    pub commands: u64,
    /// Reads from the interface that failed.
    pub receive_errors: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub received_frames: Counter,
    pub received_bytes: Counter,
    pub received_dropped: Counter,
    pub received_copied: Counter,
    pub receive_starved: Counter,
    pub sent_frames: Counter,
    pub sent_bytes: Counter,
    pub sent_dropped: Counter,
    pub send_blocked: Counter,
    pub malformed: Counter,
    pub commands: Counter,
    pub receive_errors: Counter,
}

/// What device, worker and host share of a network device.
pub struct NetHandle {
    pub(super) counts: Counts,
    link_up: AtomicBool,
    kernel_pairs: AtomicU32,
    own_pairs: AtomicU32,
    interrupt: Mutex<Option<Arc<dyn VirtioInterrupt>>>,
    /// Outlives drivers: one that resets in a loop must not fill the log.
    log: Mutex<LogLimit>,
}

impl NetHandle {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: Counts::default(),
            link_up: AtomicBool::new(true),
            kernel_pairs: AtomicU32::new(0),
            own_pairs: AtomicU32::new(0),
            interrupt: Mutex::new(None),
            log: Mutex::new(LogLimit::per_second(1)),
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        let c = &self.counts;
        NetCounters {
            received_frames: c.received_frames.get(),
            received_bytes: c.received_bytes.get(),
            received_dropped: c.received_dropped.get(),
            received_copied: c.received_copied.get(),
            receive_starved: c.receive_starved.get(),
            sent_frames: c.sent_frames.get(),
            sent_bytes: c.sent_bytes.get(),
            sent_dropped: c.sent_dropped.get(),
            send_blocked: c.send_blocked.get(),
            malformed: c.malformed.get(),
            commands: c.commands.get(),
            receive_errors: c.receive_errors.get(),
        }
    }

    /// Which way the frames of the pairs in use go; [`Datapath::Own`] if some go each way.
    #[must_use]
    pub fn datapath(&self) -> Datapath {
        match (self.kernel_pairs.load(Ordering::Relaxed), self.own_pairs.load(Ordering::Relaxed)) {
            (0, 0) => Datapath::Stopped,
            (_, 0) => Datapath::Kernel,
            (_, _) => Datapath::Own,
        }
    }

    /// Whether the link is up.
    #[must_use]
    pub fn is_link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    /// Plugs the cable in or out: while it is out, frames are dropped both ways. A datapath in the kernel goes on;
    /// its driver is told all the same, and Linux stops sending.
    pub fn set_link(&self, up: bool) {
        if self.link_up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        let interrupt = self.interrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(interrupt) = interrupt {
            // A host that cannot interrupt was reported by the transport.
            let _ = interrupt.config_changed();
        }
    }

    /// Logs, at a limited rate.
    pub(super) fn report(&self, what: &'static str, error: &std::io::Error) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.admit(Instant::now()) {
            tracing::warn!(%error, suppressed, "net: {what}");
        }
    }

    pub(super) fn attach(&self, interrupt: Option<Arc<dyn VirtioInterrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }

    pub(super) fn set_pairs(&self, kernel: u32, own: u32) {
        self.kernel_pairs.store(kernel, Ordering::Relaxed);
        self.own_pairs.store(own, Ordering::Relaxed);
    }
}
