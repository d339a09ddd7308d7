//! What a console counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes and clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsoleCounters {
    /// Bytes that the guest printed.
    pub printed_bytes: u64,
    /// Bytes of those that nobody will read: no client was there before newer ones took
    /// their room, it was too slow, or the host refused them.
    pub lost_bytes: u64,
    /// Bytes that the guest was typed.
    pub typed_bytes: u64,
    /// Clients that attached.
    pub attached: u64,
    /// Buffers that cannot be a console's.
    pub malformed: u64,
}

/// Counts for one device.
#[derive(Debug, Default)]
pub struct ConsoleMeter {
    pub(super) printed_bytes: AtomicU64,
    pub(super) lost_bytes: AtomicU64,
    pub(super) typed_bytes: AtomicU64,
    pub(super) attached: AtomicU64,
    pub(super) malformed: AtomicU64,
}

impl ConsoleMeter {
    /// The counts as they are now.
    #[must_use]
    pub fn counters(&self) -> ConsoleCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConsoleCounters {
            printed_bytes: read(&self.printed_bytes),
            lost_bytes: read(&self.lost_bytes),
            typed_bytes: read(&self.typed_bytes),
            attached: read(&self.attached),
            malformed: read(&self.malformed),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}
