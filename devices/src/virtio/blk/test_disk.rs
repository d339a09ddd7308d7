//! A disk in memory that fails, dawdles and answers out of order as a seed wants it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use vm_memory::Bytes;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::virtio::blk::{Completion, Disk, DiskBackend, DiskEngine, DiskShape, Operation, Segments};
use crate::virtio::test_driver::TestMemory;

/// How often in 16 something goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mischief {
    /// Operations fail, some of them half-way.
    pub fail: u64,
    /// Operations that have ended are not told yet.
    pub hold: u64,
}

/// Failures injected so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    pub eio: u64,
    pub enospc: u64,
    pub unsupported: u64,
}

pub struct State {
    /// What a read gets.
    pub content: Vec<u8>,
    /// What a power failure would leave.
    pub stable: Vec<u8>,
    /// What the host says its length is.
    pub length: io::Result<u64>,
    pub mischief: Mischief,
    pub injected: Injected,
    pub most_at_once: usize,
    pub engines: usize,
    /// How often engines were told that their thread is another one, or runs elsewhere.
    pub follows: usize,
    seed: u64,
}

/// A clone is the same disk.
#[derive(Clone)]
pub struct TestDisk {
    state: Arc<Mutex<State>>,
    shape: DiskShape,
}

pub const SHAPE: DiskShape = DiskShape {
    read_only: false,
    logical_block: 512,
    physical_block: 4096,
    alignment: 0,
    minimum_io: 0,
    optimal_io: 0,
    discard: Some(4096),
};

impl TestDisk {
    pub fn new(content: Vec<u8>, shape: DiskShape) -> Self {
        let (stable, length) = (content.clone(), content.len() as u64);
        let state = State {
            content,
            stable,
            length: Ok(length),
            mischief: Mischief::default(),
            injected: Injected::default(),
            most_at_once: 0,
            engines: 0,
            follows: 0,
            seed: 1,
        };
        Self { state: Arc::new(Mutex::new(state)), shape }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_mischief(&self, seed: u64, mischief: Mischief) {
        let mut state = self.state();
        (state.seed, state.mischief) = (seed, mischief);
    }
}

impl Disk for TestDisk {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn grow(&self, length: u64) -> io::Result<()> {
        self.state().length = Ok(length);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        match &self.state().length {
            Ok(length) => Ok(*length),
            Err(error) => Err(error.kind().into()),
        }
    }

    fn name(&self) -> String {
        "test disk".into()
    }
}

impl DiskBackend<TestMemory> for TestDisk {
    fn engine(&self, memory: &TestMemory, depth: u16) -> Box<dyn DiskEngine> {
        self.state().engines += 1;
        Box::new(TestEngine {
            memory: Arc::clone(memory),
            state: Arc::clone(&self.state),
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
            busy: vec![false; usize::from(depth)],
            submitted: Vec::new(),
            ended: Vec::new(),
        })
    }
}

struct TestEngine {
    memory: TestMemory,
    state: Arc<Mutex<State>>,
    event: EventFd,
    busy: Vec<bool>,
    submitted: Vec<(u16, Operation)>,
    ended: Vec<Completion>,
}

impl DiskEngine for TestEngine {
    fn fds(&self) -> [Option<RawFd>; 2] {
        [Some(self.event.as_raw_fd()), None]
    }

    fn follow_thread(&mut self) {
        self.state.lock().unwrap().follows += 1;
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        assert!(!std::mem::replace(&mut self.busy[usize::from(tag)], true), "tag {tag} is in use");
        self.submitted.push((tag, operation));
        let at_once = self.busy.iter().filter(|busy| **busy).count();
        let mut state = self.state.lock().unwrap();
        state.most_at_once = state.most_at_once.max(at_once);
    }

    fn start(&mut self) {
        let mut state = self.state.lock().unwrap();
        while !self.submitted.is_empty() {
            let pick = state.below(self.submitted.len());
            let (tag, operation) = self.submitted.swap_remove(pick);
            let result = state.run(&self.memory, operation);
            self.ended.push(Completion { tag, result });
        }
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        assert!(self.submitted.is_empty(), "submitted but not started");
        let mut state = self.state.lock().unwrap();
        let (mut held, hold) = (Vec::new(), state.mischief.hold);
        while !self.ended.is_empty() {
            let pick = state.below(self.ended.len());
            let completion = self.ended.swap_remove(pick);
            if state.chance(hold) {
                held.push(completion);
            } else {
                self.busy[usize::from(completion.tag)] = false;
                done.push(completion);
            }
        }
        self.ended = held;
    }

    fn drain(&mut self, done: &mut Vec<Completion>, _: &AtomicBool) {
        self.start();
        done.append(&mut self.ended);
        self.busy.fill(false);
    }
}

impl State {
    fn random(&mut self) -> u64 {
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.random() % count as u64).unwrap()
    }

    fn chance(&mut self, in_16: u64) -> bool {
        self.random() % 16 < in_16
    }

    fn run(&mut self, memory: &TestMemory, operation: Operation) -> io::Result<()> {
        if self.chance(self.mischief.fail) {
            return Err(self.fail(memory, operation));
        }
        self.apply(memory, &operation, u64::MAX);
        Ok(())
    }

    fn fail(&mut self, memory: &TestMemory, operation: Operation) -> io::Error {
        if self.chance(8) {
            // Half-way: the first 100 bytes are done.
            self.apply(memory, &operation, 100);
        }
        let number = match self.random() % 3 {
            0 => {
                self.injected.eio += 1;
                5
            }
            1 => {
                self.injected.enospc += 1;
                28
            }
            _ => {
                self.injected.unsupported += 1;
                95
            }
        };
        io::Error::from_raw_os_error(number)
    }

    /// Does an operation, of transfers at most `limit` bytes.
    fn apply(&mut self, memory: &TestMemory, operation: &Operation, limit: u64) {
        match operation {
            Operation::Read { offset, data } => {
                let range = range(*offset, data.len().min(limit));
                data.write(&**memory, &self.content[range]).unwrap();
            }
            Operation::Write { offset, data, durable } => {
                let range = range(*offset, data.len().min(limit));
                let bytes = bytes(memory, data);
                self.content[range.clone()].copy_from_slice(&bytes[..range.len()]);
                if *durable {
                    self.stable[range.clone()].copy_from_slice(&bytes[..range.len()]);
                }
            }
            Operation::Flush => self.stable.clone_from(&self.content),
            Operation::Discard(extents) => {
                for extent in extents {
                    self.content[range(extent.offset, extent.length)].fill(0xDD);
                }
            }
            Operation::WriteZeroes { extents, durable } => {
                for extent in extents {
                    self.content[range(extent.offset, extent.length)].fill(0);
                    if *durable {
                        self.stable[range(extent.offset, extent.length)].fill(0);
                    }
                }
            }
        }
    }
}

fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + usize::try_from(length).unwrap()
}

fn bytes(memory: &TestMemory, data: &Segments) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in data.parts() {
        let mut piece = vec![0; part.length as usize];
        memory.read_slice(&mut piece, part.address).unwrap();
        bytes.extend(piece);
    }
    bytes
}
