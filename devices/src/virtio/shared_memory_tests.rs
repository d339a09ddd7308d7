//! What a request does without. It borrows guest memory: no device clones its handle for one, whose count all devices on all
//! nodes share. And it finds room where others had it before: none takes memory from the heap.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::balloon::test_host::TestHost;
use super::balloon::{Balloon, BalloonOptions};
use super::blk::test_disk::SHAPE;
use super::blk::{
    Blk, BlkOptions, Completion, Disk, DiskBackend, DiskEngine, DiskShape, Operation, Segments,
};
use super::console::Console;
use super::console::test_terminal::TestTerminal;
use super::net::test_tap::EAGAIN;
use super::net::{Net, NetConfig, NetQueues, Offloads, Tap};
use super::rng::Rng;
use super::test_driver::{AccessCount, BUFFERS, TestBuffer, TestInterrupt, TestMemory, TestQueue, memory};
use super::vsock::test_sockets::FakeSockets;
use super::vsock::{GuestCid, Vsock};
use super::{Activation, GuestMemoryHandle, VirtioDevice, VirtioInterrupt};

const REQUESTS: usize = 100;
/// Until everything has the room that it needs.
const FIRST_REQUESTS: usize = 10;

/// Counts its clones.
struct Counted {
    memory: TestMemory,
    clones: Arc<AtomicU64>,
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::Relaxed);
        Self { memory: Arc::clone(&self.memory), clones: Arc::clone(&self.clones) }
    }
}

impl GuestMemoryHandle for Counted {
    type M = GuestMemoryMmap<AccessCount>;

    fn memory(&self) -> &Self::M {
        &self.memory
    }
}

/// A disk that does everything at once, without looking at it.
struct InstantDisk;

impl Disk for InstantDisk {
    fn shape(&self) -> DiskShape {
        SHAPE
    }

    fn length(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }

    fn name(&self) -> String {
        "instant".to_owned()
    }
}

impl DiskBackend<Counted> for InstantDisk {
    fn engine(&self, _: &Counted, _: u16) -> Box<dyn DiskEngine> {
        Box::new(InstantEngine::default())
    }
}

#[derive(Default)]
struct InstantEngine {
    done: Vec<Completion>,
    spare: Vec<Segments>,
}

impl DiskEngine for InstantEngine {
    fn fds(&self) -> [Option<RawFd>; 2] {
        [None; 2]
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        if let Operation::Read { data, .. } | Operation::Write { data, .. } = operation {
            self.spare.push(data);
        }
        self.done.push(Completion { tag, result: Ok(()) });
    }

    fn start(&mut self) {}

    fn completions(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn spare(&mut self) -> Option<Segments> {
        self.spare.pop()
    }

    fn drain(&mut self, done: &mut Vec<Completion>, _: &AtomicBool) {
        self.completions(done);
    }
}

/// An interface that takes every frame, and has one to give at times.
struct Wire {
    event: EventFd,
    has_frame: AtomicBool,
}

impl Tap for Wire {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&self, _: &[VolatileSlice<'_, B>], _: &mut [u8]) -> io::Result<usize> {
        match self.has_frame.swap(false, Ordering::Relaxed) {
            true => Ok(100),
            false => Err(io::Error::from_raw_os_error(EAGAIN)),
        }
    }

    fn send<B: BitmapSlice>(&self, frame: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        Ok(frame.iter().map(VolatileSlice::len).sum())
    }

