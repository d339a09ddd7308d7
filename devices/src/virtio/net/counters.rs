//! What a network device counts, and its handle, through which the host looks at it and moves its link.
//! Who asks for it is left to `vmm`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::virtio::VirtioInterrupt;
use crate::{Figure, Figures, LogLimit};

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

crate::figures! {
    /// Frames of one interface. "Received" and "sent" are the guest's; bytes are without headers.
    pub struct NetCounters: "net" {
        received_frames: Counter = "Frames that the guest received.",
        received_bytes: Counter = "Bytes of the frames that the guest received.",
        received_dropped: Counter = "Frames dropped because the guest had no room for them, or its link was down.",
        received_copied: Counter = "Received frames that had to be copied a second time.",
        receive_starved: Counter = "Times that the guest had no receive buffers left.",
        receive_errors: Counter = "Reads from the interface that failed.",
        sent_frames: Counter = "Frames that the guest sent.",
        sent_bytes: Counter = "Bytes of the frames that the guest sent.",
        sent_dropped: Counter = "Sent frames dropped because the host refused them, or the link was down.",
        send_blocked: Counter = "Times that the interface was temporarily full.",
        commands: Counter = "Commands on the control queue.",
        malformed: Counter = "Malformed buffers and commands.",
    }
}

/// What device, worker and host share of a network device.
pub struct NetHandle {
    counters: NetCounters,
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
            counters: NetCounters::default(),
            link_up: AtomicBool::new(true),
            kernel_pairs: AtomicU32::new(0),
            own_pairs: AtomicU32::new(0),
            interrupt: Mutex::new(None),
            log: Mutex::new(LogLimit::per_second(1)),
        })
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &NetCounters {
        &self.counters
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

impl Figures for NetHandle {
    fn figures(&self) -> Vec<Figure> {
        let now = match self.datapath() {
            Datapath::Stopped => "stopped",
            Datapath::Own => "own",
            Datapath::Kernel => "kernel",
        };
        let help = "1 for the path that frames take; frames on the kernel's path are not counted here.";
        let states = (&["stopped", "own", "kernel"][..], now);
        let mut all = self.counters.figures();
        all.extend(Figure::states("net", "datapath", help, "path", states));
        let link = if self.is_link_up() { "up" } else { "down" };
        all.extend(Figure::states(
            "net",
            "link",
            "1 for the state of the link.",
            "state",
            (&["up", "down"], link),
        ));
        all
    }
}
