//! A virtio device as a PCI function (virtio 1.3, 4.1): identity, registers, status and features. What the device
//! does is its own; carrying interrupts and notifications, and running workers, is the host's.

mod state;

use std::any::Any;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::common::{Asked, Common, Shown, status};
use super::counters::{Reporter, VirtioCounters};
use super::device_config::DeviceConfig;
use super::doorbells::Doorbells;
use super::interrupt::Interrupts;
use super::layout::{self, MSIX_BAR, REGISTERS_BAR, REGISTERS_BYTES, Structure};
use super::runner::{Runner, StartError};
use super::state::TransportState;
use crate::bus::fill_ones;
use crate::pci::{
    BarError, CapabilityError, ConfigSpace, Identity, IoEvents, MSIX_CAPABILITY, Msix, MsixVectors,
    PciFunction, WorkerSpawner,
};
use crate::state::{Section, StateError};
use crate::virtio::{ActiveQueue, GuestMemoryHandle, QueuePosition, VirtioDevice, VirtioInterrupt};

/// Vendor ID of all virtio devices, and the device ID of the one with id 0 (virtio 1.3, 4.1.2).
const VENDOR: u16 = 0x1AF4;
const DEVICE_BASE: u16 = 0x1040;
/// Only with a revision of at least 1 a device is not transitional (virtio 1.3, 4.1.2.1).
const REVISION: u8 = 1;

/// The low byte of the PCI status, and its Interrupt Status (PCI local bus specification 3.0, 6.2.3).
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u8 = 1 << 3;

/// Offered by the transport: the queue library can do them.
const OFFERED: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;
/// Bits 24 to 49 are for queues and transports (virtio 1.3, 2.2); of these a device can offer IN_ORDER, which is its
/// own doing.
const RESERVED: u64 = ((1 << 50) - (1 << 24)) & !(1 << 35);

/// What a function needs of the host.
#[derive(Clone)]
pub struct VirtioPciHost {
    /// As many vectors as [`VirtioPci::vectors`] says.
    pub vectors: Arc<dyn MsixVectors>,
    /// Notifications without an exit.
    pub io_events: Arc<dyn IoEvents>,
    /// Threads on the function's host node.
    pub spawner: Arc<dyn WorkerSpawner>,
    /// What is counted, kept by whoever makes the device another function later.
    pub counters: Arc<VirtioCounters>,
}

/// Why a device cannot be made a function.
#[derive(Debug, Error)]
pub enum VirtioPciError {
    /// There is no room for so many doorbells.
    #[error("{name}: {queues} queues, at most {} fit", layout::QUEUES_MAX)]
    Queues {
        /// The function's name.
        name: String,
        /// Queues of the device.
        queues: usize,
    },
    /// The configuration space has no room.
    #[error("{name}: {source}")]
    Capability {
        /// The function's name.
        name: String,
        /// What did not fit.
        source: CapabilityError,
    },
    /// A BAR cannot be had.
    #[error("{name}: {source}")]
    Bar {
        /// The function's name.
        name: String,
        /// Which and why.
        source: BarError,
    },
    /// The host has no eventfds left.
    #[error("{name}: create an eventfd: {source}")]
    EventFd {
        /// The function's name.
        name: String,
        /// Why not.
        source: io::Error,
    },
}

/// A virtio device on PCI.
pub struct VirtioPci<M: GuestMemoryHandle> {
    config: ConfigSpace,
    /// Where in it the capabilities are.
    msix_capability: usize,
    access_capability: usize,
    msix: Arc<Msix>,
    interrupts: Arc<Interrupts>,
    reporter: Arc<Reporter>,
    common: Common,
    device_config: DeviceConfig,
    runner: Runner<M>,
    /// Message control and bus master as `msix` and `runner` know them.
    control: (u16, bool),
}

impl<M: GuestMemoryHandle> VirtioPci<M> {
    /// How many MSI-X vectors `device` has: one for each queue, or for all of them, and one for the configuration.
    #[must_use]
    pub fn vectors(device: &dyn VirtioDevice<M>) -> u16 {
        let queues = if device.shares_vector() { 1 } else { device.queue_sizes().len() };
        u16::try_from(queues + 1).unwrap_or(u16::MAX)
    }

