//! Tests of a function from reset to DRIVER_OK and back.

use std::sync::atomic::Ordering;

use super::super::common::status;
use super::super::test_machine::{INDIRECT, Machine, VERSION_1, register};
use crate::figures::counted;
use crate::virtio::test_driver::{BORDER, BUFFERS, MEMORY_BYTES, TestQueue};

const READY: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

fn echoes(machine: &Machine, queue: &mut TestQueue, index: u16) {
    let head = queue.add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    machine.notify(index);
    machine.spawner.pump();
    assert_eq!(queue.used(), Some((head, 4)));
}

#[test]
fn a_device_works_after_driver_ok_and_rests_after_a_reset() {
    let machine = Machine::new();
    machine.enable_interrupts();
    for round in 1..=3 {
        let mut queues = machine.bring_up(VERSION_1 | INDIRECT);
        assert_eq!(machine.status(), READY);
        assert_eq!(machine.spawner.running(), 1);
        echoes(&machine, &mut queues[1], 1);
        machine.set_status(0);
        assert_eq!((machine.spawner.running(), machine.status()), (0, 0));
        assert!(!machine.state.active.load(Ordering::Relaxed));
        let counters = &machine.counters;
        assert_eq!((counters.activations.get(), counters.resets.get()), (round, round * 2));
    }
    assert_eq!(machine.interrupts(), [2, 2, 2]);
}

#[test]
fn a_device_whose_worker_fails_needs_a_reset_and_the_driver_is_told() {
    let machine = Machine::new();
    machine.enable_interrupts();
    let _queues = machine.bring_up(VERSION_1);
    let failure = machine.spawner.failures.lock().unwrap().pop().unwrap();
    failure("no epoll");
    assert_eq!((machine.status(), machine.interrupts()), (READY | status::NEEDS_RESET, vec![0]));
    assert_eq!(machine.counters.host_failures.get(), 1);
    let mut queues = machine.bring_up(VERSION_1);
    assert_eq!(machine.status(), READY);
    echoes(&machine, &mut queues[1], 1);
}

#[test]
fn a_reset_that_takes_its_time_is_not_over_for_the_driver() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1 | INDIRECT);
    machine.state.resetting.store(true, Ordering::Relaxed);
    let resets = machine.counters.resets.get();
    machine.set_status(0);
    // Before it began the device was in one already: the write was ignored.
    assert_eq!((machine.status() & READY, machine.counters.resets.get()), (READY, resets));
    machine.state.resetting.store(false, Ordering::Relaxed);
    machine.set_status(0);
    machine.state.resetting.store(true, Ordering::Relaxed);
    assert_ne!(machine.status(), 0);
    machine.set_status(READY);
    assert!(!machine.state.active.load(Ordering::Relaxed));
    machine.state.resetting.store(false, Ordering::Relaxed);
    assert_eq!(machine.status(), 0);
    let mut queues = machine.bring_up(VERSION_1 | INDIRECT);
    echoes(&machine, &mut queues[1], 1);
}

#[test]
fn buffers_that_came_before_driver_ok_are_served() {
    let machine = Machine::new();
    machine.enable_interrupts();
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.new_queue(0);
    machine.set_queue(&queue, 0, 1);
    let head = queue.add(&[(BUFFERS, 4, true)]).unwrap();
    machine.drive();
    assert_eq!(queue.used(), Some((head, 0)));
    assert_eq!(machine.interrupts(), [1]);
}

#[test]
fn queues_that_lie_wrong_need_a_reset_and_the_driver_is_told() {
    let good = (0x0000, 0x1000, 0x2000);
    let wrong = [
        (good.0 + 0x8008, 0x1000, 0x2000),
        (0x8000, 0x1001, 0x2000),
        (0x8000, 0x1000, 0x2002),
        (MEMORY_BYTES, 0x1000, 0x2000),
        (0x8000, MEMORY_BYTES - 32, 0x2000),
        (0x8000, 0x1000, MEMORY_BYTES - 128),
        (!0xF, 0x1000, 0x2000),
        (0x8000, !0x1, 0x2000),
        (0x8000, 0x1000, !0x3),
        (0x8000, 0, 0x2000),
    ];
    let machine = Machine::new();
    machine.enable_interrupts();
    for (count, (descriptors, available, used)) in (1..).zip(wrong) {
        assert!(machine.negotiate(VERSION_1));
        machine.set_common_16(register::CONFIG_VECTOR, 0);
        machine.set_common(register::DESCRIPTORS, &u64::to_le_bytes(descriptors));
        machine.set_common(register::AVAILABLE, &u64::to_le_bytes(available));
        machine.set_common(register::USED, &u64::to_le_bytes(used));
        machine.set_common_16(register::QUEUE_ENABLE, 1);
        machine.drive();
        assert_eq!(machine.status(), READY | status::NEEDS_RESET);
        assert_eq!(machine.interrupts(), [0]);
        assert_eq!((machine.spawner.running(), machine.events.addresses()), (0, vec![]));
        let counters = &machine.counters;
        assert_eq!((counters.failed_activations.get(), counters.activations.get()), (count, 0));
    }
    let mut queues = machine.bring_up(VERSION_1);
    echoes(&machine, &mut queues[0], 0);
}

