//! Steps of operations against a file, with calls that do less than asked, fail, or are not known.

use super::helpers::Call;
use super::shape::DirectAlignment;
use super::transfer::{IoContext, Step, Transfer};
use crate::memory::{FilledByKernel, GuestRam, RamRegion};
use crate::sys::{Backing, IoVec, Mapping, RingOperation};
use devices::virtio::Buffer;
use devices::virtio::blk::{Extent, Operation, Segments};
use proptest::prelude::*;
use resources::{Gpa, PageSize, RamRange, VnodeId};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const DISK_BYTES: usize = 256 << 10;

fn context(direct: Option<(u32, u32)>) -> IoContext<GuestMemoryMmap> {
    let ranges = [(GuestAddress(0), 0x8_0000), (GuestAddress(0x8_0000), 0x8_0000)];
    IoContext {
        memory: Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()),
        direct: direct.map(|(memory, offset)| DirectAlignment { memory, offset }),
        device_block: None,
        length: Arc::new(AtomicU64::new(DISK_BYTES as u64)),
        order: None,
        spare: RefCell::default(),
    }
}

fn segments(buffers: &[(u64, u32)]) -> Segments {
    let buffers: Vec<Buffer> =
        buffers.iter().map(|(at, length)| Buffer { address: GuestAddress(*at), length: *length }).collect();
    Segments::window(&buffers, 0, u64::MAX)
}

fn file() -> (File, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..DISK_BYTES).map(|i| u8::try_from(i % 253).unwrap()).collect();
    file.write_all_at(&content, 0).unwrap();
    (file, content)
}

/// What direct I/O would say of a call.
fn refuses(direct: Option<DirectAlignment>, call: Call, memory: &IoVec) -> bool {
    let (Some(direct), Call::Disk(RingOperation::Read(offset) | RingOperation::Write { offset, .. })) =
        (direct, call)
    else {
        return false;
    };
    !offset.is_multiple_of(u64::from(direct.offset))
        || !memory.is_aligned(direct.memory as usize, direct.offset as usize)
}

/// Carries an operation out, each call cut to the next of `shares` bytes; of direct I/O, to whole blocks of these.
fn carry_out<G: FilledByKernel + Send + Sync + 'static>(
    context: &IoContext<G>,
    file: &File,
    operation: Operation,
    shares: &[usize],
) -> io::Result<()> {
    let mut transfer = Transfer::new(operation);
    let mut shares = shares.iter().copied().cycle();
    loop {
        match transfer.next(context) {
            Step::Done(result) => return result,
            Step::Call(call, memory) => {
                let share = shares.next().unwrap_or(usize::MAX);
                let mut memory = memory.unwrap();
                let refused = refuses(context.direct, call, &memory);
                let block = match call {
                    Call::Disk(_) => context.direct.map_or(1, |direct| direct.offset as usize),
                    Call::Buffered(_) | Call::DiscardBlocks { .. } => 1,
                };
                if share > 0 {
                    memory.truncate(share.checked_next_multiple_of(block).unwrap_or(usize::MAX));
                }
                let (Call::Disk(operation) | Call::Buffered(operation)) = call else { panic!("{call:?}") };
                let result = match operation {
                    _ if refused => Err(io::Error::from_raw_os_error(libc::EINVAL)),
                    // A call that was interrupted.
                    _ if share == 0 => Err(io::Error::from_raw_os_error(libc::EINTR)),
                    RingOperation::Read(offset) => memory.read(file, offset),
                    RingOperation::Write { offset, durable } => memory.write(file, offset, durable),
                    RingOperation::Sync | RingOperation::Allocate { .. } => panic!("{operation:?}"),
                };
                transfer.landed(context, call, result, Some(memory));
            }
        }
    }
}

