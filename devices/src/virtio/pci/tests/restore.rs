//! Tests of a function that is held, saved and restored.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::super::common::status;
use super::super::test_echo::Echo;
use super::super::test_machine::{INDIRECT, Machine, VERSION_1, WINDOW, register};
use crate::pci::SegmentState;
use crate::state::{Section, StateError};
use crate::virtio::test_driver::{BUFFERS, TestQueue};

const READY: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

fn machine() -> (Machine, Vec<TestQueue>) {
    let machine = Machine::new();
    machine.enable_interrupts();
    let queues = machine.bring_up(VERSION_1 | INDIRECT);
    (machine, queues)
}

/// Another one in its state, resumed.
fn restored(old: &Machine) -> Machine {
    let machine = old.successor(Box::new(Echo(Arc::default())));
    machine.restore(&old.save());
    machine
}

fn echoes(machine: &Machine, queue: &mut TestQueue) -> bool {
    let head = queue.add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    queue.used() == Some((head, 4))
}

/// The saved state with one value changed: of the function in slot 1, in a section, at a path.
fn with(saved: &str, section: &str, path: &str, value: Value) -> String {
    let mut state: Value = serde_json::from_str(saved).unwrap();
    let sections = state.pointer_mut("/state/functions/1/sections").unwrap().as_array_mut().unwrap();
    let section = sections.iter_mut().find(|one| one["name"] == section).unwrap();
    *section["state"].pointer_mut(path).unwrap() = value;
    state.to_string()
}

fn refused(machine: &Machine, saved: &str) -> StateError {
    let section: Section = serde_json::from_str(saved).unwrap();
    machine.segment.restore(section.decode::<SegmentState>().unwrap()).unwrap_err()
}

#[test]
fn nothing_is_served_while_held_and_kicks_are_kept() {
    let (machine, mut queues) = machine();
    let head = queues[0].add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    machine.segment.hold();
    assert!(!machine.notify(0), "an eventfd counts it");
    machine.spawner.pump();
    assert_eq!((machine.spawner.running(), queues[0].used()), (0, None));
    // The driver's bus master bit is its own.
    machine.set_command(true, false);
    machine.segment.resume();
    assert_eq!(machine.spawner.running(), 0);
    machine.set_command(true, true);
    machine.spawner.pump();
    assert_eq!((machine.spawner.running(), queues[0].used()), (1, Some((head, 4))));
}

#[test]
fn a_function_that_is_not_held_is_neither_saved_nor_restored() {
    let (machine, _queues) = machine();
    let saved = machine.save();
    machine.segment.resume();
    let running = StateError::Running { part: "test0".to_owned() };
    assert_eq!(machine.segment.save(), Err(running.clone()));
    assert_eq!(refused(&machine, &saved), running);
    machine.spawner.busy.store(true, Ordering::Relaxed);
    machine.segment.hold();
    assert!(!machine.segment.is_settled());
    assert_eq!(machine.segment.save(), Err(running));
    machine.spawner.busy.store(false, Ordering::Relaxed);
    assert!(machine.segment.is_settled() && machine.segment.save().is_ok());
}

#[test]
fn a_restored_function_goes_on_where_the_other_was() {
    let (old, mut queues) = machine();
    assert!(echoes(&old, &mut queues[0]));
    let head = queues[0].add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    old.set_common_16(register::QUEUE_SELECT, 1);
    old.mmio_write(old.structure(4), &[9]);
    old.move_bar(0, WINDOW + 0x8_0000);
    let machine = restored(&old);
    assert_eq!((machine.status(), machine.common_16(register::QUEUE_SELECT)), (READY, 1));
    assert_eq!(machine.bar_address(0), WINDOW + 0x8_0000);
    assert_eq!(machine.mmio_read::<1>(machine.structure(4)), [9]);
    // What was there before, without a kick.
    assert_eq!((queues[0].used(), machine.interrupts()), (Some((head, 4)), vec![1]));
    assert!(echoes(&machine, &mut queues[0]) && !machine.notify(0));
    machine.set_status(0);
    assert_eq!((machine.status(), machine.spawner.running()), (0, 0));
}

#[test]
fn a_function_can_be_restored_in_place() {
    let (machine, mut queues) = machine();
    let saved = machine.save();
    machine.segment.resume();
    machine.set_status(0);
    let _other = machine.bring_up(VERSION_1);
    machine.segment.hold();
    queues.iter().for_each(TestQueue::clear);
    machine.restore(&saved);
    assert_eq!(machine.save(), saved);
    machine.segment.resume();
    assert!(echoes(&machine, &mut queues[0]));
}

