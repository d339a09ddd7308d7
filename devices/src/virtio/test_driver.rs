//! The driver's side of split virtqueues in memory of a test (virtio 1.3, 2.7), right or wrong as the test wants.
//! What the buffers mean is left to the test. Its mistakes are panics.
#![expect(clippy::unwrap_used, reason = "a test's own mistakes end the test")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Activation, ActiveQueue, GuestMemoryHandle, QueueFault, VirtioDevice, VirtioInterrupt};
use crate::interrupt::InterruptError;

/// Guest memory of a test, which counts how often it is used.
pub type TestMemory = Arc<GuestMemoryMmap<AccessCount>>;

/// Counts the accesses to a region. It is a bitmap because vm-memory asks a region for its bitmap at each access.
#[derive(Debug, Default)]
pub struct AccessCount(AtomicU64);

/// Leads to the count of a region.
#[derive(Debug, Clone, Copy)]
pub struct AccessSlice<'a>(&'a AtomicU64);

impl<'a> WithBitmapSlice<'a> for AccessCount {
    type S = AccessSlice<'a>;
}

impl Bitmap for AccessCount {
    fn mark_dirty(&self, _: usize, _: usize) {}

    fn dirty_at(&self, _: usize) -> bool {
        false
    }

    fn slice_at(&self, _: usize) -> AccessSlice<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        AccessSlice(&self.0)
    }
}

impl<'a> WithBitmapSlice<'a> for AccessSlice<'_> {
    type S = Self;
}

impl Bitmap for AccessSlice<'_> {
    fn mark_dirty(&self, _: usize, _: usize) {}

    fn dirty_at(&self, _: usize) -> bool {
        false
    }

    fn slice_at(&self, _: usize) -> Self {
        *self
    }
}

impl BitmapSlice for AccessSlice<'_> {}

impl NewBitmap for AccessCount {
    fn with_len(_: usize) -> Self {
        Self::default()
    }
}

/// How often `memory` was used so far: once for each piece of each access.
pub fn accesses(memory: &GuestMemoryMmap<AccessCount>) -> u64 {
    // Asking for the bitmap counts as well, and is taken off again.
    memory.iter().map(|region| region.bitmap().0.fetch_sub(1, Ordering::Relaxed) - 1).sum()
}

/// Where buffers may lie: below are rings.
pub const BUFFERS: u64 = 0x10_0000;
/// All memory.
pub const MEMORY_BYTES: u64 = 0x80_0000;
/// Rings of each queue.
pub const QUEUE_BYTES: u64 = 0x4000;

/// Two regions, so that buffers may lie across their border.
pub const BORDER: u64 = 0x40_0000;

/// New memory.
pub fn memory() -> TestMemory {
    let first = (GuestAddress(0), usize::try_from(BORDER).unwrap());
    let second = (GuestAddress(BORDER), usize::try_from(MEMORY_BYTES - BORDER).unwrap());
    Arc::new(GuestMemoryMmap::from_ranges(&[first, second]).unwrap())
}

/// What the device said to its driver.
#[derive(Default)]
pub struct TestInterrupt {
    queues: Mutex<Vec<u16>>,
    /// How often the configuration changed.
    pub config: AtomicU64,
    /// What the driver is accused of.
    pub faults: Mutex<Vec<(u16, QueueFault)>>,
    /// Why the device could not go on.
    pub failures: Mutex<Vec<String>>,
    /// Whether there are eventfds for a datapath in the kernel.
    pub has_calls: AtomicBool,
}

impl TestInterrupt {
    /// The interrupts since the last time this was asked.
    pub fn take(&self) -> Vec<u16> {
        self.queues.lock().unwrap().drain(..).collect()
    }
}

impl VirtioInterrupt for TestInterrupt {
    fn queue_used(&self, index: u16) -> Result<(), InterruptError> {
        self.queues.lock().unwrap().push(index);
        Ok(())
    }

