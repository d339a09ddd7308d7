//! What goes wrong on the board, for whoever looks: accesses that no device answers, and interrupts that the host refuses. What
//! virtio devices count is theirs.

use devices::{Counter, SerialCounters, UnclaimedAccesses};
use std::sync::Arc;

/// Counts over all guests since the VM started: their boards come and go.
#[derive(Debug, Default)]
pub struct BoardCounters {
    /// Accesses to ports that no device has.
    pub ports: Arc<UnclaimedAccesses>,
    /// Accesses to addresses that neither memory nor a device has.
    pub memory: Arc<UnclaimedAccesses>,
    /// Interrupts of the IO-APIC's pins and their routes that KVM refused.
    pub lost_pin_interrupts: Arc<Counter>,
    /// Of the serial port.
    pub serial: Arc<SerialCounters>,
}
