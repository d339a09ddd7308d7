//! Steps of operations against a file, with calls that do less than asked, fail, or are not known.

use super::transfer::{Ground, Step, Transfer};
use crate::sys::RingOperation;
use devices::virtio::Buffer;
use devices::virtio::blk::{Extent, Operation, Segments};
use proptest::prelude::*;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const DISK_BYTES: usize = 256 << 10;

fn ground(align: Option<usize>) -> Ground<GuestMemoryMmap> {
    let ranges = [(GuestAddress(0), 0x8_0000), (GuestAddress(0x8_0000), 0x8_0000)];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    Ground { memory, align, is_device: false }
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

/// Carries an operation out, each call cut to the next of `shares` bytes.
fn carry_out(
    ground: &Ground<GuestMemoryMmap>,
    file: &File,
    operation: Operation,
    shares: &[usize],
) -> io::Result<()> {
    let mut transfer = Transfer::new(operation);
    let mut shares = shares.iter().copied().cycle();
    loop {
        match transfer.next(ground) {
            Step::Done(result) => return result,
            Step::DiscardBlocks { .. } => panic!("not a device"),
            Step::Call(operation, memory) => {
                let share = shares.next().unwrap_or(usize::MAX);
                let mut memory = memory.unwrap();
                memory.truncate(share);
                let result = match operation {
                    // A call that was interrupted.
                    _ if share == 0 => Err(io::Error::from_raw_os_error(libc::EINTR)),
                    RingOperation::Read(offset) => memory.read(file, offset),
                    RingOperation::Write { offset, durable } => memory.write(file, offset, durable),
                    RingOperation::Sync | RingOperation::Allocate { .. } => panic!("{operation:?}"),
                };
                transfer.landed(ground, result, Some(memory));
            }
        }
    }
}

proptest! {
    #[test]
    fn short_transfers_are_carried_on_until_all_is_done(
        pieces in proptest::collection::vec((0_u64..0x1000, 1_u32..20_000), 1..8),
        offset in 0_u64..1000,
        mut shares in proptest::collection::vec(prop_oneof![Just(0_usize), 1_usize..30_000], 1..6),
        align in prop_oneof![Just(None), Just(Some(4096_usize))],
    ) {
        shares.push(7777);
        let (file, mut content) = file();
        let ground = ground(align);
        let buffers: Vec<(u64, u32)> =
            pieces.iter().enumerate().map(|(i, (at, length))| (0x7_0000 + i as u64 * 0x8000 + at, *length)).collect();
        let data = segments(&buffers);
        let length = usize::try_from(data.len()).unwrap();
        let start = usize::try_from(offset).unwrap();
        carry_out(&ground, &file, Operation::Read { offset, data: data.clone() }, &shares).unwrap();
        let mut got = vec![0; length];
        data.read(&*ground.memory, &mut got).unwrap();
        prop_assert_eq!(&got, &content[start..start + length]);
        for byte in &mut got {
            *byte ^= 0xA5;
        }
        data.write(&*ground.memory, &got).unwrap();
        carry_out(&ground, &file, Operation::Write { offset, data, durable: false }, &shares).unwrap();
        content[start..start + length].copy_from_slice(&got);
        let mut is = vec![0; DISK_BYTES];
        file.read_exact_at(&mut is, 0).unwrap();
        prop_assert_eq!(is, content);
    }
}

#[test]
fn a_disk_that_has_become_shorter_is_an_error_and_not_a_loop() {
    let ground = ground(None);
    let (file, _) = file();
    let data = segments(&[(0, 4096)]);
    let operation = Operation::Read { offset: DISK_BYTES as u64 - 512, data };
    assert_eq!(carry_out(&ground, &file, operation, &[]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_call_that_is_always_interrupted_is_not_made_for_ever() {
    let (file, _) = file();
    let operation = Operation::Read { offset: 0, data: segments(&[(0, 512)]) };
    let error = carry_out(&ground(None), &file, operation, &[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
}

#[test]
fn data_outside_of_memory_is_an_error() {
    let (file, _) = file();
    let operation = Operation::Read { offset: 0, data: segments(&[(0xF_FFFF, 2)]) };
    let error = carry_out(&ground(None), &file, operation, &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
}

/// Which calls are tried for an operation if the host knows none of them.
fn ways(ground: &Ground<GuestMemoryMmap>, operation: Operation) -> (Vec<String>, Option<i32>) {
    let (mut transfer, mut tried) = (Transfer::new(operation), Vec::new());
    loop {
        match transfer.next(ground) {
            Step::Done(result) => return (tried, result.err().and_then(|error| error.raw_os_error())),
            Step::DiscardBlocks { offset, length } => tried.push(format!("blocks {offset} {length}")),
            Step::Call(RingOperation::Allocate { mode, offset, length }, None) => {
                tried.push(format!("allocate {mode:#x} {offset} {length}"));
            }
            Step::Call(RingOperation::Write { offset, durable: false }, Some(memory)) => {
                tried.push(format!("write {offset} {}", memory.length()));
                transfer.landed(ground, Ok(memory.length()), Some(memory));
                continue;
            }
            Step::Call(RingOperation::Sync, None) => {
                tried.push("sync".into());
                transfer.landed(ground, Ok(0), None);
                continue;
            }
            Step::Call(operation, _) => panic!("{operation:?}"),
        }
        transfer.landed(ground, Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)), None);
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
    assert_eq!(ways(&ground(None), operation), (expected.map(str::to_owned).to_vec(), None));
}

#[test]
fn a_discard_that_nobody_knows_is_unsupported_and_writes_nothing() {
    let operation = || Operation::Discard(vec![extent(512, 1024, false), extent(8192, 512, false)]);
    let mut ground = ground(None);
    let unsupported = Some(libc::EOPNOTSUPP);
    assert_eq!(ways(&ground, operation()), (vec!["allocate 0x3 512 1024".into()], unsupported));
    ground.is_device = true;
    let tried = vec!["allocate 0x3 512 1024".into(), "blocks 512 1024".into()];
    assert_eq!(ways(&ground, operation()), (tried, unsupported));
}

#[test]
fn direct_io_gets_memory_that_it_takes() {
    let ground = ground(Some(512));
    for (buffers, length) in [
        (&[(0x1000, 512), (0x3000, 1024)][..], 1536),
        (&[(0x1001, 512)], 512),
        (&[(0x1000, 100), (0x2000, 412)], 512),
        (&[(0x1010, 0x2_0000)], 64 << 10),
    ] {
        let data = segments(buffers);
        let mut transfer = Transfer::new(Operation::Read { offset: 0, data });
        let Step::Call(RingOperation::Read(0), Some(memory)) = transfer.next(&ground) else { panic!() };
        assert!(memory.is_aligned(512), "{buffers:?}");
        assert_eq!(memory.length(), length, "{buffers:?}");
    }
}
