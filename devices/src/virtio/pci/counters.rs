//! What went through a virtio function and what went wrong: counted always, logged at a limited rate.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::SharedCounter;
use crate::log_limit::LogLimit;

/// Log lines that one function may cause.
const LINES_PER_SECOND: u32 = 1;

crate::figures! {
    /// Events of one device's transport, over all functions that the device becomes.
    pub struct VirtioCounters: "device" {
        activations: SharedCounter = "Times that the driver started the device.",
        resets: SharedCounter = "Times that the driver reset the device.",
        refused_features: SharedCounter = "Times that the driver requested unsupported features.",
        failed_activations: SharedCounter = "Times that the device could not start.",
        queue_faults: SharedCounter = "Malformed queues.",
        ignored_accesses: SharedCounter = "Malformed register accesses.",
        slow_notifications: SharedCounter = "Notifications that took an exit instead of an ioeventfd.",
        host_failures: SharedCounter = "Interrupts, routes and doorbells that the host rejected.",
    }
}

/// Counts and logs what happens to one function; shared by it and its workers.
pub(super) struct Reporter {
    name: String,
    limit: Mutex<LogLimit>,
    pub counters: Arc<VirtioCounters>,
}

impl Reporter {
    pub fn new(name: &str, counters: Arc<VirtioCounters>) -> Self {
        Self { name: name.to_owned(), limit: Mutex::new(LogLimit::per_second(LINES_PER_SECOND)), counters }
    }

    /// Counts, and logs why unless much was logged lately.
    pub fn warn(&self, counter: fn(&VirtioCounters) -> &SharedCounter, why: &dyn Display) {
        counter(&self.counters).one();
        self.log(why);
    }

    /// Logs what others count, unless much was logged lately.
    pub fn log(&self, why: &dyn Display) {
        let admitted = self.limit.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(suppressed) = admitted {
            tracing::warn!(device = self.name, suppressed, "virtio: {why}");
        }
    }
}