    fn config_changed(&self) -> Result<(), InterruptError> {
        self.config.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn queue_call(&self, _: u16) -> Option<EventFd> {
        self.has_calls.load(Ordering::Relaxed).then(|| EventFd::new(EFD_NONBLOCK).unwrap())
    }

    fn device_failed(&self, why: &str) {
        self.failures.lock().unwrap().push(why.to_owned());
    }

    fn driver_fault(&self, index: u16, fault: QueueFault) {
        self.faults.lock().unwrap().push((index, fault));
    }
}

/// A buffer: where, how long, and whether the device may write it.
pub type TestBuffer = (u64, u32, bool);

/// One queue.
pub struct TestQueue {
    memory: TestMemory,
    index: u16,
    /// Its entries.
    pub size: u16,
    kick: EventFd,
    free: Vec<u16>,
    available: u16,
    used: u16,
}

impl TestQueue {
    /// A queue whose rings lie where its number says.
    pub fn new(memory: &TestMemory, index: u16, size: u16) -> Self {
        Self {
            memory: Arc::clone(memory),
            index,
            size,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            free: (0..size).rev().collect(),
            available: 0,
            used: 0,
        }
    }

    /// Address of its descriptor table.
    pub fn descriptors(&self) -> u64 {
        u64::from(self.index) * QUEUE_BYTES
    }

    /// Address of its available ring.
    pub fn available_ring(&self) -> u64 {
        self.descriptors() + 0x1000
    }

    /// Address of its used ring.
    pub fn used_ring(&self) -> u64 {
        self.descriptors() + 0x2000
    }