    /// Makes `device` a function. `name` is for logs and the worker's thread.
    ///
    /// # Errors
    /// [`VirtioPciError`] if it has too many queues, or the host has no eventfds left.
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice<M>>,
        memory: M,
        host: VirtioPciHost,
    ) -> Result<Self, VirtioPciError> {
        let sizes = device.queue_sizes();
        let too_many = || VirtioPciError::Queues { name: name.to_owned(), queues: sizes.len() };
        let queues = u16::try_from(sizes.len()).ok().filter(|queues| *queues <= layout::QUEUES_MAX);
        let queues = queues.ok_or_else(too_many)?;
        let reporter = Arc::new(Reporter::new(name, host.counters));
        let msix = Arc::new(Msix::new(Self::vectors(&*device), host.vectors));
        let mut config = ConfigSpace::new(identity(&*device));
        let bar = |source| VirtioPciError::Bar { name: name.to_owned(), source };
        config.add_bar(REGISTERS_BAR, REGISTERS_BYTES).map_err(bar)?;
        config.add_bar(MSIX_BAR, msix.bar_bytes()).map_err(bar)?;
        let capability = |source| VirtioPciError::Capability { name: name.to_owned(), source };
        let (body, writable) = msix.capability(MSIX_BAR);
        let msix_capability = config.add_capability(MSIX_CAPABILITY, &body, &writable).map_err(capability)?;
        let access_capability = layout::add_capabilities(&mut config, queues).map_err(capability)?;
        let doorbells = Doorbells::new(host.io_events, Arc::clone(&reporter), queues)
            .map_err(|source| VirtioPciError::EventFd { name: name.to_owned(), source })?;
        Ok(Self {
            config,
            msix_capability,
            access_capability,
            interrupts: Arc::new(Interrupts::new(Arc::clone(&msix), Arc::clone(&reporter), queues)),
            msix,
            reporter,
            common: Common::new(&sizes),
            device_config: DeviceConfig::default(),
            runner: Runner::new(name, device, memory, host.spawner, doorbells),
            control: (0, false),
        })
    }

    fn offered(&self) -> u64 {
        self.runner.device.features() & !RESERVED | OFFERED
    }

    fn shown(&self) -> Shown {
        Shown {
            offered: self.offered(),
            needs_reset: self.interrupts.needs_reset(),
            resetting: self.runner.device.is_resetting(),
            generation: self.device_config.generation(),
            config_vector: self.interrupts.config_vector(),
            queue_vector: self.interrupts.queue_vector(self.common.queue_select),
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        if self.runner.is_resetting() || self.runner.device.is_resetting() {
            // The driver has to wait until the status is 0 (virtio 1.3, 4.1.4.3.2).
            self.reporter.counters.ignored_accesses.one();
            return;
        }
        match self.common.write(offset, data) {
            Asked::Nothing => {}
            Asked::Ignored => self.reporter.counters.ignored_accesses.one(),
            Asked::Status(0) => {
                self.reporter.counters.resets.one();
                self.reset_device();
            }
            Asked::Status(value) => self.set_status(value & status::OF_DRIVER),
            Asked::ConfigVector(vector) => self.interrupts.set_config_vector(vector),
            Asked::QueueVector(vector) => {
                self.interrupts.set_queue_vector(self.common.queue_select, vector);
            }
        }
    }

    /// What lies past the end of the space is nobody's, and a device on its way to rest takes nothing.
    fn write_device_config(&mut self, offset: u64, data: &[u8]) {
        let space = self.runner.device.config();
        match DeviceConfig::written(&space, offset, data).filter(|_| !self.runner.is_resetting()) {
            Some(data) => self.runner.device.write_config(offset, data),
            None => self.reporter.counters.ignored_accesses.one(),
        }
    }

    /// The driver's way through the status bits (virtio 1.3, 2.1 and 3.1.1). It only adds, never clears.
    fn set_status(&mut self, value: u8) {
        if !value & self.common.status != 0 {
            self.reporter.counters.ignored_accesses.one();
            return;
        }
        let added = value & !self.common.status;
        let plain = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;
        self.common.status |= added & plain;
        if added & status::FEATURES_OK != 0 {
            match self.features_are_good() {
                true => self.common.status |= status::FEATURES_OK,
                false => self.reporter.counters.refused_features.one(),
            }
        }
        if added & status::DRIVER_OK != 0 {
            self.start();
        }
    }

    /// The driver may only have picked what was offered, must have picked VERSION_1 (virtio 1.3, 2.2.2 and 6.1), and the
    /// device must be able to work with it.
    fn features_are_good(&self) -> bool {
        let features = self.common.driver_features;
        let offered = !self.common.beyond && features & !self.offered() == 0;
        offered && features & 1 << VIRTIO_F_VERSION_1 != 0 && self.runner.device.accepts(features)
    }

    fn start(&mut self) {
        if !self.common.has(status::FEATURES_OK) {
            self.give_up(&StartError::Order);
            return;
        }
        self.common.status |= status::DRIVER_OK;
        self.interrupts.set_live();
        match self.try_start(|_| None) {
            Ok(()) => self.reporter.counters.activations.one(),
            Err(error) => self.give_up(&error),
        }
    }

    /// Starts the device; on queues with a position, where it had come to.
    fn try_start(&mut self, position: impl Fn(usize) -> Option<QueuePosition>) -> Result<(), StartError> {
        let features = self.common.driver_features;
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let memory = self.runner.memory.memory();
        let mut queues = Vec::new();
        for (index, setup) in (0..).zip(&self.common.queues) {
            if setup.enabled {
                let queue = setup.build(index, memory, event_idx)?;
                let kick = self.runner.doorbells.kick(index);
                let kick = kick.map_err(|source| StartError::Kick { index, source })?;
                let mut queue = ActiveQueue { index, queue, kick, broken: false };
                if let Some(position) = position(index.into()) {
                    queue.set_position(position);
                }
                queues.push(queue);
            }
        }
        let interrupt = Arc::clone(&self.interrupts) as Arc<dyn VirtioInterrupt>;
        self.runner.start(features, queues, interrupt)
    }

    /// The driver has to reset (virtio 1.3, 2.1.2).
    fn give_up(&mut self, error: &StartError) {
        self.reporter
            .warn(|counters| &counters.failed_activations, &format_args!("{error}; the driver has to reset"));
        self.interrupts.ask_for_reset();
    }

    /// The status stays what it is until requests in flight have ended: a driver that reads 0 can rely on it that the
    /// device touches no memory (virtio 1.3, 2.4.1).
    fn reset_device(&mut self) {
        self.runner.reset();
        self.follow_reset();
    }

    fn follow_reset(&mut self) {
        match self.runner.is_resetting() {
            true => self.settle(),
            false => self.reset_registers(),
        }
    }

    fn reset_registers(&mut self) {
        let state = TransportState::power_on(&self.common.sizes());
        self.interrupts.restore(&state);
        self.common.restore(&state);
    }

    /// Goes on with what waits for requests in flight, if they have ended. Comes before everything that a driver does.
    fn settle(&mut self) {
        match self.runner.settle() {
            Ok(true) => self.reset_registers(),
            Ok(false) => {}
            Err(error) => self.give_up(&error),
        }
    }

    /// Follows a change of message control or of the bus master bit.
    fn follow_control(&mut self) {
        let control = u16::from_le_bytes(self.config.bytes_at(self.msix_capability + 2));
        let bus_master = self.config.command().bus_master;
        let (_, bus_master_before) = self.control;
        if self.control == (control, bus_master) {
            return;
        }
        self.control = (control, bus_master);
        self.msix.set_control(control, bus_master);
        if bus_master == bus_master_before {
            return;
        }
        let followed = self.runner.set_bus_master(bus_master);
        self.note_failure(followed);
    }

    fn note_failure(&mut self, result: Result<(), StartError>) {
        if let Err(error) = result {
            self.give_up(&error);
        }
    }

    fn follow_config_message(&mut self) {
        self.runner.note_config_message(self.interrupts.config_message());
    }

    /// The window through which a BAR can be reached without decoding (virtio 1.3, 4.1.4.9): BAR, offset in it, and
    /// bytes. `None` unless these make sense and the access at `offset` touches the data.
    fn access(&self, offset: u16, length: usize) -> Option<(u8, u64, usize)> {
        let data = self.access_capability + 16;
        let first = usize::from(offset);
        if first + length <= data || data + 4 <= first {
            return None;
        }
        let [bar] = self.config.bytes_at(self.access_capability + 4);
        let target = u32::from_le_bytes(self.config.bytes_at(self.access_capability + 8));
        let bytes = u32::from_le_bytes(self.config.bytes_at(self.access_capability + 12));
        let known = self.config.bars().iter().find(|known| known.index == bar)?;
        let bytes = matches!(bytes, 1 | 2 | 4).then_some(bytes)?;
        let end = u64::from(target) + u64::from(bytes);
        (end <= known.size).then_some((bar, u64::from(target), usize::try_from(bytes).ok()?))
    }
}

