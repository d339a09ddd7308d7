//! Engines on real files, by ring and by plain calls, through the page cache and around it.

use super::engine::Engine;
use super::lock::LockedFile;
use super::transfer::Ground;
use super::{DiskError, DiskOptions, RawDisk};
use crate::sys::Ring;
use devices::virtio::Buffer;
use devices::virtio::blk::{
    Completion, Disk, DiskBackend, DiskEngine, Extent, Operation, SECTOR_BYTES, Segments,
};
use proptest::prelude::*;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
        let fd = engine.fd().expect("without a descriptor everything is done at once");
        let epoll = Epoll::new().unwrap();
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
        match epoll.wait(10_000, &mut [EpollEvent::default()]) {
            Ok(ready) => assert_eq!(ready, 1, "nothing in 10 seconds"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
        }
    }
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

#[test]
fn an_engine_whose_ring_takes_nothing_goes_on_with_plain_calls() {
    let directory = TempDir::new().unwrap();
    let path = new_file(&directory);
    let locked = LockedFile::new(std::fs::File::open(&path).unwrap(), true).unwrap().unwrap();
    let mut ring = match Ring::new(locked.file(), DEPTH) {
        Ok(ring) => ring,
        Err(error) => return testing::skip(format_args!("no io_uring: {error}")),
    };
    ring.refusing = true;
    let memory = memory();
    let ground = Ground { memory: Arc::clone(&memory), align: None, is_device: false };
    let mut engine = Engine::new("disk".into(), Arc::new(locked), ground, Some(ring), DEPTH);
    assert!(engine.fd().is_some());
    let read = |i: u64| Operation::Read { offset: i * 512, data: segments(&[(i * 512, 512)]) };
    assert_eq!(run(&mut engine, vec![read(0), read(1)]), [Ok(()); 2]);
    assert!(engine.fd().is_none());
    assert_eq!(run(&mut engine, vec![read(2)]), [Ok(())]);
    let mut bytes = vec![0; 1536];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert!(bytes == content()[..1536]);
}
