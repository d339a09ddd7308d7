//! Frames from the driver.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Bench, Reply, frame};
use crate::virtio::Interest;
use crate::virtio::net::features::bits;
use crate::virtio::net::test_tap::{EAGAIN, EIO, FakeTap};
use crate::virtio::net::transmit::REST;
use crate::virtio::net::{MAX_FRAME_BYTES, NetQueues};
use crate::virtio::test_driver::{BORDER, BUFFERS, accesses};

const TX: usize = 1;

impl Bench {
    /// Sends a frame that lies at `address`, in buffers of these sizes and one for the rest.
    fn send(&mut self, address: u64, frame: &[u8], parts: &[usize]) -> bool {
        self.write(address, frame);
        let (mut buffers, mut at, mut left) = (vec![], address, frame.len());
        for part in parts.iter().map(|part| (*part).min(frame.len())).chain([usize::MAX]) {
            let part = part.min(left);
            buffers.push((at, u32::try_from(part).unwrap(), false));
            at += part as u64;
            left -= part;
        }
        self.queues[TX].add(&buffers).is_some()
    }
}

#[test]
fn each_buffer_of_a_frame_is_looked_for_once() {
    let cost = |buffers: usize| {
        let mut bench = Bench::new(0);
        assert!(bench.send(BUFFERS, &frame(1, 1500), &vec![100; buffers - 1]));
        let before = accesses(&bench.memory);
        bench.worker().ready(1);
        let cost = accesses(&bench.memory) - before;
        assert_eq!(bench.tap(|tap| tap.sent.clone()), [frame(1, 1500)]);
        cost
    };
    // And one for its descriptor.
    assert_eq!(cost(9) - cost(1), 2 * 8);
}

#[test]
fn a_frame_in_pieces_goes_out_as_one_and_its_buffers_come_back() {
    let mut bench = Bench::new(0);
    let sent = frame(1, 1500);
    // Across the border of two regions.
    assert!(bench.send(BORDER - 100, &sent, &[12, 0, 7]));
    bench.run();
    assert_eq!(bench.tap(|tap| tap.sent.clone()), [sent]);
    assert!(bench.queues[TX].used().is_some_and(|(_, written)| written == 0));
    assert_eq!(bench.interrupt.take(), [1]);
    let counters = bench.handle.counters();
    assert_eq!((counters.sent_frames.get(), counters.sent_bytes.get()), (1, 1500));
}

#[test]
fn the_driver_hears_of_large_frames_one_by_one_and_of_small_ones_together() {
    for (bytes, interrupts) in [(20_000, vec![1; 3]), (1500, vec![1])] {
        let mut bench = Bench::new(0);
        for i in 0..3 {
            assert!(bench.send(BUFFERS + 0x1_0000 * i, &frame(0, bytes), &[12]));
        }
        bench.worker().ready(1);
        assert_eq!(bench.tap(|tap| tap.sent.len()), 3);
        assert_eq!(bench.interrupt.take(), interrupts);
    }
}

/// A frame that is a burst.
fn large() -> Vec<u8> {
    frame(0, 40_000)
}

#[test]
fn after_a_burst_the_driver_is_not_asked_to_notify_until_a_look_finds_less() {
    let mut bench = Bench::new(0);
    assert!(bench.send(BUFFERS, &large(), &[12]));
    bench.worker().ready(1);
    assert!(bench.rest().is_some());
    assert!(!bench.queues[TX].wants_kick());
    // It is told of what was sent, though.
    assert_eq!(bench.interrupt.take(), [1]);

    // More of it, and nobody kicks.
    assert!(bench.send(BUFFERS, &large(), &[12]));
    assert!(bench.send(BUFFERS + 0x1_0000, &large(), &[12]));
    assert!(!bench.look());
    assert_eq!(bench.tap(|tap| tap.sent.len()), 3);
    assert!(bench.rest().is_some());
    assert_eq!(bench.interrupt.take(), [1]);

    // The end of it.
    assert!(bench.send(BUFFERS, &frame(1, 60), &[12]));
    assert!(!bench.look());
    assert_eq!(bench.tap(|tap| tap.sent.len()), 4);
    assert!(bench.rest().is_none());
    assert!(bench.queues[TX].wants_kick());
    assert!(!bench.look());
}

