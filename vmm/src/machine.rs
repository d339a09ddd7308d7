//! A machine, built step by step from a plan and run until it ends. Each step needs the one before.

use crate::attach;
use crate::board::BoardCounters;
use crate::boot::Boot;
use crate::control::{Control, take_over_signals};
use crate::cpu::{VcpuSetup, VcpuThreads};
use crate::firmware::{EVENT_GSI, Firmware};
use crate::handle::{DiskFull, Shared};
use crate::host_side::{HostSide, KvmSide};
use crate::inbox::{Event, Inbox, Notifier};
use crate::interrupts::Routes;
use crate::kvm::KvmHost;
use crate::memory::{Progress, prefault};
use crate::pci::{Segments, SegmentsBuilder};
use crate::running::{Parts, Running};
use crate::serial::{SerialLink, SerialPort};
use crate::{Error, Exit, Options, Signals};
use devices::{
    BusDevice, COM1_IRQ, COM1_PORTS, I8042, I8042_COMMAND_PORTS, IOAPIC_ADDRESSES, IoApic, MmioBusBuilder,
    POWER_PORTS, PioBusBuilder, Power, Serial, SharedDevice,
};
use resources::Plan;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// A machine whose vCPUs exist and wait.
pub struct Machine {
    control: Control,
}

impl Machine {
    /// Takes memory and devices, or those of the machine `before`, loads the payload and creates the vCPUs. `None` if the VM
    /// was told to end meanwhile.
    pub fn build(
        shared: &Arc<Shared>,
        plan: &Arc<Plan>,
        (boot, firmware): (&mut Boot, &Firmware),
        kvm: &KvmHost,
        options: &mut Options,
        port: &SerialPort,
        before: Option<HostSide>,
    ) -> Result<Option<Self>, Error> {
        let Options { progress, signals, shutdown_timeout, janitor, .. } = options;
        // The devices are part of what is shared.
        let hears = Arc::downgrade(shared);
        let on_full: attach::OnFull = Arc::new(move |full: &DiskFull| {
            if let Some(shared) = hears.upgrade() {
                shared.disk_full(full);
            }
        });
        let host = match before {
            Some(before) => before.renew(plan)?,
            None => HostSide::acquire(plan, janitor, &on_full)?,
        };
        let HostSide { devices, mut handles, ram, kvm: kept } = host;
        prefault(plan, &ram, &shared.abandoned, progress.as_deref_mut().map(|p| p as &mut dyn Progress))?;
        if shared.abandoned.load(Ordering::Acquire) {
            return Ok(None);
        }
        let entry = boot.load(plan, &ram, firmware)?;
        let (vm, vcpus) = match kept.and_then(KvmSide::reset) {
            Some((vm, vcpus)) => (vm, Some(vcpus)),
            None => (Arc::new(kvm.create_vm(&ram)?), None),
        };
        let (inbox, notifier) = Inbox::new()?;
        let routes = Arc::new(Routes::new(Arc::clone(&vm)));
        let mut segments = SegmentsBuilder::new(plan, &vm, &routes, &ram);
        let leases = Arc::new(shared.leases(plan));
        let (balloons, entries) = crate::balloon::attach(plan, &ram, &leases, &mut handles.balloon_counters)?;
        handles.balloons = entries;
        devices.into_iter().try_for_each(|device| segments.add_host_device(device))?;
        for balloon in balloons {
            segments.add(balloon)?;
        }
        let segments = segments.build();
        let devices = Devices::new(&routes, &notifier, port.link(), &handles.board)?;
        let (pio, mmio) = devices.buses(&segments, &handles.board)?;
        let setup = Arc::new(VcpuSetup {
            vm: Arc::clone(&vm),
            ram: Arc::clone(&ram),
            cpuid: kvm.cpuid()?,
            msrs: kvm.msrs()?,
            pio: Arc::new(pio),
            mmio: Arc::new(mmio),
            ioapic: Arc::clone(&devices.ioapic),
        });
        let signals = match signals {
            Signals::Vm => Some(take_over_signals()?),
            Signals::Caller => None,
        };
        let events = notifier.clone();
        let stopped = move |cause| events.send(Event::Vcpu(cause));
        let vcpus = match vcpus {
            Some(mut vcpus) => {
                vcpus.begin(&setup, plan, entry, stopped)?;
                vcpus
            }
            None => VcpuThreads::start(&setup, plan, entry, &mut handles.exits, stopped)?,
        };
        let serial = Arc::clone(port.link());
        serial.connect(Arc::clone(&devices.serial), notifier.clone());
        let parts = Parts { vm, vcpus, segments, handles, ram, serial, leases };
        let topology = Arc::new(plan.topology.clone());
        let running = Running::new(Arc::clone(shared), notifier, topology, parts);
        Ok(Some(Self {
            control: Control::new(inbox, signals, *shutdown_timeout, shared, devices.power, running),
        }))
    }

    /// Runs until the guest or the user ends it, then takes it down. What it had of the host is for the next one if the guest
    /// starts again, unless requests of its devices hang.
    pub fn run(self) -> Result<(Exit, Option<HostSide>), Error> {
        Ok(self.control.run()?)
    }
}

struct Devices {
    serial: Arc<Mutex<Serial>>,
    power: Arc<Mutex<Power>>,
    ioapic: Arc<Mutex<IoApic>>,
    keyboard: Arc<Mutex<I8042>>,
}

impl Devices {
    fn new(
        routes: &Arc<Routes>,
        notifier: &Notifier,
        port: &Arc<SerialLink>,
        board: &BoardCounters,
    ) -> Result<Self, Error> {
        let host = Arc::new(notifier.clone());
        let terminal = Arc::clone(port) as _;
        Ok(Self {
            serial: shared(Serial::new(
                routes.line(COM1_IRQ)?,
                port.sink(),
                terminal,
                Arc::clone(&board.serial),
            )),
            power: shared(Power::new(Arc::clone(&host) as _, routes.line(EVENT_GSI)?)),
            ioapic: shared(IoApic::new(Arc::clone(routes) as _, Arc::clone(&board.lost_pin_interrupts))),
            keyboard: shared(I8042::new(host)),
        })
    }

    fn buses(
        &self,
        segments: &Segments,
        board: &BoardCounters,
    ) -> Result<(devices::PioBus, devices::MmioBus), Error> {
        let mut pio = PioBusBuilder::counting_in(Arc::clone(&board.ports));
        pio.register("serial", COM1_PORTS, as_device(&self.serial))?;
        pio.register("power", POWER_PORTS.range(), as_device(&self.power))?;
        pio.register("i8042", I8042_COMMAND_PORTS, as_device(&self.keyboard))?;
        segments.register_ports(&mut pio)?;
        let mut mmio = MmioBusBuilder::counting_in(Arc::clone(&board.memory));
        mmio.register("ioapic", IOAPIC_ADDRESSES, as_device(&self.ioapic))?;
        segments.register(&mut mmio)?;
        Ok((pio.build(), mmio.build()))
    }
}

fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

fn as_device<T: BusDevice + 'static>(device: &Arc<Mutex<T>>) -> SharedDevice {
    Arc::clone(device) as SharedDevice
}
