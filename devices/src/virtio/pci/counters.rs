//! What went through a virtio function and what went wrong: counted always, logged at a limited rate.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::log_limit::LogLimit;

/// Log lines that one function may cause.
const LINES_PER_SECOND: u32 = 1;

/// Events of one function since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VirtioCounters {
    /// The driver said DRIVER_OK and the device started.
    pub activations: u64,
    /// The driver reset the device.
    pub resets: u64,
    /// The driver asked for features that are not supported.
    pub refused_features: u64,
    /// The driver said DRIVER_OK and the device could not start.
    pub failed_activations: u64,
    /// Queues that the driver broke.
    pub queue_faults: u64,
    /// Accesses to registers that are not there, of a wrong width or at a wrong time; they had no effect.
    pub ignored_accesses: u64,
    /// Notifications that came through an exit instead of an ioeventfd.
    pub slow_notifications: u64,
    /// The host refused an interrupt, a route or a notification address.
    pub host_failures: u64,
}

/// Counts for one function; shared by it, its workers and who reads it.
pub struct VirtioMeter {
    name: String,
    limit: Mutex<LogLimit>,
    activations: AtomicU64,
    resets: AtomicU64,
    refused_features: AtomicU64,
    failed_activations: AtomicU64,
    queue_faults: AtomicU64,
    ignored_accesses: AtomicU64,
    slow_notifications: AtomicU64,
    host_failures: AtomicU64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Activation,
    Reset,
    RefusedFeatures,
    FailedActivation,
    QueueFault,
    IgnoredAccess,
    SlowNotification,
    HostFailure,
}

impl VirtioMeter {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            limit: Mutex::new(LogLimit::per_second(LINES_PER_SECOND)),
            activations: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            refused_features: AtomicU64::new(0),
            failed_activations: AtomicU64::new(0),
            queue_faults: AtomicU64::new(0),
            ignored_accesses: AtomicU64::new(0),
            slow_notifications: AtomicU64::new(0),
            host_failures: AtomicU64::new(0),
        }
    }

    /// The name its function was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counts as they are now.
    #[must_use]
    pub fn counters(&self) -> VirtioCounters {
        VirtioCounters {
            activations: self.activations.load(Ordering::Relaxed),
            resets: self.resets.load(Ordering::Relaxed),
            refused_features: self.refused_features.load(Ordering::Relaxed),
            failed_activations: self.failed_activations.load(Ordering::Relaxed),
            queue_faults: self.queue_faults.load(Ordering::Relaxed),
            ignored_accesses: self.ignored_accesses.load(Ordering::Relaxed),
            slow_notifications: self.slow_notifications.load(Ordering::Relaxed),
            host_failures: self.host_failures.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count(&self, event: Event) {
        let counter = match event {
            Event::Activation => &self.activations,
            Event::Reset => &self.resets,
            Event::RefusedFeatures => &self.refused_features,
            Event::FailedActivation => &self.failed_activations,
            Event::QueueFault => &self.queue_faults,
            Event::IgnoredAccess => &self.ignored_accesses,
            Event::SlowNotification => &self.slow_notifications,
            Event::HostFailure => &self.host_failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts, and says why unless much was said lately.
    pub(super) fn warn(&self, event: Event, why: &dyn Display) {
        self.count(event);
        self.say(why);
    }

    /// Says what others count, unless much was said lately.
    pub(super) fn say(&self, why: &dyn Display) {
        let admitted = self.limit.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(suppressed) = admitted {
            tracing::warn!(device = self.name, suppressed, "virtio: {why}");
        }
    }
}
