//! Requests in flight that do not end: a reset and a stop wait for them, vCPUs and the end of the machine do not.

use std::sync::atomic::Ordering;

use super::super::common::status;
use super::super::test_machine::{Machine, VERSION_1, register};
use crate::virtio::test_driver::{BUFFERS, TestQueue};

const READY: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
/// The command register of the host bridge in slot 0.
const OTHER_COMMAND: u64 = 4;

fn machine() -> (Machine, Vec<TestQueue>) {
    let machine = Machine::new();
    machine.enable_interrupts();
    let queues = machine.bring_up(VERSION_1);
    (machine, queues)
}

fn set_busy(machine: &Machine, busy: bool) {
    machine.spawner.busy.store(busy, Ordering::Relaxed);
}

fn is_active(machine: &Machine) -> bool {
    machine.state.active.load(Ordering::Relaxed)
}

fn echoes(machine: &Machine, queue: &mut TestQueue) -> bool {
    let head = queue.add(&[(BUFFERS, 4, false), (BUFFERS + 0x100, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    queue.used() == Some((head, 4))
}

#[test]
fn the_status_is_0_only_when_requests_in_flight_have_ended() {
    let (machine, _queues) = machine();
    set_busy(&machine, true);
    machine.set_status(0);
    assert_eq!(machine.status(), READY, "the write came back, the reset is not complete");
    // A driver that does not wait gets nowhere, and does not break the reset either.
    machine.set_status(status::ACKNOWLEDGE);
    machine.set_status(0);
    machine.set_common_16(register::CONFIG_VECTOR, 1);
    machine.mmio_write(machine.structure(4), &[7]);
    assert_eq!((machine.status(), machine.common_16(register::CONFIG_VECTOR)), (READY, 0));
    assert_eq!(machine.state.config.lock().unwrap()[0], 0);
    assert!(is_active(&machine) && machine.notify(0), "no address notifies a queue any more");
    set_busy(&machine, false);
    assert_eq!((machine.status(), is_active(&machine), machine.spawner.running()), (0, false, 0));
    assert_eq!(machine.counters.resets.get(), 2, "one at the start, one here");
    let mut queues = machine.bring_up(VERSION_1);
    assert!(echoes(&machine, &mut queues[0]));
}

#[test]
fn a_vcpu_that_takes_bus_mastering_away_waits_and_locks_nobody_out() {
    let (machine, mut queues) = machine();
    set_busy(&machine, true);
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| machine.set_command(true, false));
        // Whether it waits already or comes to it later: this function, and the segment, answer.
        while machine.config::<1>(4)[0] & 4 != 0 {
            std::thread::yield_now();
        }
        machine.ecam.write(OTHER_COMMAND, &[2, 0]);
        assert_eq!(machine.status(), READY);
        assert!(!vcpu.is_finished());
        set_busy(&machine, false);
    });
    assert_eq!(machine.spawner.running(), 0, "held");
    assert!(is_active(&machine));
    machine.set_command(true, true);
    assert!(echoes(&machine, &mut queues[0]));
}

#[test]
fn bus_mastering_that_comes_back_before_requests_have_ended_lets_the_worker_go_on() {
    let (machine, mut queues) = machine();
    set_busy(&machine, true);
    std::thread::scope(|scope| {
        scope.spawn(|| machine.set_command(true, false));
        while machine.config::<1>(4)[0] & 4 != 0 {
            std::thread::yield_now();
        }
        machine.set_command(true, true);
    });
    assert_eq!(machine.spawner.running(), 1);
    assert!(echoes(&machine, &mut queues[0]));
    set_busy(&machine, false);
    assert!(machine.spawner.running() == 1 && echoes(&machine, &mut queues[0]));
}

#[test]
fn a_reset_of_a_device_that_is_being_stopped_is_a_reset() {
    let (machine, _queues) = machine();
    set_busy(&machine, true);
    machine.segment.release_vcpus();
    machine.set_command(true, false);
    machine.set_status(0);
    assert_eq!(machine.status(), READY);
    set_busy(&machine, false);
    assert_eq!((machine.status(), is_active(&machine)), (0, false));
}

#[test]
fn a_machine_that_ends_releases_its_vcpus_and_leaves_what_does_not_end() {
    let (machine, _queues) = machine();
    set_busy(&machine, true);
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| machine.set_command(true, false));
        while machine.config::<1>(4)[0] & 4 != 0 {
            std::thread::yield_now();
        }
        machine.segment.release_vcpus();
        vcpu.join().unwrap();
    });
    machine.segment.reset();
    assert!(!machine.segment.is_settled() && is_active(&machine));
    machine.segment.cancel();
    assert_eq!(machine.spawner.cancels.load(Ordering::Relaxed), 1);
    assert!(!machine.segment.is_settled());
    machine.segment.abandon();
    assert!(machine.segment.is_settled() && !is_active(&machine));
    assert_eq!((machine.status(), machine.counters.host_failures.get()), (0, 1));
}
