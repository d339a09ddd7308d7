//! How a virtio function interrupts its driver: queues and configuration changes to MSI-X vectors (virtio 1.3,
//! 4.1.5.3 and 4.1.5.4), and the ISR status. Workers call this without the function's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::common::status;
use super::counters::Reporter;
use super::state::TransportState;
use crate::interrupt::{InterruptError, MsiMessage};
use crate::pci::Msix;
use crate::virtio::{QueueFault, VirtioInterrupt};

/// No vector (virtio 1.3, 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xFFFF;

/// ISR status bits (virtio 1.3, 4.1.4.5).
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;

pub(super) struct Interrupts {
    msix: Arc<Msix>,
    reporter: Arc<Reporter>,
    isr: AtomicU8,
    /// DRIVER_OK is set: without it the driver is not told anything (virtio 1.3, 3.1.1).
    live: AtomicBool,
    needs_reset: AtomicBool,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
}

impl Interrupts {
    pub fn new(msix: Arc<Msix>, reporter: Arc<Reporter>, queues: u16) -> Self {
        Self {
            msix,
            reporter,
            isr: AtomicU8::new(0),
            live: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    /// Reads and clears the ISR status.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// Whether a line, if there was one, would be asserted: what the Interrupt Status bit of the PCI status shows (virtio
    /// 1.3, 4.1.4.5.1).
    pub fn is_asserted(&self) -> bool {
        !self.msix.is_enabled() && self.isr.load(Ordering::Acquire) != 0
    }

    pub fn set_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Sets DEVICE_NEEDS_RESET and tells the driver if it is to be told (virtio 1.3, 2.1.2).
    pub fn ask_for_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) && self.live.load(Ordering::Acquire) {
            // A host that cannot send it has been counted, and the status tells the driver that looks.
            let _ = self.config_changed();
        }
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    pub fn queue_vector(&self, index: u16) -> u16 {
        self.queue_vectors.get(usize::from(index)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// A vector that does not exist cannot be had, which the driver sees when it reads back (virtio 1.3, 4.1.5.1.2.1).
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(entry) = self.queue_vectors.get(usize::from(index)) {
            entry.store(self.existing(vector), Ordering::Release);
        }
    }

    /// The ISR status, for a state: reading it otherwise clears it.
    pub fn isr(&self) -> u8 {
        self.isr.load(Ordering::Acquire)
    }

    /// As in `state`. DRIVER_OK is what makes the driver hear of anything.
    pub fn restore(&self, state: &TransportState) {
        self.live.store(state.status & status::DRIVER_OK != 0, Ordering::Release);
        self.needs_reset.store(state.needs_reset, Ordering::Release);
        self.isr.store(state.isr, Ordering::Release);
        self.set_config_vector(state.config_vector);
        for (index, queue) in (0..).zip(&state.queues) {
            self.set_queue_vector(index, queue.vector);
        }
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.count() { vector } else { NO_VECTOR }
    }

    fn trigger(&self, vector: u16) -> Result<(), InterruptError> {
        if vector == NO_VECTOR {
            return Ok(());
        }
        self.msix
            .trigger(vector)
            .inspect_err(|error| self.reporter.warn(|counters| &counters.host_failures, error))
    }
}

impl VirtioInterrupt for Interrupts {
    fn queue_used(&self, index: u16) -> Result<(), InterruptError> {
        if !self.msix.is_enabled() {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
        self.trigger(self.queue_vector(index))
    }

    fn config_changed(&self) -> Result<(), InterruptError> {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.trigger(self.config_vector())
    }

    fn queue_call(&self, index: u16) -> Option<EventFd> {
        self.msix.eventfd(self.queue_vector(index))
    }

    fn driver_fault(&self, index: u16, fault: QueueFault) {
        self.reporter.warn(
            |counters| &counters.queue_faults,
            &format_args!("queue {index}: {fault}; the driver has to reset"),
        );
        self.ask_for_reset();
    }

    fn device_failed(&self, why: &str) {
        self.reporter
            .warn(|counters| &counters.host_failures, &format_args!("{why}; the driver has to reset"));
        self.ask_for_reset();
    }

    fn request_refused(&self, index: u16, why: &'static str) {
        self.reporter.log(&format_args!("queue {index}: {why}"));
    }

    fn config_message(&self) -> Option<MsiMessage> {
        self.msix.message(self.config_vector())
    }
}