    /// As the transport hands it to the device.
    pub fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.descriptors())).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.available_ring())).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.used_ring())).unwrap();
        queue.set_ready(true);
        assert!(queue.is_valid(&*self.memory));
        ActiveQueue { index: self.index, queue, kick: self.kick.try_clone().unwrap(), broken: false }
    }

    /// Writes a descriptor.
    pub fn descriptor(&self, number: u16, address: u64, length: u32, flags: u16, next: u16) {
        self.write_descriptor(self.descriptors() + u64::from(number) * 16, address, length, flags, next);
    }

    fn write_descriptor(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        let at = GuestAddress(at);
        self.memory.write_obj(address, at).unwrap();
        self.memory.write_obj(length, at.unchecked_add(8)).unwrap();
        self.memory.write_obj(flags, at.unchecked_add(12)).unwrap();
        self.memory.write_obj(next, at.unchecked_add(14)).unwrap();
    }

    /// Makes a chain available; `None` if the queue has no room for it.
    pub fn add(&mut self, buffers: &[TestBuffer]) -> Option<u16> {
        if self.free.len() < buffers.len() {
            return None;
        }
        let numbers = self.free.split_off(self.free.len() - buffers.len());
        for (i, (buffer, number)) in buffers.iter().zip(&numbers).enumerate() {
            let next = numbers.get(i + 1).copied();
            let flags = u16::from(next.is_some()) | u16::from(buffer.2) << 1;
            self.descriptor(*number, buffer.0, buffer.1, flags, next.unwrap_or(0));
        }
        self.make_available(numbers[0]);
        Some(numbers[0])
    }

    /// Makes a chain available whose descriptors are in a table at `table`; `None` if the queue has no room for it.
    pub fn add_indirect(&mut self, table: u64, buffers: &[TestBuffer]) -> Option<u16> {
        let head = self.free.pop()?;
        for (i, buffer) in (0_u16..).zip(buffers) {
            let more = usize::from(i) + 1 < buffers.len();
            let flags = u16::from(more) | u16::from(buffer.2) << 1;
            self.write_descriptor(table + u64::from(i) * 16, buffer.0, buffer.1, flags, i + 1);
        }
        let length = u32::try_from(buffers.len() * 16).unwrap();
        // The table's own write flag means nothing.
        let flags = 4 | u16::from(head % 2 == 0) << 1;
        self.descriptor(head, table, length, flags, 0);
        self.make_available(head);
        Some(head)
    }

    /// Makes available what begins at `head`, whatever that is.
    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size) * 2;
        self.memory.write_obj(head, GuestAddress(self.available_ring() + 4 + slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory
            .store(self.available, GuestAddress(self.available_ring() + 2), Ordering::Release)
            .unwrap();
    }

    /// The next chain that the device used: its head and the bytes written. Its descriptors are free again.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::Acquire).unwrap();
        if index == self.used {
            return None;
        }
        let at = GuestAddress(self.used_ring() + 4 + u64::from(self.used % self.size) * 8);
        let head: u32 = self.memory.read_obj(at).unwrap();
        let written: u32 = self.memory.read_obj(at.unchecked_add(4)).unwrap();
        self.used = self.used.wrapping_add(1);
        let head = u16::try_from(head).unwrap();
        self.reclaim(head);
        Some((head, written))
    }

    /// The device used nothing that the driver has not taken.
    pub fn is_idle(&self) -> bool {
        let index: u16 = self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::Acquire).unwrap();
        index == self.used
    }

    fn reclaim(&mut self, head: u16) {
        let mut number = head;
        for _ in 0..self.size {
            assert!(!self.free.contains(&number), "descriptor {number} used twice");
            self.free.push(number);
            let at = self.descriptors() + u64::from(number) * 16;
            let flags: u16 = self.memory.read_obj(GuestAddress(at + 12)).unwrap();
            if flags & 1 == 0 {
                return;
            }
            number = self.memory.read_obj(GuestAddress(at + 14)).unwrap();
        }
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Where the first buffer of a chain lies.
    pub fn address_of(&self, head: u16) -> u64 {
        self.memory.read_obj(GuestAddress(self.descriptors() + u64::from(head) * 16)).unwrap()
    }

    /// Whether the device wants to be notified of what has been made available (without event indexes).
    pub fn wants_kick(&self) -> bool {
        let flags: u16 = self.memory.read_obj(GuestAddress(self.used_ring())).unwrap();
        flags & 1 == 0
    }

    /// Whether the driver wants to be interrupted (without event indexes).
    pub fn set_wants_interrupt(&self, wants: bool) {
        self.memory.write_obj(u16::from(!wants), GuestAddress(self.available_ring())).unwrap();
    }

    /// Clears the rings, as a driver does before it sets a queue up.
    pub fn clear(&self) {
        let zeros = vec![0; usize::try_from(QUEUE_BYTES).unwrap()];
        self.memory.write_slice(&zeros, GuestAddress(self.descriptors())).unwrap();
    }

    /// From which used entry on the driver wants to be interrupted.
    pub fn set_used_event(&self, event: u16) {
        let at = self.available_ring() + 4 + u64::from(self.size) * 2;
        self.memory.write_obj(event, GuestAddress(at)).unwrap();
    }
}

/// Reads configuration as a transport does.
pub trait ReadConfig<M> {
    /// From `offset` on; zeros past the end.
    fn read_config(&self, offset: u64, data: &mut [u8]);
}

impl<M: GuestMemoryHandle, D: VirtioDevice<M> + ?Sized> ReadConfig<M> for D {
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config_read(offset);
        let config = self.config();
        data.fill(0);
        for (to, from) in data.iter_mut().zip(config.iter().skip(usize::try_from(offset).unwrap())) {
            *to = *from;
        }
    }
}

/// An activation with these queues.
pub fn activation(
    memory: &TestMemory,
    features: u64,
    queues: &[&TestQueue],
    interrupt: &Arc<TestInterrupt>,
) -> Activation<TestMemory> {
    let active = |queue: &&TestQueue| {
        let mut active = queue.active();
        active.queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        active
    };
    Activation {
        memory: Arc::clone(memory),
        features,
        queues: queues.iter().map(active).collect(),
        interrupt: Arc::clone(interrupt) as Arc<dyn VirtioInterrupt>,
    }
}
