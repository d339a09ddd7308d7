//! Engines on real files, by ring and by plain calls, through the page cache and around it.

use super::engine::Engine;
use super::helpers::{Call, Calls, Files, Helpers, MAX_THREADS};
use super::lock::LockedFile;
use super::shape::DirectAlignment;
use super::transfer::IoContext;
use super::write_order::WriteOrder;
use super::{DiskError, DiskOptions, RawDisk};
use crate::sys::{IoVec, Ring, RingOperation};
use devices::virtio::Buffer;
use devices::virtio::blk::{
    Completion, Disk, DiskBackend, DiskEngine, Extent, Operation, SECTOR_BYTES, Segments,
};
use proptest::prelude::*;
use std::cell::RefCell;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

type Memory = Arc<GuestMemoryMmap>;

const DISK_BYTES: usize = 1 << 20;
const DEPTH: u16 = 8;

fn memory() -> Memory {
    let ranges = [(GuestAddress(0), 0x10_0000), (GuestAddress(0x10_0000), 0x10_0000)];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

fn content() -> Vec<u8> {
    (0..DISK_BYTES).map(|i| u8::try_from(i / 5 % 255 + 1).unwrap()).collect()
}

fn new_file(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, content()).unwrap();
    path
}

/// Opens a disk that was open before. A process that another test is just starting holds it a moment longer.
pub(super) fn opened(options: &DiskOptions) -> Result<RawDisk, DiskError> {
    let held = |result: &Result<_, _>| match result {
        Err(DiskError::Locked { .. }) => true,
        Err(DiskError::Open { source, .. }) => source.kind() == io::ErrorKind::ResourceBusy,
        _ => false,
    };
    let mut result = RawDisk::open(options);
    for _ in 0..1000 {
        if !held(&result) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        result = RawDisk::open(options);
    }
    result
}

/// Opens a disk in each way that this host has.
fn in_every_way(path: &Path, mut test: impl FnMut(&RawDisk, &str)) {
    for (io_uring, direct) in [(false, false), (true, false), (false, true), (true, true)] {
        let way = format!("io_uring={io_uring} direct={direct}");
        let options = DiskOptions { io_uring, direct, ..DiskOptions::new(path) };
        let disk = match opened(&options) {
            Err(DiskError::NotDirect { .. }) => {
                testing::skip("no direct i/o on this file system");
                continue;
            }
            other => other.unwrap(),
        };
        if let Some(error) = disk.no_ring() {
            testing::skip(format_args!("no io_uring: {error}"));
            continue;
        }
        test(&disk, &way);
    }
}

pub(super) fn segments(buffers: &[(u64, u32)]) -> Segments {
    let buffers: Vec<Buffer> =
        buffers.iter().map(|(at, length)| Buffer { address: GuestAddress(*at), length: *length }).collect();
    Segments::window(&buffers, 0, u64::MAX)
}

