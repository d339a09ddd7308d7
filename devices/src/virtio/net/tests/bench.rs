//! A network device with a driver on one side and a scripted interface on the other.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use crate::virtio::net::test_tap::{FakeTap, TapState};
use crate::virtio::net::transmit::REST;
use crate::virtio::net::{Net, NetConfig, NetHandle, NetQueues, Tap};
use crate::virtio::test_driver::{TestInterrupt, TestMemory, TestQueue, activation, memory};
use crate::virtio::{Rest, VirtioDevice, Worker};

/// The device, its driver's queues and its interface.
pub(in crate::virtio::net) struct Bench {
    pub memory: TestMemory,
    pub device: Net<TestMemory, FakeTap>,
    pub taps: Vec<Arc<FakeTap>>,
    pub queues: Vec<TestQueue>,
    pub interrupt: Arc<TestInterrupt>,
    pub worker: Option<Box<dyn Worker>>,
    pub handle: Arc<NetHandle>,
}

impl Bench {
    pub fn new(features: u64) -> Self {
        Self::with(features, vec![NetQueues { tap: FakeTap::new(), kernel: None }], 64)
    }

    pub fn with(features: u64, queues: Vec<NetQueues<TestMemory, FakeTap>>, size: u16) -> Self {
        let taps: Vec<_> = queues.iter().map(|queue| Arc::clone(&queue.tap)).collect();
        let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
        let mut device = Net::new(config, queues).unwrap();
        let memory = memory();
        let count = u16::try_from(taps.len() * 2 + 1).unwrap();
        let queues: Vec<_> = (0..count).map(|index| TestQueue::new(&memory, index, size)).collect();
        let interrupt = Arc::<TestInterrupt>::default();
        let refs: Vec<_> = queues.iter().collect();
        let worker = device.activate(activation(&memory, features, &refs, &interrupt)).unwrap();
        let handle = device.handle();
        let mut bench = Self { memory, device, taps, queues, interrupt, worker: Some(worker), handle };
        bench.worker().start();
        bench
    }

    /// Another device on the same interface, for the same driver, that has not started; its state is yet to be restored.
    pub fn successor(mut self, features: u64) -> Self {
        self.worker().stop(&AtomicBool::new(false));
        let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
        let queues = self.taps.iter().map(|tap| NetQueues { tap: Arc::clone(tap), kernel: None }).collect();
        let mut device = Net::new(config, queues).unwrap();
        let positions = self.worker().positions();
        let refs: Vec<_> = self.queues.iter().collect();
        let mut next = activation(&self.memory, features, &refs, &self.interrupt);
        for (index, position) in positions {
            next.queues[usize::from(index)].set_position(position);
        }
        self.worker = Some(device.activate(next).unwrap());
        Self { handle: device.handle(), device, ..self }
    }

    pub fn worker(&mut self) -> &mut dyn Worker {
        self.worker.as_deref_mut().unwrap()
    }

    /// Serves every source a few times, as if all were ready.
    pub fn run(&mut self) {
        for _ in 0..8 {
            for source in self.worker().sources() {
                self.worker().ready(source.token);
            }
            if self.rest().is_some() {
                self.look();
            }
        }
    }

    pub fn rest(&mut self) -> Option<Rest> {
        self.worker().rest(Instant::now())
    }

    /// Has the worker look after whatever rest it wants.
    pub fn look(&mut self) -> bool {
        self.worker().look(Instant::now() + REST)
    }

    pub fn tap<R>(&self, f: impl FnOnce(&mut TapState) -> R) -> R {
        f(&mut self.taps[0].state.lock().unwrap())
    }

    pub fn write(&self, address: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
    }

    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    /// Whether the interface is watched.
    pub fn watches_tap(&mut self) -> Option<crate::virtio::Interest> {
        let fd = self.taps[0].fd();
        self.worker().sources().iter().find(|source| source.fd == fd).map(|source| source.interest)
    }
}
