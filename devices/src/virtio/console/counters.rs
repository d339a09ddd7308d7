//! What a console counts.

use crate::virtio::counter::Counter;

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
    pub(super) printed_bytes: Counter,
    pub(super) lost_bytes: Counter,
    pub(super) typed_bytes: Counter,
    pub(super) attached: Counter,
    pub(super) malformed: Counter,
}

impl ConsoleMeter {
    /// The counts as they are now.
    #[must_use]
    pub fn counters(&self) -> ConsoleCounters {
        let read = Counter::get;
        ConsoleCounters {
            printed_bytes: read(&self.printed_bytes),
            lost_bytes: read(&self.lost_bytes),
            typed_bytes: read(&self.typed_bytes),
            attached: read(&self.attached),
            malformed: read(&self.malformed),
        }
    }
}

pub(super) fn add(counter: &Counter, count: usize) {
    counter.add(u64::try_from(count).unwrap_or(u64::MAX));
}