    fn supported(&self) -> Offloads {
        Offloads::NONE
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_enabled(&self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// What [`REQUESTS`] requests took.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    /// Clones of the handle of guest memory.
    clones: u64,
    /// Pieces of memory from the heap.
    allocations: u64,
}

/// What chains of queue `index` cost, each after `before`, by calls with `tokens`.
fn cost_of(
    mut device: impl VirtioDevice<Counted>,
    (index, tokens): (u16, &[u32]),
    chain: &[TestBuffer],
    mut before: impl FnMut(),
) -> Cost {
    let memory = memory();
    let clones = Arc::new(AtomicU64::new(0));
    let count = device.queue_sizes().len();
    let mut queues: Vec<_> =
        (0..u16::try_from(count).unwrap()).map(|index| TestQueue::new(&memory, index, 8)).collect();
    let counted = Counted { memory, clones: Arc::clone(&clones) };
    let interrupt = Arc::<TestInterrupt>::default();
    let to_device = Arc::clone(&interrupt) as Arc<dyn VirtioInterrupt>;
    let active = queues.iter().map(TestQueue::active).collect();
    let activation = Activation { memory: counted, features: 0, queues: active, interrupt: to_device };
    let mut worker = device.activate(activation).unwrap();
    worker.start();
    let started = clones.load(Ordering::Relaxed);
    let queue = &mut queues[usize::from(index)];
    let mut allocations = 0;
    for request in 0..FIRST_REQUESTS + REQUESTS {
        before();
        queue.add(chain).unwrap();
        let heap = allocation_counter::measure(|| {
            for token in tokens {
                worker.ready(*token);
            }
        });
        if request >= FIRST_REQUESTS {
            allocations += heap.count_total;
        }
        assert!(queue.used().is_some());
        interrupt.take();
    }
    Cost { clones: clones.load(Ordering::Relaxed) - started, allocations }
}

fn costs() -> Vec<(&'static str, Cost)> {
    let mut costs = Vec::new();
    let options = BlkOptions { queues: NonZeroU16::MIN, ..BlkOptions::default() };
    let blk = Blk::<Counted>::new(Arc::new(InstantDisk), options).unwrap();
    let read = [(BUFFERS, 16, false), (BUFFERS + 0x1000, 512, true), (BUFFERS + 0x2000, 1, true)];
    costs.push(("blk", cost_of(blk, (0, &[0]), &read, || {})));

    let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
    let both: [(u16, &[u32], &str); 2] =
        [(1, &[1], "net, to the interface"), (0, &[0, 2], "net, from the interface")];
    for (queue, tokens, name) in both {
        let wire = Arc::new(Wire { event: EventFd::new(0).unwrap(), has_frame: AtomicBool::new(false) });
        let net = Net::new(config, vec![NetQueues { tap: Arc::clone(&wire), kernel: None }]).unwrap();
        let chain = [(BUFFERS, 2048, queue == 0)];
        let come = || wire.has_frame.store(queue == 0, Ordering::Relaxed);
        costs.push((name, cost_of(net, (queue, tokens), &chain, come)));
    }

    let vsock = Vsock::new(GuestCid::new(42).unwrap(), FakeSockets::new());
    costs.push(("vsock", cost_of(vsock, (1, &[1]), &[(BUFFERS, 44, false)], || {})));
    let rng = Rng::new(Box::new(io::repeat(7)), None);
    costs.push(("rng", cost_of(rng, (0, &[0]), &[(BUFFERS, 64, true)], || {})));
    let terminal = TestTerminal::new();
    terminal.desk().here = true;
    let console = Console::new(Box::new(terminal.clone()));
    let reads = || terminal.desk().read.clear();
    costs.push(("console", cost_of(console, (1, &[1]), &[(BUFFERS, 64, false)], reads)));
    costs
}

#[test]
fn no_request_of_any_device_counts_a_reference_to_guest_memory_or_allocates() {
    let costs = costs();
    assert!(costs.iter().all(|(_, cost)| *cost == Cost::default()), "{costs:?}");
    // What a balloon does to the host costs more than a list of pages.
    let balloon = Balloon::new(BalloonOptions::default(), TestHost::new(), Arc::default()).unwrap();
    let Cost { clones, .. } = cost_of(balloon, (0, &[0]), &[(BUFFERS, 64, false)], || {});
    assert_eq!(clones, 0);
}