/// Carries out operations together, waiting as a worker does.
pub(super) fn run(
    engine: &mut dyn DiskEngine,
    operations: Vec<Operation>,
) -> Vec<Result<(), std::io::ErrorKind>> {
    let count = operations.len();
    for (tag, operation) in (0..).zip(operations) {
        engine.submit(tag, operation);
    }
    engine.start();
    let (mut done, mut results) = (Vec::new(), vec![None; count]);
    loop {
        engine.completions(&mut done);
        for Completion { tag, result } in done.drain(..) {
            let slot = &mut results[usize::from(tag)];
            assert_eq!(slot.replace(result.map_err(|error| error.kind())), None, "told twice");
        }
        if results.iter().all(Option::is_some) {
            return results.into_iter().flatten().collect();
        }
        let epoll = Epoll::new().unwrap();
        for fd in engine.fds().into_iter().flatten() {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
        }
        match epoll.wait(10_000, &mut [EpollEvent::default(); 2]) {
            Ok(ready) => assert_ne!(ready, 0, "nothing in 10 seconds"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
        }
    }
}

#[test]
fn a_ring_takes_operations_without_an_allocation_for_each() {
    let directory = TempDir::new().unwrap();
    let path = new_file(&directory);
    in_every_way(&path, |disk, way| {
        if !way.starts_with("io_uring=true") {
            return;
        }
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        let buffers = [0x1000, 0x3000, 0x5000].map(|at| Buffer { address: GuestAddress(at), length: 0x1000 });
        let mut done = Vec::new();
        let mut round = || {
            for tag in 0..DEPTH {
                let data = engine.spare().unwrap_or_default().refilled(&buffers, 0, u64::MAX);
                engine.submit(tag, Operation::Read { offset: u64::from(tag) * 4096, data });
            }
            engine.start();
            while done.len() < usize::from(DEPTH) {
                engine.completions(&mut done);
            }
            assert!(done.drain(..).all(|completion| completion.result.is_ok()));
        };
        (0..3).for_each(|_| round());
        let heap = allocation_counter::measure(|| (0..10).for_each(|_| round()));
        assert_eq!(heap.count_total, 0, "{way}");
    });
}

#[derive(Debug, Clone)]
enum Ask {
    Read(u64, u64, Vec<u32>),
    Write(u64, u64, Vec<u32>, u8, bool),
    Zero(u64, u64, bool),
    Flush,
}

fn ask() -> impl Strategy<Value = Ask> {
    let sectors = DISK_BYTES as u64 / SECTOR_BYTES;
    let range = (0..sectors, 1_u64..200).prop_map(move |(start, count)| (start, count.min(sectors - start)));
    let odd = proptest::collection::vec(prop_oneof![Just(512_u32), Just(4096), 1_u32..5000], 1..4);
    prop_oneof![
        4 => (range.clone(), odd.clone()).prop_map(|((start, count), cuts)| Ask::Read(start, count, cuts)),
        4 => (range.clone(), odd, any::<u8>(), any::<bool>())
            .prop_map(|((start, count), cuts, fill, durable)| Ask::Write(start, count, cuts, fill, durable)),
        1 => (range, any::<bool>()).prop_map(|((start, count), unmap)| Ask::Zero(start, count, unmap)),
        1 => Just(Ask::Flush),
    ]
}

/// `length` bytes of memory from `base` on, cut as told, with gaps between so that some pieces are not aligned.
fn lay_out(base: u64, length: u64, cuts: &[u32]) -> Segments {
    let (mut buffers, mut at, mut left) = (Vec::new(), base, length);
    let mut cuts = cuts.iter().chain([&16384]).cycle();
    while left > 0 {
        let take = u64::from(*cuts.next().unwrap()).min(left);
        buffers.push((at, u32::try_from(take).unwrap()));
        at += take * 2;
        left -= take;
    }
    segments(&buffers)
}

fn check_against_model(disk: &RawDisk, asks: &[Ask], way: &str) {
    let memory = memory();
    let mut engine = disk.engine(&memory, DEPTH);
    let mut model = content();
    std::fs::write(disk.name(), &model).unwrap();
    let range = |start: u64, count: u64| {
        let (start, end) = (start * SECTOR_BYTES, (start + count) * SECTOR_BYTES);
        usize::try_from(start).unwrap()..usize::try_from(end).unwrap()
    };
    for ask in asks {
        let operation = match ask {
            Ask::Read(start, count, cuts) => {
                let data = lay_out(0xF_0000, count * SECTOR_BYTES, cuts);
                Operation::Read { offset: start * SECTOR_BYTES, data }
            }
            Ask::Write(start, count, cuts, fill, durable) => {
                let data = lay_out(0x8_0000, count * SECTOR_BYTES, cuts);
                let bytes: Vec<u8> = (0..data.len()).map(|i| u8::try_from(i % 241).unwrap() ^ fill).collect();
                data.write(&*memory, &bytes).unwrap();
                model[range(*start, *count)].copy_from_slice(&bytes);
                Operation::Write { offset: start * SECTOR_BYTES, data, durable: *durable }
            }
            Ask::Zero(start, count, unmap) => {
                model[range(*start, *count)].fill(0);
                let (offset, length) = (start * SECTOR_BYTES, count * SECTOR_BYTES);
                let extents = vec![Extent { offset, length, unmap: *unmap }];
                Operation::WriteZeroes { extents, durable: false }
            }
            Ask::Flush => Operation::Flush,
        };
        assert_eq!(run(engine.as_mut(), vec![operation]), [Ok(())], "{way}: {ask:?}");
        if let Ask::Read(start, count, cuts) = ask {
            let data = lay_out(0xF_0000, count * SECTOR_BYTES, cuts);
            let mut bytes = vec![0; usize::try_from(data.len()).unwrap()];
            data.read(&*memory, &mut bytes).unwrap();
            assert!(bytes == model[range(*start, *count)], "{way}: {ask:?}");
        }
    }
    assert!(std::fs::read(disk.name()).unwrap() == model, "{way}: {asks:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_holds_what_was_written_to_it(asks in proptest::collection::vec(ask(), 1..20)) {
        let directory = TempDir::new().unwrap();
        in_every_way(&new_file(&directory), |disk, way| check_against_model(disk, &asks, way));
    }
}

#[test]
fn a_full_engine_of_operations_ends_each_of_them_once() {
    let directory = TempDir::new().unwrap();
    in_every_way(&new_file(&directory), |disk, way| {
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        for _ in 0..20 {
            let reads = (0..u64::from(DEPTH))
                .map(|i| Operation::Read { offset: i * 65536, data: segments(&[(i * 65536, 65536)]) })
                .collect();
            assert_eq!(run(engine.as_mut(), reads), [Ok(()); DEPTH as usize], "{way}");
        }
        let mut bytes = vec![0; 8 * 65536];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert!(bytes == content()[..8 * 65536], "{way}");
    });
}

#[test]
fn discarded_space_is_given_back_and_zeroed_space_may_be() {
    let directory = TempDir::new().unwrap();
    let path = new_file(&directory);
    let blocks = || {
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        std::fs::metadata(&path).unwrap().blocks() * 512
    };
    in_every_way(&path, |disk, way| {
        let Some(unit) = disk.shape().discard else {
            return testing::skip("no holes on this file system");
        };
        assert!(unit.is_power_of_two());
        std::fs::write(&path, content()).unwrap();
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        let extent = |offset, length, unmap| Extent { offset, length, unmap };
        let full = blocks();
        let discard =
            Operation::Discard(vec![extent(0, 128 << 10, false), extent(256 << 10, 128 << 10, false)]);
        assert_eq!(run(engine.as_mut(), vec![discard]), [Ok(())], "{way}");
        assert_eq!(full - blocks(), 256 << 10, "{way}");
        let zero = |unmap| Operation::WriteZeroes {
            extents: vec![extent(512 << 10, 128 << 10, unmap)],
            durable: true,
        };
        assert_eq!(run(engine.as_mut(), vec![zero(false)]), [Ok(())], "{way}");
        assert_eq!(full - blocks(), 256 << 10, "{way}: kept");
        assert_eq!(run(engine.as_mut(), vec![zero(true)]), [Ok(())], "{way}");
        assert_eq!(full - blocks(), 384 << 10, "{way}: given back");
        let mut expected = content();
        for start in [0, 256 << 10, 512 << 10] {
            expected[start..start + (128 << 10)].fill(0);
        }
        assert!(std::fs::read(&path).unwrap() == expected, "{way}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), DISK_BYTES as u64, "{way}");
    });
}

#[test]
fn what_the_host_refuses_is_an_error_of_that_operation_only() {
    let directory = TempDir::new().unwrap();
    in_every_way(&new_file(&directory), |disk, way| {
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        let read = |offset, address| Operation::Read { offset, data: segments(&[(address, 4096)]) };
        let past = DISK_BYTES as u64 + 4096;
        let results =
            run(engine.as_mut(), vec![read(0, 0), read(past, 4096), read(1 << 63, 8192), read(4096, 12288)]);
        assert_eq!((results[0], results[1]), (Ok(()), Err(std::io::ErrorKind::UnexpectedEof)), "{way}");
        assert!(results[2].is_err(), "{way}");
        assert_eq!(results[3], Ok(()), "{way}");
    });
}

#[test]
fn draining_leaves_nothing_in_flight() {
    let directory = TempDir::new().unwrap();
    in_every_way(&new_file(&directory), |disk, way| {
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        for tag in 0..DEPTH {
            let offset = u64::from(tag) * 65536;
            engine
                .submit(tag, Operation::Write { offset, data: segments(&[(offset, 65536)]), durable: true });
        }
        let mut done = Vec::new();
        engine.drain(&mut done, &AtomicBool::new(false));
        let mut tags: Vec<u16> = done.iter().map(|completion| completion.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..DEPTH).collect::<Vec<_>>(), "{way}");
        drop(engine);
        assert_eq!(Arc::strong_count(&memory), 1, "{way}: memory is let go");
        let written = std::fs::File::open(disk.name()).unwrap();
        let mut byte = [1];
        written.read_exact_at(&mut byte, 65535).unwrap();
        assert_eq!(byte, [0], "{way}");
    });
}

fn context(memory: &Memory, direct: Option<DirectAlignment>) -> IoContext<GuestMemoryMmap> {
    IoContext {
        memory: Arc::clone(memory),
        direct,
        device_block: None,
        length: Arc::new(AtomicU64::new(DISK_BYTES as u64)),
        order: direct.map(|_| Arc::<WriteOrder>::default()),
        spare: RefCell::default(),
    }
}

#[test]
fn no_request_counts_a_reference_to_guest_memory() {
    let directory = TempDir::new().unwrap();
    in_every_way(&new_file(&directory), |disk, way| {
        let memory = memory();
        let mut engine = disk.engine(&memory, DEPTH);
        let reads = |from: u64| {
            let at = |i: u64| (from + i) % 64 * 4096;
            let read = |i| Operation::Read { offset: at(i), data: segments(&[(at(i), 4096)]) };
            (0..4).map(read).collect()
        };
        assert_eq!(run(&mut *engine, reads(0)), [Ok(()); 4], "{way}");
        let references = Arc::strong_count(&memory);
        for i in 1..100 {
            assert_eq!(run(&mut *engine, reads(i)), [Ok(()); 4], "{way}");
            assert_eq!(Arc::strong_count(&memory), references, "{way}");
        }
    });
}

#[test]
fn an_engine_whose_ring_takes_nothing_goes_on_with_helper_threads() {
    let directory = TempDir::new().unwrap();
    let path = new_file(&directory);
    let locked = LockedFile::new(std::fs::File::open(&path).unwrap(), true).unwrap().unwrap();
    let mut ring = match Ring::new(locked.file(), DEPTH) {
        Ok(ring) => ring,
        Err(error) => return testing::skip(format_args!("no io_uring: {error}")),
    };
    ring.refusing = true;
    let memory = memory();
    let helpers = Arc::new(Helpers::new(Files { locked: Arc::new(locked), buffered: None }));
    let mut engine = Engine::new("disk".into(), context(&memory, None), Some(ring), helpers, DEPTH).unwrap();
    assert!(engine.fds()[0].is_some());
    let read = |i: u64| Operation::Read { offset: i * 512, data: segments(&[(i * 512, 512)]) };
    assert_eq!(run(&mut engine, vec![read(0), read(1)]), [Ok(()); 2]);
    assert!(engine.fds()[0].is_none());
    assert_eq!(run(&mut engine, vec![read(2)]), [Ok(())]);
    let mut bytes = vec![0; 1536];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes == content()[..1536]);
}

