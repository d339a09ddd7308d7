//! A driver of the echo device, or another, that finds everything through the configuration space, as a guest would.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::common::status;
use super::test_echo::{Echo, EchoState, QUEUE_SIZE, QUEUES};
use super::{VirtioCounters, VirtioPci, VirtioPciHost};
use crate::bus::SharedDevice;
use crate::interrupt::MsiMessage;
use crate::pci::testing::{TestIoEvents, TestSpawner, TestVectors};
use crate::pci::{PciSegment, PciSegmentBuilder, SegmentState, WorkerSpawner};
use crate::state::Section;
use crate::virtio::VirtioDevice;
use crate::virtio::test_driver::{TestMemory, TestQueue, memory};

pub(in crate::virtio) const WINDOW: u64 = 0x80_0000_0000;
pub(in crate::virtio) const WINDOW_BYTES: u64 = 1 << 20;
const SLOT: u64 = 1;

pub(in crate::virtio) const VERSION_1: u64 = 1 << 32;
pub(in crate::virtio) const INDIRECT: u64 = 1 << 28;
pub(in crate::virtio) const EVENT_IDX: u64 = 1 << 29;

/// Registers of the common configuration.
pub(in crate::virtio) mod register {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const CONFIG_VECTOR: u64 = 16;
    pub const QUEUES: u64 = 18;
    pub const STATUS: u64 = 20;
    pub const GENERATION: u64 = 21;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY: u64 = 30;
    pub const DESCRIPTORS: u64 = 32;
    pub const AVAILABLE: u64 = 40;
    pub const USED: u64 = 48;
}

/// A structure that a capability tells of: BAR, offset and length, and where the capability is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::virtio) struct Found {
    pub bar: u8,
    pub offset: u32,
    pub length: u32,
    pub at: u16,
}

pub(in crate::virtio) struct Machine {
    pub segment: Arc<PciSegment>,
    pub ecam: SharedDevice,
    pub bars: SharedDevice,
    pub vectors: Arc<TestVectors>,
    pub events: Arc<TestIoEvents>,
    pub spawner: Arc<TestSpawner>,
    pub state: Arc<EchoState>,
    pub counters: Arc<VirtioCounters>,
    pub memory: TestMemory,
    queues: u16,
    /// By `cfg_type`.
    pub found: BTreeMap<u8, Found>,
    pub msix: u16,
}

impl Machine {
    /// Workers run when the test says so.
    pub fn new() -> Self {
        let spawner = Arc::<TestSpawner>::default();
        Self { spawner: Arc::clone(&spawner), ..Self::with_spawner(spawner) }
    }

    pub fn with_spawner(workers: Arc<dyn WorkerSpawner>) -> Self {
        let state = Arc::<EchoState>::default();
        Self { state: Arc::clone(&state), ..Self::with(Box::new(Echo(state)), workers, Arc::default()) }
    }

    /// With another device; workers run when the test says so.
    pub fn of(device: Box<dyn VirtioDevice<TestMemory>>) -> Self {
        let spawner = Arc::<TestSpawner>::default();
        Self { spawner: Arc::clone(&spawner), ..Self::with(device, spawner, Arc::default()) }
    }

    /// The machine that follows when the guest resets, with the same device.
    pub fn next(self) -> Self {
        self.segment.reset_for_next(&[u8::try_from(SLOT).unwrap()]);
        assert!(self.segment.is_settled());
        let device = self.segment.take_device(u8::try_from(SLOT).unwrap()).unwrap();
        let device = *device.downcast::<Box<dyn VirtioDevice<TestMemory>>>().unwrap();
        let spawner = Arc::<TestSpawner>::default();
        Self { spawner: Arc::clone(&spawner), ..Self::with(device, spawner, Arc::clone(&self.counters)) }
    }

    /// Another machine with this device, as at power-on but for memory, which is this machine's.
    pub fn successor(&self, device: Box<dyn VirtioDevice<TestMemory>>) -> Self {
        let spawner = Arc::<TestSpawner>::default();
        let workers = Arc::clone(&spawner) as _;
        let machine = Self::with_memory(Arc::clone(&self.memory), device, workers, Arc::default());
        Self { spawner, ..machine }
    }

    /// Holds the function, and gives its state as it would be kept in a file.
    pub fn save(&self) -> String {
        self.segment.hold();
        assert!(self.segment.is_settled(), "requests in flight do not end");
        let running = self.spawner.running();
        assert_eq!(running, 0, "held, and {running} workers run");
        serde_json::to_string(&Section::of(&self.segment.save().unwrap()).unwrap()).unwrap()
    }

    /// Becomes as that state says, and goes on.
    pub fn restore(&self, saved: &str) {
        let section: Section = serde_json::from_str(saved).unwrap();
        self.segment.restore(section.decode::<SegmentState>().unwrap()).unwrap();
        assert_eq!(self.spawner.running(), 0, "not resumed yet");
        self.segment.resume();
    }

