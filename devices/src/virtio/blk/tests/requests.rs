//! Single requests, each against what virtio 1.3, 5.2.6 says of it.

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::{Bytes, GuestAddress};

use super::bench::{Bench, UNTOUCHED, extents, header};
use crate::figures::counted;
use crate::virtio::VirtioDevice;
use crate::virtio::blk::request::MAX_BUFFERS;
use crate::virtio::blk::test_disk::{SHAPE, TestDisk};
use crate::virtio::blk::{DiskShape, MAX_RANGE_SECTORS};
use crate::virtio::test_driver::{BUFFERS, activation};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

fn disk() -> TestDisk {
    TestDisk::new(pattern(64 * 512), SHAPE)
}

#[test]
fn what_is_written_is_read_back_however_it_is_cut() {
    for cuts in [&[16_u32][..], &[1], &[3, 511, 7], &[17, 1024], &[4096]] {
        let disk = disk();
        let mut bench = Bench::with(&disk, 1, 256, u64::MAX);
        let cuts: Vec<u32> =
            if cuts == [1] { vec![1; 16].into_iter().chain([200]).collect() } else { cuts.to_vec() };
        let data: Vec<u8> = pattern(1024).iter().map(|byte| byte ^ 0x55).collect();
        let mut request = header(OUT, 5);
        request.extend(&data);
        let answer = bench.ask_framed(&request, 1, &cuts);
        assert_eq!((answer.status(), answer.written), (OK, 1), "{cuts:?}");
        let answer = bench.ask_framed(&header(IN, 4), 1537, &cuts);
        assert_eq!((answer.status(), answer.written), (OK, 1537), "{cuts:?}");
        assert_eq!(answer.data(), [&pattern(64 * 512)[4 * 512..5 * 512], &data].concat(), "{cuts:?}");
        let expected = [
            ("reads", 1),
            ("writes", 1),
            ("read_bytes", 1536),
            ("written_bytes", 1024),
            ("rounds", 3),
            ("batches", 2),
        ];
        assert_eq!(counted(&bench.handle), expected);
    }
}

#[test]
fn a_request_of_more_buffers_than_were_offered_is_an_error() {
    const TABLE: u64 = 0x8_0000;
    for (data, status) in [(MAX_BUFFERS - 2, OK), (MAX_BUFFERS - 1, IOERR)] {
        let mut bench = Bench::at_rest(&disk(), 1, 256);
        let features = bench.features() | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        let active = activation(&bench.memory, features, &[&bench.queues[0]], &bench.interrupt);
        bench.worker = Some(bench.device.activate(active).unwrap());
        bench.worker().start();
        bench.memory.write_slice(&header(IN, 0), GuestAddress(BUFFERS)).unwrap();
        let mut buffers = vec![(BUFFERS, 16, false)];
        buffers.extend((0..data as u64).map(|i| (BUFFERS + 0x1000 + i * 2, 1, true)));
        // Whole sectors, however they are cut.
        buffers[data].1 = u32::try_from(1024 - (data - 1)).unwrap();
        buffers.push((BUFFERS + 0x4000, 1, true));
        bench.queues[0].add_indirect(TABLE, &buffers).unwrap();
        bench.kick(0);
        assert!(bench.queues[0].used().is_some());
        assert_eq!(bench.memory.read_obj::<u8>(GuestAddress(BUFFERS + 0x4000)).unwrap(), status, "{data}");
    }
}

#[test]
fn the_last_sector_is_the_last() {
    let mut bench = Bench::new(&disk(), 1);
    assert_eq!(bench.ask(&header(IN, 63), 513).status(), OK);
    assert_eq!(bench.ask(&header(IN, 63), 1025).status(), IOERR);
    for sector in [64, 1 << 55, (1 << 55) - 1, u64::MAX, u64::MAX - 1] {
        let answer = bench.ask(&header(IN, sector), 513);
        assert_eq!((answer.status(), answer.written), (IOERR, 0), "sector {sector}");
        assert_eq!(answer.data(), [UNTOUCHED; 512], "sector {sector}");
    }
    assert_eq!(bench.handle.counters().out_of_range.get(), 6);
    assert_eq!(bench.ask(&header(IN, 64), 1).status(), OK, "nothing at the end is inside");
}

#[test]
fn data_that_is_no_multiple_of_a_sector_is_an_error() {
    let disk = disk();
    let mut bench = Bench::new(&disk, 1);
    for room in [2, 512, 514, 1024] {
        assert_eq!(bench.ask(&header(IN, 0), room).status(), IOERR, "{room}");
    }
    let mut request = header(OUT, 0);
    request.extend([1; 511]);
    assert_eq!(bench.ask(&request, 1).status(), IOERR);
    assert_eq!(disk.state().content, pattern(64 * 512));
    assert_eq!(bench.handle.counters().malformed.get(), 5);
}

#[test]
fn a_short_header_is_an_error_and_no_room_for_a_status_is_none() {
    let mut bench = Bench::new(&disk(), 1);
    assert_eq!(bench.ask(&header(IN, 0)[..15], 513).status(), IOERR);
    assert_eq!(bench.ask(&[], 513).status(), IOERR);
    let answer = bench.ask(&header(OUT, 0), 0);
    assert_eq!((answer.bytes, answer.written), (vec![], 0));
    assert_eq!(bench.handle.counters().malformed.get(), 3);
}