#[test]
fn a_pair_that_rests_keeps_nobody_else_waiting() {
    let queues = (0..2).map(|_| NetQueues { tap: FakeTap::new(), kernel: None }).collect();
    let mut bench = Bench::with(bits::CTRL_VQ | bits::MQ, queues, 64);
    assert_eq!(super::control::command(&mut bench, &[4, 0, 2, 0]), Some(0));
    let burst = |bench: &mut Bench, pair: u16| {
        let index = usize::from(pair) * 2 + 1;
        bench.write(BUFFERS, &large());
        bench.queues[index].add(&[(BUFFERS, 40_012, false)]).unwrap();
        bench.worker().ready(u32::from(pair) * 3 + 1);
    };
    burst(&mut bench, 0);
    let now = Instant::now();
    let rest = bench.worker().rest(now).unwrap();
    assert!(rest.time <= REST && !rest.alone, "{rest:?}");

    // A frame each way on the other pair, while the first has nothing done about it.
    bench.write(BUFFERS, &large());
    bench.queues[1].add(&[(BUFFERS, 40_012, false)]).unwrap();
    bench.write(BUFFERS + 0x2_0000, &frame(1, 80));
    bench.queues[3].add(&[(BUFFERS + 0x2_0000, 92, false)]).unwrap();
    bench.worker().ready(4);
    bench.queues[2].add(&[(BUFFERS + 0x3_0000, 2048, true)]).unwrap();
    bench.taps[1].state.lock().unwrap().incoming.push_back(frame(1, 60));
    bench.worker().ready(3);
    bench.worker().look(now);
    assert!(bench.queues[2].used().is_some() && bench.queues[3].used().is_some());
    assert_eq!(bench.tap(|tap| tap.sent.len()), 1);

    // When its time has come, it looks; and the rest of one does not make another's longer.
    burst(&mut bench, 1);
    assert!(bench.worker().rest(now).unwrap().alone);
    assert_eq!(bench.worker().rest(now + REST * 100).unwrap().time, Duration::ZERO);
    bench.worker().look(Instant::now() + REST);
    assert_eq!(bench.tap(|tap| tap.sent.len()), 2);
}

#[test]
fn a_driver_that_sends_one_large_frame_at_a_time_is_soon_served_without_rests() {
    let mut bench = Bench::new(0);
    let (mut rests, rounds) = (0, 500);
    for _ in 0..rounds {
        assert!(bench.send(BUFFERS, &large(), &[12]));
        // By a look where it rests, by a kick otherwise.
        let rested = bench.rest().is_some();
        if rested {
            assert!(!bench.queues[TX].wants_kick());
            bench.look();
        } else {
            assert!(bench.queues[TX].wants_kick());
            bench.worker().ready(1);
        }
        rests += u32::from(rested);
        assert!(bench.queues[TX].used().is_some());
    }
    assert!(rests < rounds / 25, "{rests} rests");
}

#[test]
fn many_small_frames_are_a_burst_but_what_a_round_leaves_does_not_wait() {
    let mut bench = Bench::with(0, vec![NetQueues { tap: FakeTap::new(), kernel: None }], 256);
    for i in 0..128 + 32 {
        assert!(bench.send(BUFFERS + 0x100 * i, &frame(0, 60), &[]));
    }
    for (sent, rests) in [(128, false), (160, true)] {
        bench.worker().ready(1);
        assert_eq!(bench.tap(|tap| tap.sent.len()), sent);
        assert_eq!(bench.rest().is_some(), rests);
        // The first round kicks itself, so that the other direction has its turn and then this one.
        let kicks = bench.queues[TX].active().kick.read();
        assert_eq!(kicks.is_ok(), !rests);
    }
}

#[test]
fn an_interface_that_takes_no_more_ends_a_burst() {
    let mut bench = Bench::new(0);
    assert!(bench.send(BUFFERS, &large(), &[12]));
    bench.worker().ready(1);
    bench.tap(|tap| tap.send_script.extend([Reply::Fail(EAGAIN)]));
    assert!(bench.send(BUFFERS, &large(), &[12]));
    assert!(bench.look(), "another source");
    assert!(bench.rest().is_none());
    assert_eq!(bench.watches_tap(), Some(Interest::Writable));
}