    /// As far as that state makes sense; false if it does not.
    pub fn try_restore(&self, saved: &str) -> bool {
        let section = serde_json::from_str::<Section>(saved);
        let state = section.ok().and_then(|section| section.decode::<SegmentState>().ok());
        state.is_some_and(|state| self.segment.restore(state).is_ok())
    }

    fn with(
        device: Box<dyn VirtioDevice<TestMemory>>,
        workers: Arc<dyn WorkerSpawner>,
        counters: Arc<VirtioCounters>,
    ) -> Self {
        Self::with_memory(memory(), device, workers, counters)
    }

    fn with_memory(
        memory: TestMemory,
        device: Box<dyn VirtioDevice<TestMemory>>,
        workers: Arc<dyn WorkerSpawner>,
        counters: Arc<VirtioCounters>,
    ) -> Self {
        let (vectors, events) = (Arc::<TestVectors>::default(), Arc::<TestIoEvents>::default());
        let (spawner, state) = (Arc::default(), Arc::default());
        let queues = u16::try_from(device.queue_sizes().len()).unwrap();
        let host = VirtioPciHost {
            vectors: Arc::clone(&vectors) as _,
            io_events: Arc::clone(&events) as _,
            spawner: workers,
            counters: Arc::clone(&counters),
        };
        assert_eq!(VirtioPci::<TestMemory>::vectors(&*device), queues + 1);
        let function = VirtioPci::new("test0", device, Arc::clone(&memory), host).unwrap();
        let mut builder = PciSegmentBuilder::new(0, WINDOW..=WINDOW + (WINDOW_BYTES - 1));
        builder.add(None, Box::new(function)).unwrap();
        let segment = builder.build();
        let (ecam, bars) = (segment.ecam(), segment.bar_window());
        let found = BTreeMap::new();
        let mut machine = Self {
            segment,
            ecam,
            bars,
            vectors,
            events,
            spawner,
            state,
            counters,
            memory,
            queues,
            found,
            msix: 0,
        };
        machine.discover();
        machine
    }

    /// Walks the list of capabilities.
    fn discover(&mut self) {
        assert_eq!(self.config::<2>(6), [0x10, 0]);
        let [mut at] = self.config::<1>(0x34).map(u16::from);
        while at != 0 {
            let [id, next, _, kind] = self.config(at);
            match id {
                0x11 => self.msix = at,
                0x09 => {
                    let [bar] = self.config(at + 4);
                    let offset = u32::from_le_bytes(self.config(at + 8));
                    let length = u32::from_le_bytes(self.config(at + 12));
                    self.found.entry(kind).or_insert(Found { bar, offset, length, at });
                }
                _ => panic!("capability {id:#x}"),
            }
            at = u16::from(next);
        }
    }

