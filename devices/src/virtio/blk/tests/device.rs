//! The device around its requests: configuration, cache mode, resizing, reset, several queues, broken rings.

use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bench::{Bench, header};
use crate::virtio::blk::test_disk::{Mischief, SHAPE, TestDisk};
use crate::virtio::blk::{Blk, BlkError, BlkOptions, DiskShape, MAX_QUEUES, Serial};
use crate::virtio::pci::VirtioPci;
use crate::virtio::test_driver::{TestMemory, TestQueue, activation};
use crate::virtio::{ActivationError, Interest, VirtioDevice};

const WRITEBACK: u64 = 32;

fn disk(sectors: usize) -> TestDisk {
    TestDisk::new(vec![7; sectors * 512], SHAPE)
}

fn write_sector(bench: &mut Bench) -> u8 {
    let mut request = header(1, 0);
    request.extend([9; 512]);
    bench.ask(&request, 1).status()
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let shape = DiskShape {
        read_only: false,
        logical_block: 4096,
        physical_block: 16384,
        alignment: 4096,
        minimum_io: 16384,
        optimal_io: 1 << 20,
        discard: Some(65536),
    };
    let bench = Bench::at_rest(&TestDisk::new(vec![0; 1 << 20], shape), 4, 64);
    let config = bench.config(0, 64);
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(config[..8], 2048_u64.to_le_bytes(), "capacity");
    assert_eq!((word(8), word(12)), (4 << 20, 254), "size_max, seg_max");
    assert_eq!(config[16..20], [0; 4], "geometry");
    assert_eq!(word(20), 4096, "blk_size");
    assert_eq!((config[24], config[25], &config[26..28], word(28)), (2, 1, &[4, 0][..], 256), "topology");
    assert_eq!(config[32..36], [1, 0, 4, 0], "writeback, num_queues");
    assert_eq!((word(36), word(40), word(44)), (1 << 21, 32, 128), "discard");
    assert_eq!((word(48), word(52), word(56)), (1 << 21, 32, 1), "write zeroes");
    assert_eq!(word(60), 0, "past the end");
    assert_eq!(bench.config(30, 4), &config[30..34]);
    assert_eq!(bench.config(u64::MAX, 4), [0; 4]);
    let numbers: Vec<u32> = (0..64).filter(|bit| bench.features() & (1 << bit) != 0).collect();
    assert_eq!(numbers, [1, 2, 6, 9, 10, 11, 12, 13, 14]);
}

#[test]
fn a_disk_without_discard_does_not_offer_it() {
    let bench = Bench::at_rest(&TestDisk::new(vec![0; 4096], DiskShape { discard: None, ..SHAPE }), 1, 64);
    assert_eq!(bench.features() & (1 << 12 | 1 << 13), 0);
    assert_eq!(bench.config(36, 12), [0; 12]);
}

#[test]
fn what_is_offered_has_limits_and_a_disk_that_may_only_be_read_offers_none() {
    for unit in [512, 4096, 1 << 30] {
        let disk = TestDisk::new(vec![0; 4096], DiskShape { discard: Some(unit), ..SHAPE });
        let config = Bench::at_rest(&disk, 1, 64).config(36, 24);
        let words = config.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        let words: Vec<u32> = words.collect();
        assert!(words[..5].iter().all(|limit| *limit != 0), "{unit}: {words:?}");
        assert_eq!(words[2] * 512, unit);
    }
    let none = TestDisk::new(vec![0; 4096], DiskShape { discard: None, ..SHAPE });
    let bench = Bench::at_rest(&none, 1, 64);
    assert_eq!(bench.features() & (1 << 13 | 1 << 14), 1 << 14);
    assert!(bench.config(48, 8).chunks(4).all(|limit| limit != [0; 4]), "zeroes can always be written");
    let read_only = TestDisk::new(vec![0; 4096], DiskShape { read_only: true, discard: None, ..SHAPE });
    assert_eq!(Bench::at_rest(&read_only, 1, 64).features() & (1 << 13 | 1 << 14), 0);
}

#[test]
fn the_driver_chooses_between_write_back_and_write_through() {
    let disk = disk(8);
    let mut bench = Bench::new(&disk, 1);
    bench.device.write_config(WRITEBACK, &[2]);
    bench.device.write_config(0, &[0; 8]);
    assert_eq!(
        (bench.config(WRITEBACK, 1), bench.config(0, 1)),
        (vec![1], vec![8]),
        "other writes do nothing"
    );
    bench.device.write_config(WRITEBACK, &[0]);
    assert_eq!(bench.config(WRITEBACK, 1), [0]);
    write_sector(&mut bench);
    assert_eq!(disk.state().stable[..512], [9; 512]);
    bench.reset();
    assert_eq!(bench.config(WRITEBACK, 1), [1], "the next driver begins with the default");
}