#[test]
fn an_interface_that_takes_no_more_is_waited_for_and_nothing_is_lost_or_repeated() {
    let mut bench = Bench::new(0);
    bench.tap(|tap| tap.send_script.extend([Reply::Work, Reply::Fail(EAGAIN)]));
    let frames: Vec<_> = (0..3).map(|i| frame(i, 100)).collect();
    for (i, frame) in frames.iter().enumerate() {
        assert!(bench.send(BUFFERS + 0x1000 * i as u64, frame, &[12]));
    }
    bench.worker().ready(1);
    assert_eq!(bench.tap(|tap| (tap.sent.len(), tap.sends)), (1, 2));
    // The driver's kicks do not make it spin; room in the interface does make it go on.
    assert_eq!(bench.watches_tap(), Some(Interest::Writable));
    bench.worker().ready(1);
    assert_eq!(bench.tap(|tap| tap.sends), 2);
    // Frames that come meanwhile are not held up.
    assert!(bench.queues[0].add(&[(BUFFERS + 0x10_0000, 2000, true)]).is_some());
    assert!(bench.worker().ready(0));
    assert_eq!(bench.watches_tap(), Some(Interest::Both));
    bench.worker().ready(2);
    assert_eq!(bench.tap(|tap| tap.sent.clone()), frames);
    assert_eq!(bench.handle.counters().send_blocked.get(), 1);
}

#[test]
fn a_frame_that_the_host_refuses_is_dropped_and_counted() {
    let mut bench = Bench::new(0);
    bench.tap(|tap| tap.send_script.extend([Reply::Fail(EIO), Reply::Short]));
    for i in 0..3 {
        assert!(bench.send(BUFFERS + 0x1000 * i, &frame(0, 60), &[]));
    }
    bench.run();
    let counters = bench.handle.counters();
    assert_eq!((counters.sent_frames.get(), counters.sent_dropped.get()), (1, 2));
    assert_eq!(std::iter::from_fn(|| bench.queues[TX].used()).count(), 3);
}

#[test]
fn what_is_no_frame_is_given_back_unsent() {
    let mut bench = Bench::new(0);
    let large = u32::try_from(MAX_FRAME_BYTES + 1).unwrap();
    for buffer in [(BUFFERS, 12, false), (BUFFERS, 0, false), (BUFFERS, large, false), (BUFFERS, 100, true)] {
        assert!(bench.queues[TX].add(&[buffer]).is_some());
    }
    bench.run();
    assert_eq!(bench.tap(|tap| tap.sends), 0);
    assert_eq!(bench.handle.counters().malformed.get(), 4);
    assert_eq!(std::iter::from_fn(|| bench.queues[TX].used()).count(), 4);
}

#[test]
fn frames_are_dropped_while_the_cable_is_out() {
    let mut bench = Bench::new(0);
    bench.handle.set_link(false);
    assert!(bench.send(BUFFERS, &frame(0, 60), &[]));
    bench.run();
    bench.handle.set_link(true);
    assert!(bench.send(BUFFERS, &frame(0, 60), &[]));
    bench.run();
    let counters = bench.handle.counters();
    assert_eq!((counters.sent_frames.get(), counters.sent_dropped.get()), (1, 1));
}

proptest! {
    #[test]
    fn every_frame_goes_out_once_and_in_order_whatever_the_pieces(
        frames in vec((1_usize..3000, vec(0_usize..400, 0..5)), 1..40),
        script in vec(prop_oneof![3 => Just(Reply::Work), 1 => Just(Reply::Fail(EAGAIN))], 0..40),
        event_idx in any::<bool>(),
    ) {
        let features = if event_idx { 1 << 29 } else { 0 };
        let mut bench = Bench::new(features);
        bench.tap(|tap| tap.send_script = script.into());
        let mut want = Vec::new();
        for (i, (bytes, parts)) in frames.iter().enumerate() {
            let frame = frame(i, *bytes);
            let address = BUFFERS + 0x1000 * i as u64;
            while !bench.send(address, &frame, parts) {
                bench.run();
                while bench.queues[TX].used().is_some() {}
            }
            want.push(frame);
        }
        for _ in 0..20 {
            bench.run();
        }
        while bench.queues[TX].used().is_some() {}
        prop_assert_eq!(bench.tap(|tap| tap.sent.clone()), want);
    }
}