/// Storage that answers when the test lets it.
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    /// Calls that have come, in order.
    came: Vec<Call>,
    /// Calls behind the gate.
    inside: usize,
}

impl Gate {
    fn new(open: bool) -> Arc<Self> {
        let state = Mutex::new(GateState { open, ..GateState::default() });
        Arc::new(Self { state, changed: Condvar::new() })
    }

    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&GateState) -> bool) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !until(state)).unwrap());
    }

    fn pass(&self, call: Call) {
        let mut state = self.state.lock().unwrap();
        state.came.push(call);
        state.inside += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| !state.open).unwrap();
        state.inside -= 1;
    }
}

/// A file whose calls wait at the gate, but for reads of the first sector.
struct Gated(std::fs::File, Arc<Gate>);

impl Calls for Gated {
    fn call(&self, call: Call, memory: Option<&IoVec>) -> io::Result<usize> {
        match (call, memory) {
            (Call::Disk(RingOperation::Read(0)), Some(memory)) => memory.read(&self.0, 0),
            (Call::Disk(RingOperation::Read(offset)), Some(memory)) => {
                self.1.pass(call);
                memory.read(&self.0, offset)
            }
            (Call::Disk(RingOperation::Write { offset, durable }), Some(memory)) => {
                self.1.pass(call);
                memory.write(&self.0, offset, durable)
            }
            other => panic!("{:?}", other.0),
        }
    }
}