#[test]
fn rings_may_lie_across_regions_and_end_with_memory() {
    let machine = Machine::new();
    assert!(machine.negotiate(VERSION_1));
    machine.set_common(register::DESCRIPTORS, &(BORDER - 128).to_le_bytes());
    machine.set_common(register::AVAILABLE, &0x1000_u64.to_le_bytes());
    // 16 entries of 8 bytes, and 6.
    machine.set_common(register::USED, &(MEMORY_BYTES - 136).to_le_bytes());
    machine.set_common_16(register::QUEUE_ENABLE, 1);
    machine.drive();
    assert_eq!(machine.status(), READY);
}

#[test]
fn a_device_that_refuses_to_start_needs_a_reset() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.state.refuse.store(true, Ordering::Relaxed);
    machine.bring_up(VERSION_1);
    assert_eq!(machine.status(), READY | status::NEEDS_RESET);
    assert_eq!(machine.interrupts(), [0]);
    machine.state.refuse.store(false, Ordering::Relaxed);
    machine.spawner.fail(true);
    machine.bring_up(VERSION_1);
    assert_eq!(machine.status(), READY | status::NEEDS_RESET);
    machine.spawner.fail(false);
    machine.bring_up(VERSION_1);
    assert_eq!(machine.status(), READY);
    let expected = [("activations", 1), ("resets", 3), ("failed_activations", 2)];
    assert_eq!(counted(&*machine.counters), expected);
}

#[test]
fn without_bus_mastering_nothing_touches_memory_and_nothing_is_lost() {
    let machine = Machine::new();
    machine.enable_interrupts();
    let mut queues = machine.bring_up(VERSION_1);
    machine.set_command(true, false);
    assert_eq!(machine.spawner.running(), 0);
    let head = queues[0].add(&[(BUFFERS, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    assert_eq!(queues[0].used(), None);
    machine.set_command(true, true);
    assert_eq!(queues[0].used(), Some((head, 0)));
    assert_eq!(machine.interrupts(), [1]);
    echoes(&machine, &mut queues[0], 0);
    // Held, then reset.
    machine.set_command(true, false);
    machine.set_status(0);
    machine.set_command(true, true);
    assert_eq!((machine.spawner.running(), machine.status()), (0, 0));
}

#[test]
fn a_device_started_without_bus_mastering_waits_for_it() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.set_command(true, false);
    let mut queues = machine.bring_up(VERSION_1);
    assert_eq!((machine.status(), machine.spawner.running()), (READY, 0));
    machine.set_command(true, true);
    echoes(&machine, &mut queues[0], 0);
}

#[test]
fn a_worker_that_died_is_noticed_and_a_reset_mends_it() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    machine.spawner.dying.store(true, Ordering::Relaxed);
    machine.set_command(true, false);
    assert_eq!(machine.status(), READY | status::NEEDS_RESET);
    machine.set_command(true, true);
    assert_eq!(machine.interrupts(), [0]);
    machine.spawner.dying.store(false, Ordering::Relaxed);
    let mut queues = machine.bring_up(VERSION_1);
    echoes(&machine, &mut queues[1], 1);
}

#[test]
fn a_reset_of_the_segment_leaves_the_function_as_it_was_found() {
    let machine = Machine::new();
    machine.enable_interrupts();
    let before = Machine::new().config::<256>(0);
    machine.bring_up(VERSION_1);
    machine.move_bar(0, 0x80_0008_0000);
    machine.segment.reset();
    assert_eq!(machine.config::<256>(0), before);
    assert_eq!((machine.spawner.running(), machine.events.addresses()), (0, vec![]));
    assert_eq!((machine.status(), machine.vectors.route(0)), (0, None));
    machine.enable_interrupts();
    let mut queues = machine.bring_up(VERSION_1);
    echoes(&machine, &mut queues[0], 0);
}

#[test]
fn a_device_is_told_the_end_of_the_machine_from_a_reset_by_its_driver() {
    let machine = Machine::new();
    machine.enable_interrupts();
    let ended = || machine.state.ended.swap(false, Ordering::Relaxed);
    machine.bring_up(VERSION_1);
    machine.set_status(0);
    assert!(!ended());
    machine.bring_up(VERSION_1);
    machine.segment.reset();
    assert!(ended());
    // Started again, it is its driver's.
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    machine.set_status(0);
    assert!(!ended());
}

#[test]
fn dropping_the_segment_stops_the_worker() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    let (spawner, events) = (machine.spawner.clone(), machine.events.clone());
    drop(machine);
    assert_eq!((spawner.running(), events.addresses()), (0, vec![]));
}