#[test]
fn operations_one_after_the_other_allocate_nothing() {
    let (file, _) = file();
    let context = context(None);
    let buffers: Vec<Buffer> =
        (0..8).map(|i| Buffer { address: GuestAddress(0x7_F800 + i * 0x1800), length: 0x1000 }).collect();
    let mut spare = Segments::default();
    let mut carry_out = |write| {
        let data = std::mem::take(&mut spare).refilled(&buffers, 0, u64::MAX);
        let mut transfer = Transfer::new(match write {
            true => Operation::Write { offset: 512, data, durable: false },
            false => Operation::Read { offset: 512, data },
        });
        loop {
            let (call, mut memory) = match transfer.next(&context) {
                Step::Done(result) => break result.unwrap(),
                Step::Call(call, memory) => (call, memory.unwrap()),
            };
            memory.truncate(10_000);
            let result = match call {
                Call::Disk(RingOperation::Read(offset)) => memory.read(&file, offset),
                Call::Disk(RingOperation::Write { offset, .. }) => memory.write(&file, offset, false),
                _ => panic!("{call:?}"),
            };
            transfer.landed(&context, call, result, Some(memory));
        }
        spare = transfer.into_segments().unwrap();
    };
    let heap = allocation_counter::measure(|| carry_out(true));
    assert!(heap.count_total > 0, "nothing is there yet");
    let heap = allocation_counter::measure(|| {
        for i in 0..100 {
            carry_out(i % 2 == 0);
        }
    });
    assert_eq!(heap.count_total, 0);
}

proptest! {
    #[test]
    fn short_transfers_are_carried_on_until_all_is_done(
        pieces in proptest::collection::vec((0_u64..0x1000, 1_u32..20_000), 1..8),
        offset in 0_u64..1000,
        mut shares in proptest::collection::vec(prop_oneof![Just(0_usize), 1_usize..30_000], 1..6),
        direct in prop_oneof![Just(None), Just(Some((4096, 512))), Just(Some((512, 4096))), Just(Some((4, 1)))],
    ) {
        shares.push(7777);
        let (file, mut content) = file();
        let context = context(direct);
        let buffers: Vec<(u64, u32)> =
            pieces.iter().enumerate().map(|(i, (at, length))| (0x7_0000 + i as u64 * 0x8000 + at, *length)).collect();
        let data = segments(&buffers);
        let length = usize::try_from(data.len()).unwrap();
        let start = usize::try_from(offset).unwrap();
        carry_out(&context, &file, Operation::Read { offset, data: data.clone() }, &shares).unwrap();
        let mut got = vec![0; length];
        data.read(&*context.memory, &mut got).unwrap();
        prop_assert_eq!(&got, &content[start..start + length]);
        for byte in &mut got {
            *byte ^= 0xA5;
        }
        data.write(&*context.memory, &got).unwrap();
        carry_out(&context, &file, Operation::Write { offset, data, durable: false }, &shares).unwrap();
        content[start..start + length].copy_from_slice(&got);
        let mut is = vec![0; DISK_BYTES];
        file.read_exact_at(&mut is, 0).unwrap();
        prop_assert_eq!(is, content);
    }
}

