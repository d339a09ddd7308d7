//! A request borrows guest memory: no device clones its handle for one, whose count all devices on all nodes share.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::GuestMemoryMmap;

use super::balloon::test_host::TestHost;
use super::balloon::{Balloon, BalloonOptions};
use super::blk::test_disk::SHAPE;
use super::blk::{Blk, BlkOptions, Completion, Disk, DiskBackend, DiskEngine, DiskShape, Operation};
use super::console::Console;
use super::console::test_terminal::TestTerminal;
use super::net::test_tap::{FakeTap, frame};
use super::net::{Net, NetConfig, NetQueues};
use super::rng::Rng;
use super::test_driver::{AccessCount, BUFFERS, TestBuffer, TestInterrupt, TestMemory, TestQueue, memory};
use super::vsock::test_sockets::FakeSockets;
use super::vsock::{GuestCid, Vsock};
use super::{Activation, GuestMemoryHandle, VirtioDevice, VirtioInterrupt};

const REQUESTS: usize = 100;

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
        Box::new(InstantEngine(Vec::new()))
    }
}

struct InstantEngine(Vec<Completion>);

impl DiskEngine for InstantEngine {
    fn fds(&self) -> [Option<RawFd>; 2] {
        [None; 2]
    }

    fn submit(&mut self, tag: u16, _: Operation) {
        self.0.push(Completion { tag, result: Ok(()) });
    }

    fn start(&mut self) {}

    fn completions(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.0);
    }

    fn drain(&mut self, done: &mut Vec<Completion>, _: &AtomicBool) {
        self.completions(done);
    }
}

/// Clones made while [`REQUESTS`] chains of queue `index` were served, each after `before`, by calls with `tokens`.
fn clones_of(
    mut device: impl VirtioDevice<Counted>,
    (index, tokens): (u16, &[u32]),
    chain: &[TestBuffer],
    mut before: impl FnMut(),
) -> u64 {
    let memory = memory();
    let clones = Arc::new(AtomicU64::new(0));
    let count = device.queue_sizes().len();
    let mut queues: Vec<_> =
        (0..u16::try_from(count).unwrap()).map(|index| TestQueue::new(&memory, index, 8)).collect();
    let counted = Counted { memory, clones: Arc::clone(&clones) };
    let interrupt: Arc<dyn VirtioInterrupt> = Arc::new(TestInterrupt::default());
    let active = queues.iter().map(TestQueue::active).collect();
    let mut worker =
        device.activate(Activation { memory: counted, features: 0, queues: active, interrupt }).unwrap();
    worker.start();
    let started = clones.load(Ordering::Relaxed);
    let queue = &mut queues[usize::from(index)];
    for _ in 0..REQUESTS {
        before();
        queue.add(chain).unwrap();
        for token in tokens {
            worker.ready(*token);
        }
        assert!(queue.used().is_some());
    }
    clones.load(Ordering::Relaxed) - started
}

#[test]
fn no_request_of_any_device_counts_a_reference_to_guest_memory() {
    let mut counts = Vec::new();
    let read = [(BUFFERS, 16, false), (BUFFERS + 0x1000, 512, true), (BUFFERS + 0x2000, 1, true)];
    let blk = Blk::<Counted>::new(
        Arc::new(InstantDisk),
        BlkOptions { queues: NonZeroU16::MIN, ..BlkOptions::default() },
    );
    counts.push(("blk", clones_of(blk.unwrap(), (0, &[0]), &read, || {})));

    let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
    let both: [(u16, &[u32], &str); 2] =
        [(1, &[1], "net, to the interface"), (0, &[0, 2], "net, from the interface")];
    for (queue, tokens, name) in both {
        let tap = FakeTap::new();
        let net = Net::new(config, vec![NetQueues { tap: Arc::clone(&tap), kernel: None }]).unwrap();
        let chain = [(BUFFERS, 2048, queue == 0)];
        let come = || tap.state.lock().unwrap().incoming.push_back(frame(1, 60));
        counts.push((name, clones_of(net, (queue, tokens), &chain, come)));
    }

    let vsock = Vsock::new(GuestCid::new(42).unwrap(), FakeSockets::new());
    counts.push(("vsock", clones_of(vsock, (1, &[1]), &[(BUFFERS, 44, false)], || {})));
    let rng = Rng::new(Box::new(io::repeat(7)), None);
    counts.push(("rng", clones_of(rng, (0, &[0]), &[(BUFFERS, 64, true)], || {})));
    let console = Console::new(Box::new(TestTerminal::new()));
    counts.push(("console", clones_of(console, (1, &[1]), &[(BUFFERS, 64, false)], || {})));
    let balloon = Balloon::new(BalloonOptions::default(), TestHost::new()).unwrap();
    counts.push(("balloon", clones_of(balloon, (0, &[0]), &[(BUFFERS, 64, false)], || {})));

    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 0, "{counts:?}");
}
