//! A driver of the block device: frames requests as it is told, rings, waits and reads the answers.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::{Bytes, GuestAddress};

use crate::virtio::blk::test_disk::TestDisk;
use crate::virtio::blk::{Blk, BlkHandle, BlkOptions, DiskBackend, Serial};
use crate::virtio::test_driver::{
    BUFFERS, MEMORY_BYTES, ReadConfig, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use crate::virtio::{VirtioDevice, Worker};

/// Memory that no request has written.
pub const UNTOUCHED: u8 = 0xEE;

pub struct Bench {
    pub memory: TestMemory,
    pub device: Blk<TestMemory>,
    pub handle: BlkHandle,
    pub interrupt: Arc<TestInterrupt>,
    pub queues: Vec<TestQueue>,
    pub worker: Option<Box<dyn Worker>>,
    heap: u64,
}

/// A request that the driver waits for.
#[derive(Debug, Clone)]
pub struct Pending {
    pub queue: usize,
    pub head: u16,
    answer: Vec<(u64, u32)>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The bytes that the device could write, as they are now.
    pub bytes: Vec<u8>,
    /// How many of them it says it wrote.
    pub written: u32,
}

impl Answer {
    pub fn status(&self) -> u8 {
        *self.bytes.last().unwrap()
    }

    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - 1]
    }
}

impl Bench {
    pub fn new(disk: &TestDisk, queues: u16) -> Self {
        Self::with(disk, queues, 64, u64::MAX)
    }

    /// A device whose driver takes the features in `mask` that are offered.
    pub fn with(disk: &TestDisk, queues: u16, size: u16, mask: u64) -> Self {
        let mut bench = Self::at_rest(disk, queues, size);
        bench.activate(mask);
        bench
    }

    pub fn at_rest(disk: &TestDisk, queues: u16, size: u16) -> Self {
        let backend: Arc<dyn DiskBackend<TestMemory>> = Arc::new(disk.clone());
        let options = BlkOptions {
            queues: NonZeroU16::new(queues).unwrap(),
            serial: Serial::new("SERIAL-7").unwrap(),
            ..BlkOptions::default()
        };
        let device = Blk::new(backend, options).unwrap();
        let memory = memory();
        let queues = (0..queues).map(|index| TestQueue::new(&memory, index, size)).collect();
        let handle = device.handle();
        let interrupt = Arc::default();
        Self { memory, device, handle, interrupt, queues, worker: None, heap: BUFFERS }
    }

    pub fn features(&self) -> u64 {
        self.device.features()
    }

    pub fn activate(&mut self, mask: u64) {
        let queues: Vec<&TestQueue> = self.queues.iter().collect();
        let activation = activation(&self.memory, self.features() & mask, &queues, &self.interrupt);
        let mut worker = self.device.activate(activation).unwrap();
        worker.start();
        self.worker = Some(worker);
    }

    pub fn worker(&mut self) -> &mut dyn Worker {
        self.worker.as_mut().unwrap().as_mut()
    }

    /// Stops the worker and resets the device.
    pub fn reset(&mut self) {
        self.worker().stop(&AtomicBool::new(false));
        let worker = self.worker.take();
        self.device.reset(worker);
    }

    /// `length` bytes of memory in pieces as long as `cuts` say, in turn, each followed by a gap of its length.
    fn pieces(&mut self, mut length: u32, cuts: &[u32]) -> Vec<(u64, u32)> {
        let mut pieces = Vec::new();
        let mut cuts = cuts.iter().copied().chain([u32::MAX]).cycle();
        while length > 0 {
            let take = cuts.next().unwrap().clamp(1, length);
            if self.heap + 2 * u64::from(take) > MEMORY_BYTES {
                self.heap = BUFFERS;
            }
            pieces.push((self.heap, take));
            self.heap += 2 * u64::from(take) + 3;
            length -= take;
        }
        pieces
    }

    /// Makes a request available: these bytes to read, room for so many to write, both cut into descriptors. `None` if
    /// the queue has no room.
    pub fn post(&mut self, queue: usize, request: &[u8], room: u32, cuts: &[u32]) -> Option<Pending> {
        let readable = self.pieces(u32::try_from(request.len()).unwrap(), cuts);
        let answer = self.pieces(room, cuts);
        let mut at = 0;
        for (address, length) in &readable {
            let end = at + *length as usize;
            self.memory.write_slice(&request[at..end], GuestAddress(*address)).unwrap();
            at = end;
        }
        for (address, length) in &answer {
            let untouched = vec![UNTOUCHED; *length as usize];
            self.memory.write_slice(&untouched, GuestAddress(*address)).unwrap();
        }
        let buffers: Vec<_> = readable
            .iter()
            .map(|piece| (piece.0, piece.1, false))
            .chain(answer.iter().map(|piece| (piece.0, piece.1, true)))
            .collect();
        let head = self.queues[queue].add(&buffers)?;
        Some(Pending { queue, head, answer })
    }

    /// What the device says to everything that it has answered on a queue.
    pub fn reap(&mut self, queue: usize, pending: &mut Vec<Pending>) -> Vec<(Pending, Answer)> {
        let mut answers = Vec::new();
        while let Some((head, written)) = self.queues[queue].used() {
            let found = pending.iter().position(|p| p.queue == queue && p.head == head);
            let request = pending.swap_remove(found.expect("a chain is used that was not available"));
            let answer = Answer { bytes: self.bytes(&request.answer), written };
            answers.push((request, answer));
        }
        answers
    }

    fn bytes(&self, pieces: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (address, length) in pieces {
            let mut piece = vec![0; *length as usize];
            self.memory.read_slice(&mut piece, GuestAddress(*address)).unwrap();
            bytes.extend(piece);
        }
        bytes
    }

    /// The driver rings a queue.
    pub fn kick(&mut self, queue: usize) {
        let token = u32::try_from(queue).unwrap() * 3;
        assert!(!self.worker().ready(token));
    }

    /// The engine of a queue has news.
    pub fn poll(&mut self, queue: usize) {
        let token = u32::try_from(queue).unwrap() * 3 + 1;
        assert!(!self.worker().ready(token));
    }

    /// One request on queue 0, from beginning to end.
    pub fn ask(&mut self, request: &[u8], room: u32) -> Answer {
        self.ask_framed(request, room, &[16])
    }

    pub fn ask_framed(&mut self, request: &[u8], room: u32, cuts: &[u32]) -> Answer {
        let mut pending = vec![self.post(0, request, room, cuts).unwrap()];
        self.kick(0);
        let mut answers = self.reap(0, &mut pending);
        assert_eq!(answers.len(), 1);
        answers.remove(0).1
    }

    pub fn config(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0xFF; length];
        self.device.read_config(offset, &mut data);
        data
    }
}

/// The header of a request.
pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// A request with extents: sector, sectors, flags.
pub fn extents(kind: u32, extents: &[(u64, u32, u32)]) -> Vec<u8> {
    let mut bytes = header(kind, 0);
    for (sector, count, flags) in extents {
        bytes.extend(sector.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    bytes
}