    pub fn config<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        self.ecam.read(SLOT << 15 | u64::from(offset), &mut data);
        data
    }

    pub fn set_config(&self, offset: u16, data: &[u8]) {
        self.ecam.write(SLOT << 15 | u64::from(offset), data);
    }

    pub fn set_command(&self, memory: bool, bus_master: bool) {
        self.set_config(4, &[u8::from(memory) << 1 | u8::from(bus_master) << 2, 0]);
    }

    pub fn bar_address(&self, bar: u8) -> u64 {
        u64::from_le_bytes(self.config(0x10 + u16::from(bar) * 4)) & !0xF
    }

    pub fn move_bar(&self, bar: u8, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        let at = 0x10 + u16::from(bar) * 4;
        self.set_config(at, &[a, b, c, d]);
        self.set_config(at + 4, &[e, f, g, h]);
    }

    pub fn mmio_read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        self.bars.read(address - WINDOW, &mut data);
        data
    }

    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        self.bars.write(address - WINDOW, data);
    }

    pub fn structure(&self, kind: u8) -> u64 {
        let found = self.found[&kind];
        self.bar_address(found.bar) + u64::from(found.offset)
    }

    pub fn common<const N: usize>(&self, register: u64) -> [u8; N] {
        self.mmio_read(self.structure(1) + register)
    }

    pub fn set_common(&self, register: u64, data: &[u8]) {
        self.mmio_write(self.structure(1) + register, data);
    }

    pub fn common_16(&self, register: u64) -> u16 {
        u16::from_le_bytes(self.common(register))
    }

    pub fn set_common_16(&self, register: u64, value: u16) {
        self.set_common(register, &value.to_le_bytes());
    }

    pub fn set_common_32(&self, register: u64, value: u32) {
        self.set_common(register, &value.to_le_bytes());
    }

    pub fn status(&self) -> u8 {
        self.common::<1>(register::STATUS)[0]
    }

    pub fn set_status(&self, value: u8) {
        self.set_common(register::STATUS, &[value]);
    }

    pub fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.set_common_32(register::DEVICE_FEATURE_SELECT, select);
            u64::from(u32::from_le_bytes(self.common(register::DEVICE_FEATURE)))
        };
        half(0) | half(1) << 32
    }

    pub fn pick(&self, features: u64) {
        for (select, value) in [(0, features & 0xFFFF_FFFF), (1, features >> 32)] {
            self.set_common_32(register::DRIVER_FEATURE_SELECT, select);
            self.set_common_32(register::DRIVER_FEATURE, u32::try_from(value).unwrap());
        }
    }

    /// Up to FEATURES_OK. Says whether the device accepted.
    pub fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        // As a driver does.
        while self.status() != 0 {
            std::thread::yield_now();
        }
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        self.pick(features);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    pub fn set_queue(&self, queue: &TestQueue, index: u16, vector: u16) {
        queue.clear();
        self.set_common_16(register::QUEUE_SELECT, index);
        self.set_common_16(register::QUEUE_SIZE, queue.size);
        self.set_common_16(register::QUEUE_VECTOR, vector);
        assert_eq!(self.common_16(register::QUEUE_VECTOR), vector);
        let parts = [
            (register::DESCRIPTORS, queue.descriptors()),
            (register::AVAILABLE, queue.available_ring()),
            (register::USED, queue.used_ring()),
        ];
        for (register, address) in parts {
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            self.set_common(register, &[a, b, c, d]);
            self.set_common(register + 4, &[e, f, g, h]);
        }
        self.set_common_16(register::QUEUE_ENABLE, 1);
    }

    pub fn drive(&self) {
        self.set_status(self.status() | status::DRIVER_OK);
    }

    /// All queues, vector 0 for the configuration and one more for each queue.
    pub fn bring_up(&self, features: u64) -> Vec<TestQueue> {
        assert!(self.negotiate(features));
        self.set_common_16(register::CONFIG_VECTOR, 0);
        let queues: Vec<_> = (0..QUEUES).map(|index| self.new_queue(index)).collect();
        for (index, queue) in (0..).zip(&queues) {
            self.set_queue(queue, index, index + 1);
        }
        self.drive();
        queues
    }

    pub fn new_queue(&self, index: u16) -> TestQueue {
        TestQueue::new(&self.memory, index, QUEUE_SIZE)
    }

    /// MSI-X on, vector `v` to CPU `v` with data 0x40 + `v`, all unmasked; decoding and bus mastering on.
    pub fn enable_interrupts(&self) {
        self.set_command(true, true);
        self.set_msix(true, false);
        for vector in 0..=self.queues {
            self.program(vector, message(vector));
        }
    }

    pub fn set_msix(&self, enabled: bool, masked: bool) {
        self.set_config(self.msix + 3, &[u8::from(enabled) << 7 | u8::from(masked) << 6]);
    }

    fn entry(&self, vector: u16) -> u64 {
        let [bar] = self.config(self.msix + 4);
        self.bar_address(bar & 7) + u64::from(vector) * 16
    }

    pub fn program(&self, vector: u16, message: MsiMessage) {
        let entry = self.entry(vector);
        self.mask(vector, true);
        self.mmio_write(entry, &message.address.to_le_bytes());
        self.mmio_write(entry + 8, &message.data.to_le_bytes());
        self.mask(vector, false);
    }

    pub fn mask(&self, vector: u16, masked: bool) {
        self.mmio_write(self.entry(vector) + 12, &u32::from(masked).to_le_bytes());
    }

    pub fn doorbell(&self, index: u16) -> u64 {
        let multiplier = u32::from_le_bytes(self.config(self.found[&2].at + 16));
        self.set_common_16(register::QUEUE_SELECT, index);
        let offset = self.common_16(register::QUEUE_NOTIFY);
        self.structure(2) + u64::from(offset) * u64::from(multiplier)
    }

    /// Notifies a queue; says whether it cost an exit.
    pub fn notify(&self, index: u16) -> bool {
        let doorbell = self.doorbell(index);
        let fast = self.events.write(doorbell);
        if !fast {
            self.mmio_write(doorbell, &index.to_le_bytes());
        }
        !fast
    }

    /// The vectors that were sent since the last time this was asked; each must carry its own message.
    pub fn interrupts(&self) -> Vec<u16> {
        let sent = self.vectors.take();
        for (vector, sent) in &sent {
            assert_eq!(*sent, message(*vector));
        }
        sent.into_iter().map(|(vector, _)| vector).collect()
    }
}

pub(in crate::virtio) fn message(vector: u16) -> MsiMessage {
    MsiMessage { address: 0xFEE0_0000 | u64::from(vector) << 12, data: 0x40 + u32::from(vector) }
}
