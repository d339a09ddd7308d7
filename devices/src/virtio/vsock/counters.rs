//! What a socket device counts, and the handle through which the host reads it.
//! Who asks for it is left to `vmm`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::virtio::counter::Counter;

/// What happened since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VsockCounters {
    /// Connections that there are now, those not yet or no longer open among them.
    pub connections: u64,
    /// Connections that the guest opened.
    pub guest_connects: u64,
    /// Connections that host processes opened.
    pub host_connects: u64,
    /// Connections that were refused: by the other side, or because there were too many.
    pub refused: u64,
    /// Connections that ended because of an error, or a guest that broke the rules.
    pub broken: u64,
    /// Bytes from guest to host.
    pub to_host_bytes: u64,
    /// Bytes from host to guest.
    pub to_guest_bytes: u64,
    /// Buffers that cannot be a packet's, and packets that cannot be the guest's.
    pub malformed: u64,
    /// Answers to packets of no connection that were left out, as too many waited.
    pub lost_resets: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub connections: AtomicU64,
    pub guest_connects: Counter,
    pub host_connects: Counter,
    pub refused: Counter,
    pub broken: Counter,
    pub to_host_bytes: Counter,
    pub to_guest_bytes: Counter,
    pub malformed: Counter,
    pub lost_resets: Counter,
}

/// What worker and host share of a socket device.
#[derive(Default)]
pub struct VsockHandle {
    pub(super) counts: Counts,
}

impl VsockHandle {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> VsockCounters {
        let c = &self.counts;
        VsockCounters {
            connections: c.connections.load(Ordering::Relaxed),
            guest_connects: c.guest_connects.get(),
            host_connects: c.host_connects.get(),
            refused: c.refused.get(),
            broken: c.broken.get(),
            to_host_bytes: c.to_host_bytes.get(),
            to_guest_bytes: c.to_guest_bytes.get(),
            malformed: c.malformed.get(),
            lost_resets: c.lost_resets.get(),
        }
    }

    pub(super) fn set_connections(&self, count: usize) {
        self.counts.connections.store(count as u64, Ordering::Relaxed);
    }
}
