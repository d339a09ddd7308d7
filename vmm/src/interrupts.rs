//! Interrupts as messages: the KVM routing table behind the IO-APIC's pins and PCI vectors, and the eventfds that
//! raise them. What a pin's or a vector's message is, the device models know.

use crate::sys::{GuestVm, HostError};
use devices::{IOAPIC_PINS, InterruptError, InterruptLine, MsiMessage, MsiRouter};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

mod table;

use table::RouteTable;

/// All interrupt routes of a VM: IO-APIC pins first, then the vectors of PCI functions.
pub struct Routes {
    vm: Arc<GuestVm>,
    table: Mutex<RouteTable>,
}

/// An interrupt that is a message: an eventfd raises it.
pub struct Gsi {
    number: u32,
    event: EventFd,
    message: Option<MsiMessage>,
    masked: bool,
    /// KVM may not know the message yet.
    stale: bool,
    attached: bool,
    shared: bool,
}

impl Routes {
    /// No pin goes anywhere yet.
    pub fn new(vm: Arc<GuestVm>) -> Self {
        Self { vm, table: Mutex::new(RouteTable::new(usize::from(IOAPIC_PINS))) }
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
        let number = self.table().add().ok_or_else(|| {
            let full = io::Error::from_raw_os_error(libc::ENOSPC);
            HostError::new("KVM_SET_GSI_ROUTING", full).hint("the VM has too many devices")
        })?;
        Ok(Gsi { number, event, message: None, masked: true, stale: false, attached: false, shared: false })
    }

    /// Has the interrupt send `message`. KVM takes the table of all routes at once, and waits for its readers each time: so
    /// it gets a new one when an interrupt is raised, with whatever a driver has set up by then. Unless somebody else
    /// raises it.
    pub fn connect(&self, gsi: &mut Gsi, message: MsiMessage) -> Result<(), InterruptError> {
        gsi.masked = false;
        if gsi.message != Some(message) {
            self.table().want(gsi.number, Some(message));
            (gsi.message, gsi.stale) = (Some(message), true);
        }
        if gsi.shared { self.establish(gsi) } else { Ok(()) }
    }

    /// Has KVM know the message, and listen to the eventfd.
    fn establish(&self, gsi: &mut Gsi) -> Result<(), InterruptError> {
        let Some(message) = gsi.message else { return Ok(()) };
        let fail = |source| InterruptError::Message { address: message.address, source };
        if gsi.stale {
            self.install(gsi.number).map_err(fail)?;
            gsi.stale = false;
        }
        if !gsi.attached {
            self.vm.register_irqfd(&gsi.event, gsi.number).map_err(|e| fail(os_error(e)))?;
            gsi.attached = true;
        }
        Ok(())
    }

    /// Raises it.
    pub fn trigger(&self, gsi: &mut Gsi) -> Result<(), InterruptError> {
        if gsi.stale || !gsi.attached {
            self.establish(gsi)?;
        }
        signal(&gsi.event)
    }

    /// Its eventfd, for others to signal.
    pub fn share(&self, gsi: &mut Gsi) -> Option<EventFd> {
        let event = gsi.event.try_clone().ok()?;
        gsi.shared = true;
        let ready = if gsi.masked { self.disconnect(gsi) } else { self.establish(gsi) };
        ready.ok().map(|()| event)
    }

    /// The interrupt is masked. Its eventfd is only detached if somebody else may signal it.
    pub fn disconnect(&self, gsi: &mut Gsi) -> Result<(), InterruptError> {
        gsi.masked = true;
        if gsi.attached && gsi.shared {
            self.vm
                .unregister_irqfd(&gsi.event, gsi.number)
                .map_err(|e| InterruptError::Signal(os_error(e)))?;
            gsi.attached = false;
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(&self, gsi: u32) -> io::Result<()> {
        self.table().install(gsi, |messages| {
            let all = (0..).zip(messages);
            let entries: Vec<_> = all.filter_map(|(gsi, message)| Some(entry(gsi, (*message)?))).collect();
            let table = KvmIrqRouting::from_entries(&entries).map_err(|_| io::ErrorKind::InvalidInput)?;
            self.vm.set_gsi_routing(&table).map_err(os_error)
        })
    }
}

impl MsiRouter for Routes {
    fn set(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        // At once: whoever raises a line knows nothing of messages.
        self.table().want(u32::from(pin), message);
        self.install(pin.into()).map_err(|source| InterruptError::Route { pin, source })
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
