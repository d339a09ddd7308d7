//! What a driver asked of the device is there after a restore, and a state that makes no sense is refused.

use serde_json::{Value, json};

use super::control::command;
use super::{Bench, FakeTap, frame};
use crate::state::Section;
use crate::virtio::VirtioDevice;
use crate::virtio::net::{NetQueues, NetState, Offloads, bits};
use crate::virtio::test_driver::{BUFFERS, TestMemory};

const FEATURES: u64 = bits::CTRL_VQ | bits::MQ | bits::MRG_RXBUF | GUEST;
const GUEST: u64 = bits::GUEST_CSUM | bits::GUEST_TSO4 | bits::CTRL_GUEST_OFFLOADS;

fn bench() -> Bench {
    let queues = (0..2).map(|_| NetQueues { tap: FakeTap::new(), kernel: None }).collect();
    Bench::with(FEATURES, queues, 16)
}

fn save(bench: &Bench) -> Section {
    VirtioDevice::<TestMemory>::save(&bench.device, bench.worker.as_deref()).unwrap()
}

fn restore(bench: &mut Bench, section: Section) -> Result<(), String> {
    let worker = bench.worker.as_deref_mut();
    VirtioDevice::<TestMemory>::restore(&mut bench.device, section, worker).map_err(|error| error.to_string())
}

#[test]
fn pairs_and_offloads_are_those_that_the_driver_chose() {
    let mut old = bench();
    assert_eq!(command(&mut old, &[4, 0, 2, 0]), Some(0));
    assert_eq!(command(&mut old, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Some(0));
    let section = save(&old);
    let mut new = old.successor(FEATURES);
    restore(&mut new, section.clone()).unwrap();
    assert_eq!(save(&new), section);
    let states = new.taps.iter().map(|tap| tap.state.lock().unwrap().enabled);
    assert_eq!(states.collect::<Vec<_>>(), [Some(true); 2]);
    assert_eq!(new.tap(|tap| tap.offloads), Some(Offloads::CHECKSUM));
    new.worker().start();
    // Both have tried.
    assert_eq!(new.handle.counters().receive_starved.get(), 2);
}

#[test]
fn a_frame_that_waits_for_buffers_gets_them_after_a_restore() {
    let mut old = bench();
    let post = |bench: &mut Bench, count: u64| {
        for number in 0..count {
            bench.queues[0].add(&[(BUFFERS + 0x1_0000 + number * 0x100, 100, true)]).unwrap();
        }
        bench.worker().ready(0);
    };
    // Once it had so many that it is waited for.
    post(&mut old, 4);
    for number in 0..3 {
        old.tap(|tap| tap.incoming.push_back(frame(number, 80)));
        old.run();
    }
    old.tap(|tap| tap.incoming.push_back(frame(9, 150)));
    old.run();
    let section = save(&old);
    let waiting = section.clone().decode::<NetState>().unwrap().driver.unwrap().receive.swap_remove(0);
    let frame = frame(9, 150);
    assert_eq!((&waiting.frame.0[12..], waiting.most_chains), (&frame[12..], 4));
    let mut new = old.successor(FEATURES);
    restore(&mut new, section.clone()).unwrap();
    assert_eq!(save(&new), section);
    new.worker().start();
    assert_eq!(new.handle.counters().received_frames.get(), 0);
    post(&mut new, 1);
    assert_eq!(new.handle.counters().received_frames.get(), 1);
}

#[test]
fn a_state_that_no_driver_led_to_is_refused_with_field_value_and_rule() {
    let mut bench = bench();
    let before = save(&bench);
    for (path, value, text) in [
        (
            "/driver/queue_pairs",
            json!(3),
            "driver.queue_pairs: 3, must be at least 1, and no more than the driver has set up",
        ),
        (
            "/driver/offloads",
            json!(bits::GUEST_TSO6),
            "driver.offloads: 0x100, must be offloads that the driver has negotiated",
        ),
        ("/driver/receive", json!([]), "driver.receive: 0, must be the queues that the driver has set up"),
        (
            "/driver/receive/1/frame",
            json!("0011"),
            "driver.receive[1].frame: 2 bytes, must be a frame with its header, or nothing",
        ),
        ("/driver", Value::Null, "driver: false, must be there if the device is active, and only then"),
    ] {
        let mut section = before.clone();
        *section.state.pointer_mut(path).unwrap() = value;
        assert_eq!(restore(&mut bench, section), Err(format!("virtio-net: {text}")));
        assert_eq!(save(&bench), before);
    }
}
