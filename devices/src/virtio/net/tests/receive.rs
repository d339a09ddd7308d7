//! Frames to the driver.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Bench, Reply, frame};
use crate::virtio::Interest;
use crate::virtio::net::test_tap::{EAGAIN, EIO};
use crate::virtio::net::{HEADER_BYTES, bits};
use crate::virtio::pci::test_machine::EVENT_IDX;
use crate::virtio::test_driver::{BORDER, BUFFERS, accesses};

const RX: usize = 0;

/// The driver's buffers, each with the chain that names it.
#[derive(Default)]
struct Driver {
    posted: VecDeque<(u16, u64)>,
    next: u64,
    /// Frames as the driver puts them together.
    frames: Vec<Vec<u8>>,
}

impl Driver {
    fn post(&mut self, bench: &mut Bench, length: u32) -> bool {
        // A ring of buffers around the border of two regions.
        let address = BORDER - 0x2_0000 + (self.next % 64) * 0x1000;
        let half = length / 2;
        let buffers = [(address, half, true), (address + u64::from(half), length - half, true)];
        let Some(head) = bench.queues[RX].add(&buffers) else { return false };
        self.next += 1;
        self.posted.push_back((head, address));
        true
    }

    /// Takes all frames, as Linux does: the buffers that a first one promises must be there.
    fn take(&mut self, bench: &mut Bench) {
        while let Some(first) = self.take_buffer(bench) {
            let buffers = u16::from_le_bytes([first[10], first[11]]);
            let mut frame = first;
            for _ in 1..buffers {
                frame.extend(self.take_buffer(bench).expect("all buffers of a frame are used at once"));
            }
            frame[10..12].fill(0);
            self.frames.push(frame);
        }
    }

    fn take_buffer(&mut self, bench: &mut Bench) -> Option<Vec<u8>> {
        let (head, written) = bench.queues[RX].used()?;
        let (posted, address) = self.posted.pop_front().unwrap();
        assert_eq!(posted, head, "buffers are used in order");
        Some(bench.read(address, written as usize))
    }
}

#[test]
fn flags_come_only_to_a_driver_that_knows_them() {
    const DATA_VALID: u8 = 2;
    for (features, flags) in [(bits::MRG_RXBUF, 0), (bits::MRG_RXBUF | bits::GUEST_CSUM, DATA_VALID)] {
        // In the driver's buffer at once, and by way of a copy.
        for room in [2048, 100] {
            let mut bench = Bench::new(features);
            for i in 0..30 {
                bench.queues[0].add(&[(BUFFERS + 0x1000 * i, room, true)]).unwrap();
            }
            let mut bytes = frame(1, 1000);
            bytes[0] = DATA_VALID;
            bench.tap(|tap| tap.incoming.push_back(bytes));
            bench.run();
            assert!(bench.queues[0].used().is_some());
            assert_eq!(bench.read(BUFFERS, 1), [flags], "{room}");
        }
    }
}

#[test]
fn a_frame_arrives_with_its_header_and_says_that_it_has_one_buffer() {
    let mut bench = Bench::new(bits::GUEST_CSUM);
    let mut driver = Driver::default();
    assert!(driver.post(&mut bench, 2000));
    let mut came = frame(3, 1400);
    came[0] = 1;
    bench.tap(|tap| tap.incoming.push_back(came.clone()));
    bench.run();
    assert_eq!(bench.read(BORDER - 0x2_0000 + 10, 2), [1, 0]);
    assert_eq!(bench.interrupt.take(), [0]);
    driver.take(&mut bench);
    assert_eq!(driver.frames, [came]);
    assert_eq!(bench.handle.counters().received_bytes.get(), 1400);
}

#[test]
fn an_interface_is_not_watched_while_the_driver_has_no_buffers() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    bench.tap(|tap| tap.incoming.push_back(frame(0, 60)));
    bench.run();
    assert_eq!((bench.watches_tap(), bench.tap(|tap| tap.receives)), (None, 0));
    assert!(bench.queues[RX].wants_kick());
    let mut driver = Driver::default();
    assert!(driver.post(&mut bench, 1536));
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames.len(), 1);
    // Out of buffers again.
    assert_eq!(bench.watches_tap(), None);
    assert!(driver.post(&mut bench, 1536));
    bench.worker().ready(0);
    assert_eq!(bench.watches_tap(), Some(Interest::Readable));
}