#[test]
fn a_choice_before_the_start_counts_if_the_feature_was_negotiated() {
    for (mask, writeback) in [(u64::MAX, 0), (!(1 << 11), 1), (!(1 << 9), 0), (!(1 << 9 | 1 << 11), 0)] {
        let mut bench = Bench::at_rest(&disk(8), 1, 64);
        if mask & (1 << 9) != 0 {
            bench.device.write_config(WRITEBACK, &[0]);
        }
        bench.activate(mask);
        assert_eq!(bench.config(WRITEBACK, 1), [writeback], "{mask:#x}");
    }
}

fn resize(bench: &Bench, wanted: Option<u64>) -> Result<u64, BlkError> {
    bench.handle.resize(wanted, || true).map(Option::unwrap)
}

#[test]
fn a_resize_that_was_given_up_while_the_storage_hung_changes_nothing() {
    let disk = disk(8);
    let bench = Bench::new(&disk, 1);
    assert!(matches!(bench.handle.resize(Some(9 * 512), || false), Ok(None)));
    assert_eq!(disk.state().length.as_ref().unwrap(), &(8 * 512));
    disk.state().length = Ok(9 * 512);
    assert!(matches!(bench.handle.resize(None, || false), Ok(None)));
    assert_eq!(bench.config(0, 8), 8_u64.to_le_bytes());
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 0);
}

#[test]
fn a_driver_that_did_not_take_the_feature_changes_nothing() {
    let mut bench = Bench::at_rest(&disk(8), 1, 64);
    bench.activate(!(1 << 11));
    bench.device.write_config(WRITEBACK, &[0]);
    assert_eq!(bench.config(WRITEBACK, 1), [1]);
}

#[test]
fn a_disk_grows_and_shrinks_under_its_driver() {
    let disk = disk(64);
    let mut bench = Bench::new(&disk, 1);
    disk.state().length = Ok(8 * 512 + 511);
    assert_eq!(resize(&bench, None).unwrap(), 8 * 512);
    assert_eq!(bench.config(0, 8), 8_u64.to_le_bytes());
    assert_eq!(bench.ask(&header(0, 8), 513).status(), 1);
    disk.state().length = Ok(9 * 512);
    assert_eq!(resize(&bench, None).unwrap(), 9 * 512);
    assert_eq!(bench.ask(&header(0, 8), 513).status(), 0);
    assert_eq!(resize(&bench, None).unwrap(), 9 * 512);
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 2, "no news, no interrupt");
    disk.state().length = Err(io::ErrorKind::Other.into());
    assert!(matches!(resize(&bench, None), Err(BlkError::Length { .. })));
    assert_eq!(bench.config(0, 8), 9_u64.to_le_bytes());
}

#[test]
fn a_disk_is_made_longer_and_never_shorter() {
    let disk = disk(8);
    let bench = Bench::new(&disk, 1);
    for wanted in [0, 7 * 512, 8 * 512 + 1, 8 * 512 - 1] {
        assert!(matches!(resize(&bench, Some(wanted)), Err(BlkError::Size { length: 4096, .. })), "{wanted}");
    }
    assert_eq!(resize(&bench, Some(9 * 512)).unwrap(), 9 * 512);
    assert_eq!(bench.config(0, 8), 9_u64.to_le_bytes());
    assert_eq!(resize(&bench, Some(9 * 512)).unwrap(), 9 * 512, "it is so already");
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 1);
}

#[test]
fn a_resize_at_rest_needs_no_interrupt() {
    let disk = disk(64);
    let mut bench = Bench::new(&disk, 1);
    bench.reset();
    disk.state().length = Ok(512);
    assert_eq!(resize(&bench, None).unwrap(), 512);
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 0);
}

#[test]
fn stopping_waits_for_what_is_in_flight_and_answers_it() {
    let disk = disk(64);
    let mut bench = Bench::new(&disk, 1);
    disk.set_mischief(3, Mischief { hold: 16, fail: 0 });
    let mut pending: Vec<_> = (0..5).map(|i| bench.post(0, &header(0, i), 513, &[16]).unwrap()).collect();
    bench.kick(0);
    assert!(bench.reap(0, &mut pending).is_empty());
    bench.interrupt.take();
    bench.worker().stop(&AtomicBool::new(false));
    let answers = bench.reap(0, &mut pending);
    assert!(answers.iter().all(|(_, answer)| answer.data() == [7; 512] && answer.status() == 0));
    assert_eq!((answers.len(), bench.interrupt.take()), (5, vec![0]));
}

#[test]
fn more_requests_than_the_engine_takes_wait_their_turn() {
    let disk = disk(64);
    let mut bench = Bench::with(&disk, 1, 16, u64::MAX);
    disk.set_mischief(5, Mischief { hold: 15, fail: 0 });
    let (mut pending, mut answered) = (Vec::new(), 0);
    for round in 0..2000_u64 {
        if answered + pending.len() < 100
            && let Some(request) = bench.post(0, &header(0, round % 64), 513, &[16])
        {
            pending.push(request);
            bench.kick(0);
        }
        bench.poll(0);
        answered += bench.reap(0, &mut pending).len();
    }
    assert_eq!((answered, pending.len()), (100, 0));
    assert!(disk.state().most_at_once <= 16);
}

