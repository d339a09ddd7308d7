//! What goes wrong on the board, for whoever looks: accesses that no device answers, and interrupts that the host refuses. What
//! virtio devices count is theirs.

use devices::{IoApic, MmioBus, PioBus, Serial, SerialCounters, UnclaimedAccesses};
use std::sync::{Arc, Mutex, TryLockError, Weak};

/// Looks at a machine's board. A machine that ends takes its devices along.
#[derive(Clone)]
pub struct Board {
    ports: Weak<PioBus>,
    memory: Weak<MmioBus>,
    ioapic: Weak<Mutex<IoApic>>,
    serial: Weak<Mutex<Serial>>,
}

/// Counts since the guest started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardFigures {
    /// Accesses to ports that no device has.
    pub unclaimed_ports: UnclaimedAccesses,
    /// Accesses to addresses that neither memory nor a device has.
    pub unclaimed_memory: UnclaimedAccesses,
    /// Interrupts of pins and their routes that KVM refused; `None` while a vCPU is at the IO-APIC.
    pub lost_pin_interrupts: Option<u64>,
    /// Of the serial port; `None` while a vCPU waits there for room.
    pub serial: Option<SerialCounters>,
}

impl Board {
    /// Of these.
    pub fn new(
        ports: &Arc<PioBus>,
        memory: &Arc<MmioBus>,
        ioapic: &Arc<Mutex<IoApic>>,
        serial: &Arc<Mutex<Serial>>,
    ) -> Self {
        Self {
            ports: Arc::downgrade(ports),
            memory: Arc::downgrade(memory),
            ioapic: Arc::downgrade(ioapic),
            serial: Arc::downgrade(serial),
        }
    }

    /// As it is now, without waiting; `None` when the machine is over.
    pub fn figures(&self) -> Option<BoardFigures> {
        Some(BoardFigures {
            unclaimed_ports: self.ports.upgrade()?.unclaimed(),
            unclaimed_memory: self.memory.upgrade()?.unclaimed(),
            lost_pin_interrupts: look(&*self.ioapic.upgrade()?, IoApic::router_failures),
            serial: look(&*self.serial.upgrade()?, Serial::counters),
        })
    }
}

fn look<T, R>(device: &Mutex<T>, figure: impl Fn(&T) -> R) -> Option<R> {
    match device.try_lock() {
        Ok(device) => Some(figure(&device)),
        Err(TryLockError::Poisoned(device)) => Some(figure(&device.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}