#[test]
fn a_frame_that_fits_in_no_buffer_is_dropped_and_the_buffer_is_kept() {
    let mut bench = Bench::new(0);
    let mut driver = Driver::default();
    assert!(driver.post(&mut bench, 200));
    assert!(driver.post(&mut bench, 200));
    bench.tap(|tap| tap.incoming.extend([frame(0, 300), frame(1, 100), frame(2, 188)]));
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames, [frame(1, 100), frame(2, 188)]);
    assert_eq!(bench.handle.counters().received_dropped.get(), 1);
}

#[test]
fn a_large_frame_waits_for_buffers_that_are_still_to_come() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    let mut driver = Driver::default();
    for _ in 0..30 {
        assert!(driver.post(&mut bench, 1536));
    }
    let small: Vec<_> = (0..20).map(|i| frame(i, 100)).collect();
    bench.tap(|tap| tap.incoming.extend(small));
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames.len(), 20);
    // Ten are left, the frame needs twenty, the driver had thirty.
    bench.tap(|tap| tap.incoming.extend([frame(7, 30_000), frame(8, 50)]));
    bench.run();
    assert_eq!(bench.watches_tap(), None);
    assert_eq!(bench.handle.counters().received_dropped.get(), 0);
    for _ in 0..20 {
        assert!(driver.post(&mut bench, 1536));
    }
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames[20..], [frame(7, 30_000), frame(8, 50)]);
    assert_eq!(bench.handle.counters().received_copied.get(), 1);
}

#[test]
fn a_large_frame_is_dropped_when_the_driver_never_has_room_for_it() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    let mut driver = Driver::default();
    for _ in 0..4 {
        assert!(driver.post(&mut bench, 1536));
    }
    bench.tap(|tap| tap.incoming.extend([frame(7, 30_000), frame(8, 50)]));
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames, [frame(8, 50)]);
    assert_eq!(bench.handle.counters().received_dropped.get(), 1);
}

#[test]
fn after_large_frames_the_next_one_is_not_copied() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    let mut driver = Driver::default();
    let mut large_and_small = |sizes: &[usize]| {
        for bytes in sizes {
            while driver.post(&mut bench, 4000) {}
            bench.tap(|tap| tap.incoming.push_back(frame(*bytes, *bytes)));
            bench.run();
            driver.take(&mut bench);
            assert_eq!(driver.frames.pop(), Some(frame(*bytes, *bytes)));
        }
        bench.handle.counters().received_copied.get()
    };
    assert_eq!(large_and_small(&[60_000, 60_000, 66, 60_000]), 1);
    // After many small ones it is not expected any more.
    large_and_small(&[66; 600]);
    assert_eq!(large_and_small(&[60_000]), 2);
}

#[test]
fn frames_in_many_buffers_allocate_nothing() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    let mut driver = Driver::default();
    let mut allocations = Vec::new();
    for _ in 0..12 {
        while driver.post(&mut bench, 3000) {}
        bench.tap(|tap| tap.incoming.push_back(frame(1, 60_000)));
        let heap = allocation_counter::measure(|| {
            bench.worker().ready(0);
            bench.worker().ready(2);
        });
        allocations.push(heap.count_total);
        driver.take(&mut bench);
        bench.interrupt.take();
    }
    assert_eq!(driver.frames, vec![frame(1, 60_000); 12]);
    assert_eq!(allocations[4..], [0; 8], "{allocations:?}");
}

#[test]
fn each_buffer_for_a_frame_is_looked_for_once() {
    let cost = |buffers| {
        let mut bench = Bench::new(bits::MRG_RXBUF);
        let chain: Vec<_> = (0..buffers).map(|i| (BUFFERS + i * 0x1000, 100, true)).collect();
        bench.queues[RX].add(&chain).unwrap();
        bench.tap(|tap| tap.incoming.push_back(frame(1, 80)));
        let before = accesses(&bench.memory);
        bench.worker().ready(0);
        let cost = accesses(&bench.memory) - before;
        assert!(bench.queues[RX].used().is_some());
        cost
    };
    // And one for its descriptor.
    assert_eq!(cost(9) - cost(1), 2 * 8);
}

