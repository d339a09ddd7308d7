//! A count that one thread at a time adds to and others read. What is counted is the devices' business.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows. A device's worker alone adds to it, so that needs no locked operation.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    pub fn one(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
