//! Interrupts as messages: the KVM routing table behind the IO-APIC's pins, and lines that are eventfds.
//! What a pin's message is, is the IO-APIC model's business.

use crate::sys::HostError;
use devices::{IOAPIC_PINS, InterruptError, InterruptLine, MsiMessage, MsiRouter};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi};
use kvm_ioctls::VmFd;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// All interrupt routes of a VM.
pub struct Routes {
    vm: Arc<VmFd>,
    pins: Mutex<[Option<MsiMessage>; IOAPIC_PINS as usize]>,
}

impl Routes {
    /// No pin goes anywhere yet.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, pins: Mutex::new([None; IOAPIC_PINS as usize]) }
    }

    /// A line into a pin of the IO-APIC: edge-triggered, straight into KVM.
    pub fn line(&self, pin: u8) -> Result<Arc<dyn InterruptLine>, HostError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(|e| HostError::new("eventfd", e))?;
        self.vm
            .register_irqfd(&event, u32::from(pin))
            .map_err(|e| HostError::kvm("KVM_IRQFD")(e).of(format!("IO-APIC pin {pin}")))?;
        Ok(Arc::new(Line(event)))
    }
}

impl MsiRouter for Routes {
    fn set(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        let fail = |source: io::Error| InterruptError::Route { pin, source };
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = pins.get_mut(usize::from(pin)).ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        *slot = message;
        let entries: Vec<kvm_irq_routing_entry> =
            (0..).zip(pins.iter()).filter_map(|(gsi, message)| Some(route(gsi, (*message)?))).collect();
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|_| fail(io::ErrorKind::InvalidInput.into()))?;
        self.vm.set_gsi_routing(&table).map_err(|e| fail(io::Error::from_raw_os_error(e.errno())))
    }

    fn signal(&self, message: MsiMessage) -> Result<(), InterruptError> {
        let [low, high] = halves(message.kvm_address());
        let msi = kvm_msi { address_lo: low, address_hi: high, data: message.data, ..Default::default() };
        self.vm.signal_msi(msi).map(drop).map_err(|e| InterruptError::Message {
            address: message.address,
            source: io::Error::from_raw_os_error(e.errno()),
        })
    }
}

fn route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [address_lo, address_hi] = halves(message.kvm_address());
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    entry
}

fn halves(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

struct Line(EventFd);

impl InterruptLine for Line {
    fn trigger(&self) -> Result<(), InterruptError> {
        match self.0.write(1) {
            // Full: as many triggers wait as can be counted.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result.map_err(InterruptError::Signal),
        }
    }
}