#[test]
fn an_interface_that_is_gone_is_left_alone() {
    let mut bench = Bench::new(0);
    let mut driver = Driver::default();
    assert!(driver.post(&mut bench, 1536));
    bench.tap(|tap| tap.receive_script.extend([Reply::Fail(EIO); 1000]));
    for _ in 0..100 {
        bench.run();
    }
    assert_eq!(bench.watches_tap(), None);
    assert_eq!(bench.handle.counters().receive_errors.get(), 16);
    assert!(bench.tap(|tap| tap.receives) <= 17);
}

#[test]
fn frames_that_come_while_the_cable_is_out_are_lost() {
    let mut bench = Bench::new(0);
    let mut driver = Driver::default();
    assert!(driver.post(&mut bench, 1536));
    bench.handle.set_link(false);
    bench.tap(|tap| tap.incoming.push_back(frame(0, 60)));
    bench.run();
    bench.handle.set_link(true);
    bench.tap(|tap| tap.incoming.push_back(frame(1, 60)));
    bench.run();
    driver.take(&mut bench);
    assert_eq!(driver.frames, [frame(1, 60)]);
}

proptest! {
    #[test]
    fn frames_arrive_whole_and_in_order(
        sizes in vec(prop_oneof![4 => 1_usize..1600, 1 => 1600_usize..66_000], 1..60),
        lengths in vec(64_u32..4096, 1..8),
        posts in vec(0_usize..20, 8),
        script in vec(prop_oneof![4 => Just(Reply::Work), 1 => Just(Reply::Fail(EAGAIN)), 1 => Just(Reply::Fail(4))], 0..40),
        event_idx in any::<bool>(),
    ) {
        let features = bits::MRG_RXBUF | if event_idx { EVENT_IDX } else { 0 };
        let mut bench = Bench::new(features);
        let mut driver = Driver::default();
        let frames: Vec<_> = sizes.iter().enumerate().map(|(i, bytes)| frame(i, *bytes)).collect();
        bench.tap(|tap| {
            tap.incoming = frames.clone().into();
            tap.receive_script = script.into();
        });
        let mut lengths = lengths.iter().cycle();
        for posts in posts.iter().cycle().take(400) {
            for _ in 0..=*posts {
                driver.post(&mut bench, *lengths.next().unwrap());
            }
            bench.run();
            driver.take(&mut bench);
        }
        let counters = bench.handle.counters();
        prop_assert_eq!(bench.tap(|tap| tap.incoming.len()), 0);
        prop_assert_eq!(driver.frames.len() as u64 + counters.received_dropped.get(), frames.len() as u64);
        // What arrived is what came, in order, with gaps where frames were dropped.
        let mut all = frames.iter();
        for got in &driver.frames {
            prop_assert!(all.any(|frame| frame == got));
        }
        prop_assert!(driver.frames.iter().all(|frame| frame.len() > HEADER_BYTES));
        prop_assert!(bench.interrupt.faults.lock().unwrap().is_empty());
    }

    #[test]
    fn a_driver_that_sleeps_between_interrupts_misses_no_frame(
        sizes in vec(prop_oneof![1_usize..1600, 4000_usize..20_000], 1..100),
    ) {
        // It asks for an interrupt at the next used buffer, and looks only when one came.
        let mut bench = Bench::new(bits::MRG_RXBUF | EVENT_IDX);
        let mut driver = Driver::default();
        while driver.post(&mut bench, 1536) {}
        let mut used = 0_u16;
        for (i, bytes) in sizes.iter().enumerate() {
            bench.queues[RX].set_used_event(used);
            bench.tap(|tap| tap.incoming.push_back(frame(i, *bytes)));
            bench.run();
            prop_assert_eq!(bench.interrupt.take(), [0]);
            let before = driver.posted.len();
            driver.take(&mut bench);
            prop_assert_eq!(driver.frames.len(), i + 1);
            used = used.wrapping_add(u16::try_from(before - driver.posted.len()).unwrap());
            while driver.post(&mut bench, 1536) {}
        }
    }
}

#[test]
fn buffers_that_nothing_can_be_written_to_are_given_back() {
    let mut bench = Bench::new(bits::MRG_RXBUF);
    assert!(bench.queues[RX].add(&[(BUFFERS, 100, false)]).is_some());
    bench.tap(|tap| tap.incoming.push_back(frame(0, 60)));
    bench.run();
    assert!(bench.queues[RX].used().is_some_and(|(_, written)| written == 0));
    assert_eq!((bench.handle.counters().malformed.get(), bench.tap(|tap| tap.receives)), (1, 0));
}
