//! A socket device with a guest on one side and socket pairs on the other.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::super::packet::{HEADER_BYTES, Header, Operation, Ports};
use crate::virtio::test_driver::{BORDER, BUFFERS, TestInterrupt, TestMemory, TestQueue, activation, memory};
use crate::virtio::vsock::test_sockets::{FakeSockets, HostEnd};
use crate::virtio::vsock::{GuestCid, Vsock, VsockCounters};
use crate::virtio::{Interest, Source, SourceChange, VirtioDevice, Worker};

pub(super) const CID: u64 = 42;
/// Room for a guest that reads at once.
pub(super) const MUCH: u32 = 1 << 20;

/// A packet as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::virtio::vsock) struct Packet {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Packet {
    pub fn operation(&self) -> Operation {
        self.header.operation.unwrap()
    }
}

pub(super) struct Bench {
    pub memory: TestMemory,
    pub device: Vsock<FakeSockets>,
    pub sockets: Arc<FakeSockets>,
    pub receive: TestQueue,
    pub transmit: TestQueue,
    pub interrupt: Arc<TestInterrupt>,
    pub counters: Arc<VsockCounters>,
    pub worker: Option<Box<dyn Worker>>,
    /// What a thread would wait for that knows of changes alone.
    waited: BTreeMap<RawFd, Source>,
    posted: VecDeque<u64>,
    next: u64,
    sent: u64,
}

impl Bench {
    pub fn new(features: u64) -> Self {
        let sockets = FakeSockets::new();
        let mut device = Vsock::new(GuestCid::new(CID).unwrap(), Arc::clone(&sockets));
        let memory = memory();
        let (receive, transmit) = (TestQueue::new(&memory, 0, 64), TestQueue::new(&memory, 1, 64));
        let interrupt = Arc::<TestInterrupt>::default();
        let activation = activation(&memory, features, &[&receive, &transmit], &interrupt);
        let worker = Some(device.activate(activation).unwrap());
        let counters = device.counters();
        let posted = VecDeque::new();
        let mut bench = Self {
            memory,
            device,
            sockets,
            receive,
            transmit,
            interrupt,
            counters,
            worker,
            waited: BTreeMap::new(),
            posted,
            next: 0,
            sent: 0,
        };
        bench.worker().start();
        bench.waited = bench.sources();
        bench
    }

    /// Another device serves the same driver.
    pub fn goes_on_with(&mut self, device: Vsock<FakeSockets>, worker: Box<dyn Worker>) {
        (self.counters, self.device, self.worker) = (device.counters(), device, Some(worker));
        self.worker().start();
        self.waited = self.sources();
    }

    pub fn worker(&mut self) -> &mut dyn Worker {
        self.worker.as_deref_mut().unwrap()
    }

    /// Serves every source a few times, as if all were ready.
    pub fn run(&mut self) {
        for _ in 0..3 {
            for source in self.worker().sources() {
                self.serve(source.token);
            }
            self.assert_waits_as_it_should();
        }
    }

    fn sources(&mut self) -> BTreeMap<RawFd, Source> {
        self.worker().sources().into_iter().map(|source| (source.fd, source)).collect()
    }

    /// Serves a source: what its thread is told then of those that it waits for.
    pub fn ready(&mut self, token: u32) -> Vec<SourceChange> {
        let changes = self.serve(token);
        self.assert_waits_as_it_should();
        changes
    }

    fn assert_waits_as_it_should(&mut self) {
        let sources = self.sources();
        assert_eq!(self.waited, sources);
    }

    fn serve(&mut self, token: u32) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        if self.worker().ready(token) {
            assert!(self.worker().changes(&mut changes));
            assert_ne!(changes, []);
        }
        for change in &changes {
            match *change {
                SourceChange::Removed { fd, token } => {
                    if self.waited.get(&fd).is_some_and(|source| source.token == token) {
                        self.waited.remove(&fd);
                    }
                }
                SourceChange::Set(source) => {
                    self.waited.insert(source.fd, source);
                }
            }
        }
        changes
    }

    /// Posts buffers for packets, in two pieces each, around the border of two regions.
    pub fn post(&mut self, count: usize, length: u32) {
        for _ in 0..count {
            let address = BORDER - 0x2_0000 + (self.next % 64) * 0x1000;
            let buffers = [(address, 50, true), (address + 50, length - 50, true)];
            if self.receive.add(&buffers).is_none() {
                return;
            }
            self.next += 1;
            self.posted.push_back(address);
        }
    }

    /// The packets that came.
    pub fn packets(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some((_, written)) = self.receive.used() {
            let address = self.posted.pop_front().unwrap();
            let mut bytes = vec![0; written as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            let data = bytes.split_off(HEADER_BYTES);
            let header = Header::from_bytes(&bytes.try_into().unwrap());
            assert_eq!((header.source_cid, header.destination_cid, header.kind), (2, CID, 1));
            assert_eq!(header.length as usize, data.len());
            packets.push(Packet { header, data });
        }
        packets
    }

    /// Runs, with buffers enough, and gives the packets that came.
    pub fn exchange(&mut self) -> Vec<Packet> {
        self.post(32, 4096);
        self.run();
        self.packets()
    }

    /// A header from the guest.
    pub fn header(ports: Ports, operation: Operation) -> Header {
        Header {
            source_cid: CID,
            destination_cid: 2,
            source_port: ports.guest,
            destination_port: ports.host,
            buffer: MUCH,
            ..Header::to_guest(ports, CID, operation)
        }
    }

    /// Sends a packet: header and data in a buffer each. False if the queue is full.
    pub fn send(&mut self, header: Header, data: &[u8]) -> bool {
        while self.transmit.used().is_some() {}
        let address = BUFFERS + (self.sent % 16) * 0x1_1000;
        self.sent += 1;
        self.memory.write_slice(&header.to_bytes(), GuestAddress(address)).unwrap();
        self.memory.write_slice(data, GuestAddress(address + 0x100)).unwrap();
        let length = u32::try_from(data.len()).unwrap();
        self.transmit.add(&[(address, 44, false), (address + 0x100, length, false)]).is_some()
    }

    pub fn say(&mut self, ports: Ports, operation: Operation, data: &[u8]) -> Vec<Packet> {
        let length = u32::try_from(data.len()).unwrap();
        assert!(self.send(Header { length, ..Self::header(ports, operation) }, data));
        self.exchange()
    }

    /// The guest connects to a host port that answers.
    pub fn connect(&mut self, ports: Ports) -> HostEnd {
        let answers = self.say(ports, Operation::Request, &[]);
        assert_eq!(answers.iter().map(Packet::operation).collect::<Vec<_>>(), [Operation::Response]);
        let (port, host) = self.sockets.connected().unwrap();
        assert_eq!(port, ports.host);
        host
    }

    /// What of a connection's stream is watched: all sources but the device's own.
    pub fn watched(&mut self) -> Vec<Interest> {
        self.worker()
            .sources()
            .iter()
            .filter(|source| source.token >= 16)
            .map(|source| source.interest)
            .collect()
    }
}