#[test]
fn a_disk_that_has_become_shorter_is_an_error_and_not_a_loop() {
    let context = context(None);
    let (file, _) = file();
    let data = segments(&[(0, 4096)]);
    let operation = Operation::Read { offset: DISK_BYTES as u64 - 512, data };
    assert_eq!(carry_out(&context, &file, operation, &[]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_call_that_is_always_interrupted_is_not_made_for_ever() {
    let (file, _) = file();
    let operation = Operation::Read { offset: 0, data: segments(&[(0, 512)]) };
    let error = carry_out(&context(None), &file, operation, &[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
}

#[test]
fn data_outside_of_memory_is_an_error() {
    let (file, _) = file();
    let operation = Operation::Read { offset: 0, data: segments(&[(0xF_FFFF, 2)]) };
    let error = carry_out(&context(None), &file, operation, &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
}

/// Which calls are tried for an operation if the host knows none of them but reads and writes.
fn ways(context: &IoContext<GuestMemoryMmap>, operation: Operation) -> (Vec<String>, Option<i32>) {
    let (mut transfer, mut tried) = (Transfer::new(operation), Vec::new());
    loop {
        let (call, memory) = match transfer.next(context) {
            Step::Done(result) => return (tried, result.err().and_then(|error| error.raw_os_error())),
            Step::Call(call, memory) => (call, memory),
        };
        let length = memory.as_ref().map(IoVec::length);
        let result = match (call, length) {
            (Call::DiscardBlocks { offset, length }, None) => {
                tried.push(format!("blocks {offset} {length}"));
                None
            }
            (Call::Disk(RingOperation::Allocate { mode, offset, length }), None) => {
                tried.push(format!("allocate {mode:#x} {offset} {length}"));
                None
            }
            (Call::Disk(RingOperation::Write { offset, durable: false }), Some(length)) => {
                tried.push(format!("write {offset} {length}"));
                Some(length)
            }
            (Call::Disk(RingOperation::Read(offset)), Some(length)) => {
                tried.push(format!("read {offset} {length}"));
                Some(length)
            }
            (Call::Disk(RingOperation::Sync), None) => {
                tried.push("sync".into());
                Some(0)
            }
            other => panic!("{other:?}"),
        };
        let result = result.ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        transfer.landed(context, call, result, memory);
    }
}

fn extent(offset: u64, length: u64, unmap: bool) -> Extent {
    Extent { offset, length, unmap }
}

#[test]
fn zeroes_are_written_where_the_host_knows_nothing_better() {
    let operation = Operation::WriteZeroes {
        extents: vec![extent(512, 3 << 20, true), extent(0, 0, false), extent(4 << 20, 512, false)],
        durable: true,
    };
    let expected = [
        "allocate 0x3 512 3145728",
        "allocate 0x11 512 3145728",
        "write 512 1048576",
        "write 1049088 1048576",
        "write 2097664 1048576",
        "allocate 0x11 4194304 512",
        "write 4194304 512",
        "sync",
    ];
    assert_eq!(ways(&context(None), operation), (expected.map(str::to_owned).to_vec(), None));
}

#[test]
fn a_discard_that_nobody_knows_is_unsupported_and_writes_nothing() {
    let operation = || Operation::Discard(vec![extent(512, 1024, false), extent(8192, 512, false)]);
    let mut context = context(None);
    let unsupported = Some(libc::EOPNOTSUPP);
    assert_eq!(ways(&context, operation()), (vec!["allocate 0x3 512 1024".into()], unsupported));
    context.device_block = Some(512);
    let tried = vec!["allocate 0x3 512 1024".into(), "blocks 512 1024".into()];
    assert_eq!(ways(&context, operation()), (tried, unsupported));
}

#[test]
fn direct_io_gets_memory_that_it_takes() {
    let context = context(Some((512, 512)));
    for (buffers, length) in [
        (&[(0x1000, 512), (0x3000, 1024)][..], 1536),
        (&[(0x1001, 512)], 512),
        (&[(0x1000, 100), (0x2000, 412)], 512),
        (&[(0x1010, 0x2_0000)], 64 << 10),
    ] {
        let data = segments(buffers);
        let mut transfer = Transfer::new(Operation::Read { offset: 0, data });
        let Step::Call(Call::Disk(RingOperation::Read(0)), Some(memory)) = transfer.next(&context) else {
            panic!()
        };
        assert!(memory.is_aligned(512, 512), "{buffers:?}");
        assert_eq!(memory.length(), length, "{buffers:?}");
    }
}

#[test]
fn memory_in_pieces_smaller_than_a_block_is_not_given_to_direct_io() {
    let context = context(Some((512, 4096)));
    let pieces: Vec<(u64, u32)> = (0..8).map(|i| (0x1000 + i * 0x1000, 512)).collect();
    let mut transfer = Transfer::new(Operation::Read { offset: 0, data: segments(&pieces) });
    let Step::Call(_, Some(memory)) = transfer.next(&context) else { panic!() };
    assert!(memory.is_aligned(512, 4096));
}

#[test]
fn single_sectors_of_larger_blocks_are_read_and_written_by_direct_io() {
    for (sector, count) in [(1_usize, 1_usize), (0, 1), (7, 1), (7, 2), (3, 8), (1, 200), (8, 9)] {
        let context = context(Some((512, 4096)));
        let (file, mut content) = file();
        let (start, length) = (sector * 512, count * 512);
        let data = segments(&[(0x1000, u32::try_from(length).unwrap())]);
        let read = Operation::Read { offset: start as u64, data: data.clone() };
        carry_out(&context, &file, read, &[]).unwrap();
        let mut got = vec![0; length];
        data.read(&*context.memory, &mut got).unwrap();
        assert!(got == content[start..start + length], "sector {sector}, {count}");
        data.write(&*context.memory, &vec![0xEE; length]).unwrap();
        let write = Operation::Write { offset: start as u64, data, durable: true };
        carry_out(&context, &file, write, &[]).unwrap();
        content[start..start + length].fill(0xEE);
        let mut is = vec![0; DISK_BYTES];
        file.read_exact_at(&mut is, 0).unwrap();
        assert!(is == content, "sector {sector}, {count}: what is around it is what it was");
    }
}

#[test]
fn the_sectors_of_the_block_in_which_a_file_ends_are_read_and_written_too() {
    let context = context(Some((512, 4096)));
    let (file, _) = file();
    let length = 8192 + 1024;
    file.set_len(length).unwrap();
    context.length.store(length, Ordering::Release);
    let data = segments(&[(0x1000, 1536)]);
    // From the last whole block to the end.
    let offset = 8192 - 512;
    data.write(&*context.memory, &[0xEE; 1536]).unwrap();
    let write = Operation::Write { offset, data: data.clone(), durable: false };
    carry_out(&context, &file, write, &[]).unwrap();
    assert_eq!(file.metadata().unwrap().len(), length, "it is no longer than it was");
    data.write(&*context.memory, &[0; 1536]).unwrap();
    carry_out(&context, &file, Operation::Read { offset, data: data.clone() }, &[]).unwrap();
    let mut got = vec![0; 1536];
    data.read(&*context.memory, &mut got).unwrap();
    assert!(got == [0xEE; 1536]);
    let mut before = vec![0; 7680];
    file.read_exact_at(&mut before, 0).unwrap();
    assert!(before.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 253));
}

#[test]
fn devices_discard_whole_blocks_and_zero_the_rest_by_writing() {
    let mut context = context(None);
    context.device_block = Some(4096);
    let extents = || vec![extent(512, 16384, false)];
    let (tried, _) = ways(&context, Operation::Discard(extents()));
    assert_eq!(tried, ["allocate 0x3 4096 12288", "blocks 4096 12288"]);
    let zeroes =
        |context: &IoContext<_>| ways(context, Operation::WriteZeroes { extents: extents(), durable: false });
    let expected = ["write 512 3584", "allocate 0x11 4096 12288", "write 4096 12800"];
    assert_eq!(zeroes(&context), (expected.map(str::to_owned).to_vec(), None));
    context.direct = Some(DirectAlignment { memory: 512, offset: 4096 });
    let expected = [
        "read 0 4096",
        "write 0 4096",
        "allocate 0x11 4096 12288",
        "write 4096 12288",
        "read 16384 4096",
        "write 16384 4096",
    ];
    assert_eq!(zeroes(&context), (expected.map(str::to_owned).to_vec(), None));
}

#[test]
fn a_host_that_is_short_of_something_is_asked_again_where_there_is_time() {
    let context = context(None);
    let mut transfer = Transfer::new(Operation::Read { offset: 0, data: segments(&[(0, 512)]) });
    let short = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
    let ask = |transfer: &mut Transfer, result| {
        let Step::Call(call, memory) = transfer.next(&context) else { panic!() };
        transfer.landed(&context, call, result, memory);
    };
    assert!(!transfer.is_patient());
    ask(&mut transfer, short());
    assert!(transfer.is_patient());
    ask(&mut transfer, short());
    let Step::Done(Err(error)) = transfer.next(&context) else { panic!() };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_the_kernel_reads_into_guest_memory_is_in_the_dirty_bitmap() {
    const PAGE: u64 = 4096;
    let size = resources::Bytes::mib(2);
    for direct in [None, Some((512, 4096))] {
        let mapping = Mapping::new(size, 0, size, Backing::Anonymous, "t").unwrap();
        let range = RamRange { vnode: VnodeId(0), start: Gpa(0), size };
        let region = RamRegion::of(range, PageSize::Small, Arc::new(mapping));
        let ram = GuestRam::of_regions(vec![region]);
        let context = IoContext {
            memory: Arc::new(ram.memory().clone()),
            direct: direct.map(|(memory, offset)| DirectAlignment { memory, offset }),
            device_block: None,
            length: Arc::new(AtomicU64::new(DISK_BYTES as u64)),
            order: None,
            spare: RefCell::default(),
        };
        let dirty = &ram.regions().next().unwrap().dirty;
        dirty.switch_on(2 << 20);
        let (file, _) = file();
        // One whole page, the end of one with the beginning of the next, and nothing between.
        let data = segments(&[(3 * PAGE, 4096), (9 * PAGE + 3584, 1024)]);
        let read = Operation::Read { offset: 512, data: data.clone() };
        carry_out(&context, &file, read, &[700, 512]).unwrap();
        let mut expected = vec![0; 8];
        expected[0] = 1 << 3 | 1 << 9 | 1 << 10;
        assert_eq!(dirty.take(), expected, "{direct:?}");
        // A write to the disk only reads.
        carry_out(&context, &file, Operation::Write { offset: 0, data, durable: false }, &[]).unwrap();
        assert_eq!(dirty.take(), [0; 8], "{direct:?}");
    }
}