#[test]
fn a_disk_that_may_only_be_read_is_not_written() {
    let disk = TestDisk::new(pattern(64 * 512), DiskShape { read_only: true, ..SHAPE });
    let mut bench = Bench::new(&disk, 1);
    assert_eq!(bench.features() & (1 << 5), 1 << 5);
    assert_eq!(bench.features() & (1 << 11 | 1 << 13 | 1 << 14), 0);
    let mut request = header(OUT, 0);
    request.extend([1; 512]);
    assert_eq!(bench.ask(&request, 1).status(), IOERR);
    assert_eq!(bench.ask(&extents(DISCARD, &[(0, 1, 0)]), 1).status(), IOERR);
    assert_eq!(bench.ask(&extents(WRITE_ZEROES, &[(0, 1, 0)]), 1).status(), IOERR);
    assert_eq!(bench.ask(&header(IN, 0), 513).status(), OK);
    assert_eq!(bench.ask(&header(FLUSH, 0), 1).status(), OK);
    assert_eq!(disk.state().content, pattern(64 * 512));
    assert_eq!(bench.handle.counters().refused_writes.get(), 3);
}

#[test]
fn the_serial_number_fills_what_room_there_is() {
    let mut bench = Bench::new(&disk(), 1);
    let mut id = b"SERIAL-7".to_vec();
    id.resize(20, 0);
    let answer = bench.ask_framed(&header(GET_ID, 0), 21, &[5]);
    assert_eq!((answer.status(), answer.data(), answer.written), (OK, &id[..], 21));
    let answer = bench.ask(&header(GET_ID, 0), 7);
    assert_eq!((answer.data(), answer.written), (&id[..6], 7));
    let answer = bench.ask(&header(GET_ID, 0), 31);
    assert_eq!((&answer.data()[..20], &answer.data()[20..]), (&id[..], &[UNTOUCHED; 10][..]));
    assert_eq!(bench.ask(&header(GET_ID, 0), 1).status(), OK);
}

#[test]
fn types_that_nobody_offered_are_unsupported() {
    let mut bench = Bench::new(&disk(), 1);
    for kind in [2, 3, 5, 10, 14, 15, 24, 0x8000_0000, u32::MAX] {
        let answer = bench.ask(&header(kind, 0), 513);
        assert_eq!((answer.status(), answer.written), (UNSUPP, 0), "type {kind}");
    }
    assert_eq!(bench.handle.counters().unsupported.get(), 9);
}

#[test]
fn zeroes_and_discards_reach_the_disk() {
    let disk = disk();
    let mut bench = Bench::new(&disk, 1);
    assert_eq!(bench.ask(&extents(WRITE_ZEROES, &[(1, 2, 0), (62, 2, 1)]), 1).status(), OK);
    assert_eq!(bench.ask_framed(&extents(DISCARD, &[(8, 8, 0)]), 1, &[9]).status(), OK);
    let mut expected = pattern(64 * 512);
    expected[512..3 * 512].fill(0);
    expected[62 * 512..].fill(0);
    expected[8 * 512..16 * 512].fill(0xDD);
    assert_eq!(disk.state().content, expected);
    let counters = bench.handle.counters();
    assert_eq!((counters.discarded_bytes.get(), counters.zeroed_bytes.get()), (4096, 2048));
}

#[test]
fn flags_and_ranges_of_extents_are_checked() {
    let disk = disk();
    let mut bench = Bench::new(&disk, 1);
    let mut status = |kind, list: &[(u64, u32, u32)]| bench.ask(&extents(kind, list), 1).status();
    assert_eq!(status(DISCARD, &[(0, 1, 1)]), UNSUPP, "unmap is for zeroes");
    assert_eq!(status(DISCARD, &[(0, 1, 2)]), UNSUPP);
    assert_eq!(status(WRITE_ZEROES, &[(0, 1, 2)]), UNSUPP);
    assert_eq!(
        status(WRITE_ZEROES, &[(0, 1, 0), (64, 1, 0)]),
        IOERR,
        "the second is outside, so none is done"
    );
    assert_eq!(status(WRITE_ZEROES, &[(u64::MAX, 2, 0)]), IOERR);
    assert_eq!(status(DISCARD, &[(0, MAX_RANGE_SECTORS + 1, 0)]), IOERR);
    assert_eq!(status(DISCARD, &[]), IOERR);
    assert_eq!(status(DISCARD, &[(0, 0, 0); 33]), IOERR, "more than offered");
    assert_eq!(status(DISCARD, &[(0, 0, 0); 32]), OK);
    assert_eq!(bench.ask(&extents(DISCARD, &[(0, 1, 0)])[..31], 1).status(), IOERR);
    assert_eq!(disk.state().content, pattern(64 * 512));
}

#[test]
fn what_was_not_negotiated_is_unsupported() {
    let disk = disk();
    let mut bench = Bench::with(&disk, 1, 64, !(1 << 13 | 1 << 14));
    assert_eq!(bench.ask(&extents(DISCARD, &[(0, 1, 0)]), 1).status(), UNSUPP);
    assert_eq!(bench.ask(&extents(WRITE_ZEROES, &[(0, 1, 0)]), 1).status(), UNSUPP);
    assert_eq!(disk.state().content, pattern(64 * 512));
}

#[test]
fn writes_survive_a_power_failure_after_a_flush_or_at_once_without_that_feature() {
    let mut request = header(OUT, 0);
    request.extend([9; 512]);
    let disk_one = disk();
    let mut bench = Bench::new(&disk_one, 1);
    bench.ask(&request, 1);
    assert_eq!(disk_one.state().stable, pattern(64 * 512));
    assert_eq!(bench.ask(&header(FLUSH, 0), 1).status(), OK);
    assert_eq!(disk_one.state().stable[..512], [9; 512]);

    let disk_two = disk();
    let mut bench = Bench::with(&disk_two, 1, 64, !(1 << 9));
    bench.ask(&request, 1);
    bench.ask(&extents(WRITE_ZEROES, &[(1, 1, 0)]), 1);
    assert_eq!(disk_two.state().stable[..1024], [[9; 512], [0; 512]].concat());
}