#[test]
fn engines_follow_their_thread_when_it_is_another_one_and_when_it_moves() {
    let disk = disk(8);
    let mut bench = Bench::new(&disk, 2);
    assert_eq!(disk.state().follows, 0, "an engine is made in its thread");
    bench.worker().stop(&AtomicBool::new(false));
    bench.worker().start();
    assert_eq!(disk.state().follows, 2);
    bench.worker().moved();
    assert_eq!(disk.state().follows, 4);
}

#[test]
fn each_queue_has_an_engine_and_two_sources() {
    let disk = disk(64);
    let mut bench = Bench::new(&disk, 3);
    assert_eq!(disk.state().engines, 3);
    let sources = bench.worker().sources();
    assert_eq!(sources.iter().map(|source| source.token).collect::<Vec<_>>(), [0, 1, 3, 4, 6, 7]);
    let interests: Vec<_> = sources.iter().map(|source| source.interest).collect();
    assert_eq!(interests, [Interest::Kick, Interest::Readable].repeat(interests.len() / 2));
    for queue in 0..3 {
        let mut pending = vec![bench.post(queue, &header(0, 1), 513, &[16]).unwrap()];
        bench.kick(queue);
        assert_eq!(bench.reap(queue, &mut pending)[0].1.status(), 0);
        assert_eq!(bench.interrupt.take(), [u16::try_from(queue).unwrap()]);
    }
    bench.worker().ready(6);
    bench.worker().ready(u32::MAX);
}

#[test]
fn a_broken_queue_is_told_and_the_others_go_on() {
    let mut bench = Bench::new(&disk(64), 2);
    bench.queues[0].make_available(999);
    bench.kick(0);
    bench.kick(0);
    assert_eq!(bench.interrupt.faults.lock().unwrap().len(), 1);
    let mut pending = vec![bench.post(1, &header(0, 1), 513, &[16]).unwrap()];
    bench.kick(1);
    assert_eq!(bench.reap(1, &mut pending).len(), 1);
}

#[test]
fn a_device_can_be_reset_and_started_again() {
    let disk = disk(64);
    let mut bench = Bench::new(&disk, 1);
    for _ in 0..3 {
        assert_eq!(write_sector(&mut bench), 0);
        bench.reset();
        bench.device.reset(None);
        bench.queues[0] = TestQueue::new(&bench.memory, 0, 64);
        let zeroes = [0_u8; 0x4000];
        vm_memory::Bytes::write_slice(&*bench.memory, &zeroes, vm_memory::GuestAddress(0)).unwrap();
        bench.activate(u64::MAX);
    }
    assert_eq!(bench.handle.counters().writes.get(), 3);
}

#[test]
fn a_driver_without_queues_gets_no_worker() {
    let mut bench = Bench::at_rest(&disk(8), 1, 64);
    let activation = activation(&bench.memory, 0, &[], &bench.interrupt);
    let Err(error) = bench.device.activate(activation) else { panic!("activated") };
    assert!(matches!(error, ActivationError::QueueMissing { device: "blk", index: 0 }));
}

#[test]
fn queues_have_a_vector_each_or_one_together() {
    let vectors = |shared_vector| {
        let options =
            BlkOptions { queues: NonZeroU16::new(4).unwrap(), shared_vector, ..BlkOptions::default() };
        VirtioPci::<TestMemory>::vectors(&Blk::new(Arc::new(disk(8)), options).unwrap())
    };
    assert_eq!((vectors(false), vectors(true)), (5, 2));
}

#[test]
fn options_that_cannot_be_are_refused() {
    assert_eq!(Serial::new("12345678901234567890").unwrap().bytes(), *b"12345678901234567890");
    for serial in ["123456789012345678901", "tab\there", "ä"] {
        assert!(matches!(Serial::new(serial), Err(BlkError::Serial(text)) if text == serial));
    }
    let queues = NonZeroU16::new(MAX_QUEUES + 1).unwrap();
    let options = BlkOptions { queues, ..BlkOptions::default() };
    let Err(error) = Blk::<TestMemory>::new(Arc::new(disk(8)), options) else { panic!("17 queues") };
    assert_eq!(error.to_string(), "17 queues: must be 1 to 16");
    let broken = disk(8);
    broken.state().length = Err(io::ErrorKind::PermissionDenied.into());
    let Err(error) = Blk::<TestMemory>::new(Arc::new(broken), BlkOptions::default()) else { panic!() };
    assert_eq!(error.to_string(), "length of test disk: permission denied");
}