fn gated(gate: &Arc<Gate>, context: IoContext<GuestMemoryMmap>, depth: u16) -> Engine<GuestMemoryMmap> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content(), 0).unwrap();
    let helpers = Arc::new(Helpers::new(Gated(file, Arc::clone(gate))));
    Engine::new("gated".into(), context, None, helpers, depth).unwrap()
}

fn tags(done: &mut Vec<Completion>) -> Vec<u16> {
    let mut tags: Vec<u16> = done
        .drain(..)
        .map(|Completion { tag, result }| {
            result.unwrap();
            tag
        })
        .collect();
    tags.sort_unstable();
    tags
}

#[test]
fn without_a_ring_requests_are_served_together_and_answered_as_they_end() {
    let (gate, memory) = (Gate::new(false), memory());
    let mut engine = gated(&gate, context(&memory, None), 32);
    let read = |i: u64| Operation::Read { offset: i * 512, data: segments(&[(i * 512, 512)]) };
    let mut done = Vec::new();
    for tag in 0..31 {
        engine.submit(tag, read(31 - u64::from(tag)));
    }
    engine.start();
    gate.wait(|state| state.inside == MAX_THREADS);
    engine.completions(&mut done);
    assert!(done.is_empty(), "storage has answered nothing yet");
    gate.open();
    while done.len() < 31 {
        engine.completions(&mut done);
    }
    assert_eq!(tags(&mut done), (0..31).collect::<Vec<_>>());
    let mut bytes = vec![0; 31 * 512];
    memory.read_slice(&mut bytes, GuestAddress(512)).unwrap();
    assert!(bytes == content()[512..32 * 512]);
}

