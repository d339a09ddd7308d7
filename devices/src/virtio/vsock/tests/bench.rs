//! A socket device with a guest on one side and socket pairs on the other.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Bytes, GuestAddress, ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};
use vmm_sys_util::eventfd::EventFd;

use super::super::packet::{HEADER_BYTES, Header, Operation, Ports};
use crate::virtio::test_driver::{BORDER, BUFFERS, TestInterrupt, TestMemory, TestQueue, activation, memory};
use crate::virtio::vsock::{GuestCid, HostSockets, HostStream, Vsock, VsockHandle};
use crate::virtio::{Interest, VirtioDevice, Worker};

pub(super) const CID: u64 = 42;
/// Room for a guest that reads at once.
pub(super) const MUCH: u32 = 1 << 20;

pub(in crate::virtio::vsock) struct FakeStream {
    stream: UnixStream,
    gone: Arc<AtomicBool>,
}

fn io_error(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        error => io::Error::other(error),
    }
}

impl HostStream for FakeStream {
    fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&mut self, into: &mut VolatileSlice<'_, B>) -> io::Result<usize> {
        self.stream.read_volatile(into).map_err(io_error)
    }

    fn send<B: BitmapSlice>(&mut self, from: &VolatileSlice<'_, B>) -> io::Result<usize> {
        self.stream.write_volatile(from).map_err(io_error)
    }

    fn shutdown(&mut self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    fn is_hung_up(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// A host process's end. Dropped, it is gone.
pub(super) struct HostEnd {
    pub stream: UnixStream,
    gone: Arc<AtomicBool>,
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl HostEnd {
    /// All that can be read now; `None` in the end for the end.
    pub fn read(&mut self) -> (Vec<u8>, bool) {
        let (mut data, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return (data, true),
                Ok(n) => data.extend(&part[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (data, false),
                Err(_) => return (data, true),
            }
        }
    }

    pub fn write(&mut self, data: &[u8]) -> usize {
        self.stream.write(data).unwrap_or(0)
    }
}

fn pair() -> (FakeStream, HostEnd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let gone = Arc::<AtomicBool>::default();
    (FakeStream { stream: ours, gone: Arc::clone(&gone) }, HostEnd { stream: theirs, gone })
}

/// Ports below 100 answer.
pub(in crate::virtio::vsock) struct FakeSockets {
    listener: EventFd,
    accepts: Mutex<VecDeque<FakeStream>>,
    connected: Mutex<Vec<(u32, HostEnd)>>,
    pub accept_fails: AtomicBool,
}

impl FakeSockets {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            listener: EventFd::new(0).unwrap(),
            accepts: Mutex::default(),
            connected: Mutex::default(),
            accept_fails: AtomicBool::default(),
        })
    }

    /// A host process connects.
    pub fn arrive(&self) -> HostEnd {
        let (ours, theirs) = pair();
        self.accepts.lock().unwrap().push_back(ours);
        theirs
    }

    /// What the guest connected to last.
    pub fn connected(&self) -> Option<(u32, HostEnd)> {
        self.connected.lock().unwrap().pop()
    }
}

impl HostSockets for FakeSockets {
    type Stream = FakeStream;

    fn listener(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn accept(&self) -> io::Result<FakeStream> {
        if self.accept_fails.load(Ordering::Relaxed) {
            // EMFILE
            return Err(io::Error::from_raw_os_error(24));
        }
        self.accepts.lock().unwrap().pop_front().ok_or(io::ErrorKind::WouldBlock.into())
    }

    fn connect(&self, port: u32) -> io::Result<FakeStream> {
        if port >= 100 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = pair();
        self.connected.lock().unwrap().push((port, theirs));
        Ok(ours)
    }
}

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
    pub handle: Arc<VsockHandle>,
    pub worker: Option<Box<dyn Worker>>,
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
        let handle = device.handle();
        let posted = VecDeque::new();
        let mut bench = Self {
            memory,
            device,
            sockets,
            receive,
            transmit,
            interrupt,
            handle,
            worker,
            posted,
            next: 0,
            sent: 0,
        };
        bench.worker().start();
        bench
    }

    pub fn worker(&mut self) -> &mut dyn Worker {
        self.worker.as_deref_mut().unwrap()
    }

    /// Serves every source a few times, as if all were ready.
    pub fn run(&mut self) {
        for _ in 0..3 {
            for source in self.worker().sources() {
                self.worker().ready(source.token);
            }
        }
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