fn identity<M: GuestMemoryHandle>(device: &dyn VirtioDevice<M>) -> Identity {
    let kind = device.kind();
    let id = DEVICE_BASE.saturating_add(kind.id);
    Identity {
        vendor: VENDOR,
        device: id,
        revision: REVISION,
        class: kind.pci_class,
        subsystem_vendor: VENDOR,
        subsystem: id,
    }
}

impl<M: GuestMemoryHandle> VirtioPci<M> {
    /// Registers as a guest finds them, the device on its way to rest.
    fn power_on(&mut self) {
        self.follow_reset();
        self.device_config = DeviceConfig::default();
        self.config.reset();
        self.follow_control();
        self.msix.reset();
        self.follow_config_message();
    }
}

impl<M: GuestMemoryHandle> PciFunction for VirtioPci<M> {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.settle();
        if let Some((bar, target, length)) = self.access(offset, data.len()) {
            let mut value = [0; 4];
            self.bar_read(bar, target, &mut value[..length]);
            self.config.show(self.access_capability + 16, &value[..length]);
        }
        let [low] = self.config.bytes_at(STATUS);
        let asserted = if self.interrupts.is_asserted() { STATUS_INTERRUPT } else { 0 };
        self.config.show(STATUS, &[low & !STATUS_INTERRUPT | asserted]);
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.settle();
        self.config.write(offset, data);
        if let Some((bar, target, length)) = self.access(offset, data.len()) {
            let value: [u8; 4] = self.config.bytes_at(self.access_capability + 16);
            self.bar_write(bar, target, &value[..length]);
        }
        self.follow_control();
        self.follow_config_message();
    }

    fn bar_decoded(&mut self, bar: u8, address: Option<u64>) {
        if bar == REGISTERS_BAR {
            self.runner.doorbells.place(address);
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        self.settle();
        fill_ones(data);
        if bar == MSIX_BAR {
            self.msix.read(offset, data);
            return;
        }
        match layout::locate(offset) {
            Some((Structure::Common, offset)) => {
                let image = self.common.image(self.shown());
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = start.checked_add(data.len()).and_then(|end| image.get(start..end));
                match bytes {
                    Some(bytes) => data.copy_from_slice(bytes),
                    None => self.reporter.counters.ignored_accesses.one(),
                }
            }
            Some((Structure::Isr, 0)) => {
                data.fill(0);
                data[0] = self.interrupts.take_isr();
            }
            Some((Structure::Device, offset)) => {
                self.runner.device.config_read(offset);
                self.device_config.read(self.runner.device.config(), offset, data);
            }
            Some((Structure::Isr | Structure::Notify, _)) | None => {
                self.reporter.counters.ignored_accesses.one()
            }
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.settle();
        if bar == MSIX_BAR {
            self.msix.write(offset, data);
            self.follow_config_message();
            return;
        }
        match layout::locate(offset) {
            Some((Structure::Common, offset)) => {
                self.write_common(offset, data);
                self.follow_config_message();
            }
            Some((Structure::Device, offset)) => self.write_device_config(offset, data),
            Some((Structure::Notify, offset)) => {
                let queue = layout::doorbell_queue(offset).filter(|_| matches!(data.len(), 2 | 4));
                if !queue.is_some_and(|queue| self.runner.doorbells.ring(queue)) {
                    self.reporter.counters.ignored_accesses.one();
                }
            }
            Some((Structure::Isr, _)) | None => self.reporter.counters.ignored_accesses.one(),
        }
    }

    fn is_settled(&mut self) -> bool {
        self.settle();
        self.runner.is_settled()
    }

    fn hold(&mut self) {
        let held = self.runner.hold();
        self.note_failure(held);
    }

    fn resume(&mut self) {
        let resumed = self.runner.resume();
        self.note_failure(resumed);
    }

    fn save(&self) -> Result<Vec<Section>, StateError> {
        self.save_sections()
    }

    fn restore(&mut self, sections: Vec<Section>) -> Result<(), StateError> {
        self.settle();
        self.restore_sections(sections)
    }

    fn reset(&mut self) {
        self.runner.end();
        self.power_on();
    }

    fn reset_for_next(&mut self) {
        self.runner.reset();
        self.power_on();
    }

    fn take_device(&mut self) -> Option<Box<dyn Any + Send>> {
        self.settle();
        self.runner.take_device().map(|device| Box::new(device) as Box<dyn Any + Send>)
    }

    fn cancel(&mut self) {
        self.runner.cancel();
    }

    fn abandon(&mut self) {
        if !self.is_settled() {
            self.reporter.warn(
                |counters| &counters.host_failures,
                &"requests do not end; they are left to themselves",
            );
            self.runner.abandon();
            self.reset_registers();
        }
    }
}
