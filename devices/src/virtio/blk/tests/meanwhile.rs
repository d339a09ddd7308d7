//! What a driver, or the host, changes while the worker is in the middle of a round.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::bench::header;
use crate::virtio::VirtioDevice;
use crate::virtio::blk::test_disk::{SHAPE, TestDisk};
use crate::virtio::blk::{Blk, BlkOptions, Completion, Disk, DiskBackend, DiskEngine, DiskShape, Operation};
use crate::virtio::test_driver::{BUFFERS, TestInterrupt, TestMemory, TestQueue, activation, memory};

const OUT: u32 = 1;
const WRITEBACK: u64 = 32;

type Event = Mutex<Option<Box<dyn FnOnce() + Send>>>;

/// A disk during whose first operation something happens.
struct EventfulDisk {
    disk: TestDisk,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    event: Event,
    /// Whether the writes that came were to be durable.
    durable: Mutex<Vec<bool>>,
}

impl Disk for EventfulDisk {
    fn shape(&self) -> DiskShape {
        self.disk.shape()
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.length()
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}

impl DiskBackend<TestMemory> for EventfulDisk {
    fn engine(&self, memory: &TestMemory, depth: u16) -> Box<dyn DiskEngine> {
        let engine = self.disk.engine(memory, depth);
        Box::new(EventfulEngine { engine, shared: Arc::clone(&self.shared) })
    }
}

struct EventfulEngine {
    engine: Box<dyn DiskEngine>,
    shared: Arc<Shared>,
}

impl DiskEngine for EventfulEngine {
    fn fds(&self) -> [Option<RawFd>; 2] {
        self.engine.fds()
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        if let Operation::Write { durable, .. } = &operation {
            self.shared.durable.lock().unwrap().push(*durable);
        }
        self.engine.submit(tag, operation);
        if let Some(event) = self.shared.event.lock().unwrap().take() {
            event();
        }
    }

    fn start(&mut self) {
        self.engine.start();
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.engine.completions(done);
    }

    fn drain(&mut self, done: &mut Vec<Completion>, cancelled: &AtomicBool) {
        self.engine.drain(done, cancelled);
    }
}

#[test]
fn a_request_is_judged_by_what_holds_when_it_is_taken_and_not_when_the_round_began() {
    let disk = TestDisk::new(vec![0; 128 * 512], SHAPE);
    disk.state().length = Ok(64 * 512);
    let shared = Arc::new(Shared::default());
    let backend = EventfulDisk { disk: disk.clone(), shared: Arc::clone(&shared) };
    let mut blk = Blk::<TestMemory>::new(Arc::new(backend), BlkOptions::default()).unwrap();
    let (memory, handle) = (memory(), blk.handle());
    let mut driver = TestQueue::new(&memory, 0, 64);
    let write = |driver: &mut TestQueue, at: u64, sector: u64| {
        memory.write_slice(&header(OUT, sector), GuestAddress(at)).unwrap();
        driver.add(&[(at, 16, false), (at + 0x1000, 512, false), (at + 0x2000, 1, true)]).unwrap();
    };
    write(&mut driver, BUFFERS, 0);
    let interrupt = Arc::new(TestInterrupt::default());
    let mut worker = blk.activate(activation(&memory, blk.features(), &[&driver], &interrupt)).unwrap();

    // The last sector that there was not when the first request came, and with write-through.
    let (queue, blk) = (Arc::new(Mutex::new(driver)), Mutex::new(blk));
    let (later, second) = (Arc::clone(&queue), memory.clone());
    *shared.event.lock().unwrap() = Some(Box::new(move || {
        disk.state().length = Ok(128 * 512);
        handle.resize(None, || true).unwrap();
        VirtioDevice::<TestMemory>::write_config(&mut *blk.lock().unwrap(), WRITEBACK, &[0]);
        let at = BUFFERS + 0x4000;
        second.write_slice(&header(OUT, 127), GuestAddress(at)).unwrap();
        let chain = [(at, 16, false), (at + 0x1000, 512, false), (at + 0x2000, 1, true)];
        later.lock().unwrap().add(&chain).unwrap();
    }));
    worker.start();

    let mut queue = queue.lock().unwrap();
    assert!(queue.used().is_some() && queue.used().is_some());
    assert_eq!(*shared.durable.lock().unwrap(), [false, true]);
    for at in [BUFFERS + 0x2000, BUFFERS + 0x6000] {
        assert_eq!(memory.read_obj::<u8>(GuestAddress(at)).unwrap(), 0);
    }
}