#[test]
fn without_a_ring_the_first_answer_comes_before_the_last_request() {
    let (gate, memory) = (Gate::new(false), memory());
    let mut engine = gated(&gate, context(&memory, None), 32);
    let read = |i: u64| Operation::Read { offset: i * 512, data: segments(&[(i * 512, 512)]) };
    engine.submit(0, read(1));
    engine.submit(1, read(0));
    engine.start();
    let mut done = Vec::new();
    while done.is_empty() {
        engine.completions(&mut done);
    }
    assert_eq!(tags(&mut done), [1], "the other waits");
    engine.submit(1, read(0));
    gate.open();
    engine.drain(&mut done, &AtomicBool::new(false));
    assert_eq!(tags(&mut done), [0, 1]);
}

#[test]
fn two_sectors_of_one_block_are_not_written_at_once() {
    let (gate, memory) = (Gate::new(false), memory());
    let direct = DirectAlignment { memory: 512, offset: 4096 };
    let mut engine = gated(&gate, context(&memory, Some(direct)), 8);
    memory.write_slice(&[0xAA; 512], GuestAddress(0x1000)).unwrap();
    memory.write_slice(&[0xBB; 512], GuestAddress(0x2000)).unwrap();
    memory.write_slice(&[0xCC; 4096], GuestAddress(0x3000)).unwrap();
    let write = |sector: u64, address, length| Operation::Write {
        offset: 8192 + sector * 512,
        data: segments(&[(address, length)]),
        durable: false,
    };
    engine.submit(0, write(1, 0x1000, 512));
    engine.submit(1, write(2, 0x2000, 512));
    // A write of another block, which may go on.
    engine.submit(2, write(8, 0x3000, 4096));
    engine.start();
    gate.wait(|state| state.inside == 2);
    let came = gate.state.lock().unwrap().came.clone();
    let blocks: Vec<_> = came.iter().filter(|call| **call == Call::Disk(RingOperation::Read(8192))).collect();
    assert_eq!(blocks.len(), 1, "{came:?}");
    gate.open();
    let mut done = Vec::new();
    engine.drain(&mut done, &AtomicBool::new(false));
    assert_eq!(tags(&mut done), [0, 1, 2]);
    assert_eq!(
        run(&mut engine, vec![Operation::Read { offset: 8192, data: segments(&[(0x8000, 8192)]) }]),
        [Ok(())]
    );
    let mut expected = content()[8192..16384].to_vec();
    expected[512..1024].fill(0xAA);
    expected[1024..1536].fill(0xBB);
    expected[4096..].fill(0xCC);
    let mut got = vec![0; 8192];
    memory.read_slice(&mut got, GuestAddress(0x8000)).unwrap();
    assert!(got == expected);
}

#[test]
fn requests_that_do_not_end_are_left_and_those_that_wait_are_cancelled() {
    let (gate, memory) = (Gate::new(false), memory());
    let mut engine = gated(&gate, context(&memory, None), 32);
    for tag in 0..32 {
        let (offset, at) = ((u64::from(tag) + 1) * 512, u64::from(tag) * 512);
        engine.submit(tag, Operation::Read { offset, data: segments(&[(at, 512)]) });
    }
    engine.start();
    gate.wait(|state| state.inside == MAX_THREADS);
    let cancelled = AtomicBool::new(false);
    cancelled.store(true, Ordering::Release);
    let mut done = Vec::new();
    engine.drain(&mut done, &cancelled);
    assert_eq!(done.len(), 32 - MAX_THREADS);
    drop(engine);
    assert!(Arc::strong_count(&memory) > 1, "what is under way keeps its memory");
    gate.open();
    while Arc::strong_count(&memory) > 1 {
        std::thread::yield_now();
    }
}
