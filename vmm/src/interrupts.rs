//! Interrupts as messages: the KVM routing table behind the IO-APIC's pins and PCI vectors, and the eventfds that
//! raise them. What a pin's or a vector's message is, the device models know.

use crate::sys::{GuestVm, HostError};
use devices::{IOAPIC_PINS, InterruptError, InterruptLine, MsiMessage, MsiRouter};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Interrupts a VM may have: KVM's own bound (`KVM_MAX_IRQ_ROUTES`).
const MAX_GSIS: u32 = 4096;

/// All interrupt routes of a VM: IO-APIC pins first, then the vectors of PCI functions.
pub struct Routes {
    vm: Arc<GuestVm>,
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

/// An interrupt that is a message: an eventfd raises it.
pub struct Gsi {
    number: u32,
    event: EventFd,
    message: Option<MsiMessage>,
    attached: bool,
    shared: bool,
}

impl Routes {
    /// No pin goes anywhere yet.
    pub fn new(vm: Arc<GuestVm>) -> Self {
        Self { vm, messages: Mutex::new(vec![None; usize::from(IOAPIC_PINS)]) }
    }

    /// A line into a pin of the IO-APIC: edge-triggered, straight into KVM.
    pub fn line(&self, pin: u8) -> Result<Arc<dyn InterruptLine>, HostError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(|e| HostError::new("eventfd", e))?;
        self.vm
            .register_irqfd(&event, u32::from(pin))
            .map_err(|e| HostError::kvm("KVM_IRQFD")(e).of(format!("IO-APIC pin {pin}")))?;
        Ok(Arc::new(Line(event)))
    }

    /// One more interrupt; it goes nowhere yet.
    pub fn allocate(&self) -> Result<Gsi, HostError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(|e| HostError::new("eventfd", e))?;
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(messages.len()).ok().filter(|n| *n < MAX_GSIS);
        let number = number.ok_or_else(|| {
            let full = io::Error::from_raw_os_error(libc::ENOSPC);
            HostError::new("KVM_SET_GSI_ROUTING", full).hint("the VM has too many devices")
        })?;
        messages.push(None);
        Ok(Gsi { number, event, message: None, attached: false, shared: false })
    }

    /// Has the interrupt send `message`.
    pub fn connect(&self, gsi: &mut Gsi, message: MsiMessage) -> Result<(), InterruptError> {
        let fail = |source| InterruptError::Message { address: message.address, source };
        if gsi.message != Some(message) {
            self.route(gsi.number, Some(message)).map_err(fail)?;
            gsi.message = Some(message);
        }
        if !gsi.attached {
            self.vm.register_irqfd(&gsi.event, gsi.number).map_err(|e| fail(os_error(e)))?;
            gsi.attached = true;
        }
        Ok(())
    }

    /// The interrupt is masked. Its eventfd is only detached if somebody else may signal it.
    pub fn disconnect(&self, gsi: &mut Gsi) -> Result<(), InterruptError> {
        if gsi.attached && gsi.shared {
            self.vm
                .unregister_irqfd(&gsi.event, gsi.number)
                .map_err(|e| InterruptError::Signal(os_error(e)))?;
            gsi.attached = false;
        }
        Ok(())
    }

    fn route(&self, gsi: u32, message: Option<MsiMessage>) -> io::Result<()> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = messages.get_mut(gsi as usize).ok_or(io::ErrorKind::NotFound)?;
        let before = std::mem::replace(slot, message);
        let entries: Vec<kvm_irq_routing_entry> =
            (0..).zip(messages.iter()).filter_map(|(gsi, message)| Some(entry(gsi, (*message)?))).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.vm.set_gsi_routing(&table).map_err(|error| {
            messages[gsi as usize] = before;
            os_error(error)
        })
    }
}

impl Gsi {
    /// Raises it.
    pub fn trigger(&self) -> Result<(), InterruptError> {
        signal(&self.event)
    }

    /// Its eventfd, for others to signal.
    pub fn share(&mut self) -> Option<EventFd> {
        let event = self.event.try_clone().ok()?;
        self.shared = true;
        Some(event)
    }
}

impl MsiRouter for Routes {
    fn set(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        self.route(u32::from(pin), message).map_err(|source| InterruptError::Route { pin, source })
    }

    fn signal(&self, message: MsiMessage) -> Result<(), InterruptError> {
        let [low, high] = halves(message.kvm_address());
        let msi = kvm_msi { address_lo: low, address_hi: high, data: message.data, ..Default::default() };
        let fail = |e| InterruptError::Message { address: message.address, source: os_error(e) };
        self.vm.signal_msi(msi).map(drop).map_err(fail)
    }
}

fn os_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
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
        signal(&self.0)
    }
}

fn signal(event: &EventFd) -> Result<(), InterruptError> {
    match event.write(1) {
        // Full: as many triggers wait as can be counted.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result.map_err(InterruptError::Signal),
    }
}
