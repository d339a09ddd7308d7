//! A network device with a driver on one side and a scripted interface on the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Bytes, GuestAddress, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::net::{HEADER_BYTES, MAX_SLICES, Net, NetConfig, NetHandle, NetQueues, Offloads, Tap};
use crate::virtio::test_driver::{TestInterrupt, TestMemory, TestQueue, activation, memory};
use crate::virtio::{VirtioDevice, Worker};

/// What the interface does once; when the script is over it does what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::virtio::net) enum Reply {
    Work,
    Fail(i32),
    Short,
}

#[derive(Default)]
pub(in crate::virtio::net) struct TapState {
    pub incoming: VecDeque<Vec<u8>>,
    pub receive_script: VecDeque<Reply>,
    pub sent: Vec<Vec<u8>>,
    pub send_script: VecDeque<Reply>,
    pub offloads: Option<Offloads>,
    pub enabled: Option<bool>,
    pub enable_fails: bool,
    pub receives: u64,
    pub sends: u64,
}

pub(in crate::virtio::net) struct FakeTap {
    pub state: Mutex<TapState>,
    event: EventFd,
}

impl FakeTap {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), event: EventFd::new(0).unwrap() })
    }
}

pub(in crate::virtio::net) const EAGAIN: i32 = 11;
pub(in crate::virtio::net) const EIO: i32 = 5;

impl Tap for FakeTap {
    fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&self, into: &[VolatileSlice<'_, B>], rest: &mut [u8]) -> io::Result<usize> {
        assert!(!into.is_empty() && into.len() <= MAX_SLICES);
        let mut state = self.state.lock().unwrap();
        state.receives += 1;
        if let Some(Reply::Fail(errno)) = state.receive_script.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let frame = state.incoming.pop_front().ok_or(io::Error::from_raw_os_error(EAGAIN))?;
        let mut left = &frame[..];
        for slice in into {
            let n = left.len().min(slice.len());
            slice.write_slice(&left[..n], 0).unwrap();
            left = &left[n..];
        }
        let n = left.len().min(rest.len());
        rest[..n].copy_from_slice(&left[..n]);
        Ok(frame.len())
    }

    fn send<B: BitmapSlice>(&self, frame: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        assert!(!frame.is_empty() && frame.len() <= MAX_SLICES);
        let mut state = self.state.lock().unwrap();
        state.sends += 1;
        let reply = state.send_script.pop_front().unwrap_or(Reply::Work);
        if let Reply::Fail(errno) = reply {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut bytes = Vec::new();
        for slice in frame {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.read_slice(&mut bytes[start..], 0).unwrap();
        }
        if reply == Reply::Short {
            bytes.truncate(bytes.len() / 2);
        }
        let taken = bytes.len();
        state.sent.push(bytes);
        Ok(taken)
    }

    fn supported(&self) -> Offloads {
        Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.state.lock().unwrap().offloads = Some(offloads);
        Ok(())
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.enable_fails && enabled {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.enabled = Some(enabled);
        Ok(())
    }
}

/// A frame with a header that says nothing, and `bytes` of content that depends on `seed`.
pub(in crate::virtio::net) fn frame(seed: usize, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend((0..bytes).map(|i| u8::try_from((i * 7 + seed * 13) % 251).unwrap()));
    frame
}

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

    pub fn worker(&mut self) -> &mut dyn Worker {
        self.worker.as_deref_mut().unwrap()
    }

    /// Serves every source a few times, as if all were ready.
    pub fn run(&mut self) {
        for _ in 0..4 {
            for source in self.worker().sources() {
                self.worker().ready(source.token);
            }
        }
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