#[test]
fn a_queue_that_the_driver_broke_stays_broken() {
    let (old, mut queues) = machine();
    queues[0].make_available(99);
    old.notify(0);
    old.spawner.pump();
    assert_eq!(old.status(), READY | status::NEEDS_RESET);
    let machine = restored(&old);
    assert_eq!((machine.status(), machine.interrupts()), (READY | status::NEEDS_RESET, vec![]));
    queues[0].add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    assert_eq!(queues[0].used(), None);
    let mut queues = machine.bring_up(VERSION_1);
    assert!(echoes(&machine, &mut queues[0]));
}

#[test]
fn a_driver_is_told_of_a_configuration_that_is_another_one() {
    let (old, _queues) = machine();
    assert_eq!(old.mmio_read::<2>(old.structure(4)), [0, 0]);
    let generation = old.common::<1>(register::GENERATION);
    let saved = with(&old.save(), "echo", "/config/1", json!(7));
    let machine = old.successor(Box::new(Echo(Arc::default())));
    machine.restore(&saved);
    assert_eq!(machine.interrupts(), [0]);
    assert_eq!(machine.mmio_read::<2>(machine.structure(4)), [0, 7]);
    assert_ne!(machine.common::<1>(register::GENERATION), generation);
}

#[test]
fn a_masked_vector_is_pending_after_a_restore_and_sent_when_it_is_unmasked() {
    let (old, mut queues) = machine();
    old.mask(1, true);
    assert!(echoes(&old, &mut queues[0]));
    let machine = restored(&old);
    assert_eq!(machine.interrupts(), [0_u16; 0]);
    machine.mask(1, false);
    assert_eq!(machine.interrupts(), [1]);
}

#[test]
fn a_state_that_a_function_cannot_have_is_refused_with_field_value_and_rule() {
    let (old, _queues) = machine();
    let saved = old.save();
    let machine = old.successor(Box::new(Echo(Arc::default())));
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    machine.segment.hold();
    let order = "must be bits that a driver sets, DRIVER_OK after FEATURES_OK, active after DRIVER_OK";
    for (section, path, value, text) in [
        ("virtio-pci", "/status", json!(16), format!("status: 0x10, active true, {order}")),
        ("virtio-pci", "/status", json!(7), format!("status: 0x7, active true, {order}")),
        ("virtio-pci", "/status", json!(11), format!("status: 0xb, active true, {order}")),
        (
            "virtio-pci",
            "/driver_features",
            json!(3_u64 << 32),
            "driver_features: 0x300000000, 0x200000000 not offered, must be features that the device offers"
                .to_owned(),
        ),
        (
            "virtio-pci",
            "/driver_features",
            json!(1_u64 << 32 | 1 << 6),
            "driver_features: 0x100000040, must be features that the device can work with".to_owned(),
        ),
        (
            "virtio-pci",
            "/config_vector",
            json!(3),
            "config_vector: 3, must be a vector of the function, or 65535 for none".to_owned(),
        ),
        ("virtio-pci", "/isr", json!(4), "isr: 4, must have no bits but 1:0".to_owned()),
        ("virtio-pci", "/queues", json!([]), "queues: 0, must be the device's queues".to_owned()),
        (
            "virtio-pci",
            "/queues/1/size",
            json!(12),
            "queues[1].size: 12, must be a power of two, and no more than the device has".to_owned(),
        ),
        (
            "virtio-pci",
            "/queues/0/position/next_available",
            json!(17),
            "queues[0].position: available 17, used 0, must be no farther apart than the queue's size"
                .to_owned(),
        ),
        (
            "virtio-pci",
            "/active",
            json!(false),
            "queues[0].position: not null, must be null unless the device is active and the queue enabled"
                .to_owned(),
        ),
        (
            "virtio-pci",
            "/queues/0/used",
            json!(1_u64 << 40),
            "queues: queue 0: the used ring of 134 bytes at 0x10000000000 must lie in memory, aligned to 4, \
             must be queues in this machine's memory"
                .to_owned(),
        ),
        ("echo", "/config", json!([1]), "config: invalid length 1, expected an array of length 8".to_owned()),
    ] {
        let error = refused(&machine, &with(&saved, section, path, value)).to_string();
        assert_eq!(error, format!("{section}: {text}"));
    }
    // The last two had begun; nothing of them is left.
    assert_eq!((machine.status(), machine.state.active.load(Ordering::Relaxed)), (0, false));
    machine.segment.resume();
    machine.enable_interrupts();
    let mut queues = machine.bring_up(VERSION_1);
    assert!(echoes(&machine, &mut queues[0]));
}

#[test]
fn a_host_that_refuses_leaves_the_function_as_at_power_on() {
    let (old, _queues) = machine();
    let saved = old.save();
    let machine = Machine::new();
    machine.state.refuse.store(true, Ordering::Relaxed);
    let error = refused(&machine, &saved);
    assert_eq!(
        error.to_string(),
        "test0: start the device: echo: queue 0 is not enabled, the device needs it"
    );
    assert_eq!((machine.status(), machine.config::<2>(4)), (0, [2, 0]));
}
