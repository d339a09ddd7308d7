//! Tests of discovery and feature negotiation.

use super::super::common::status;
use super::super::test_echo::{QUEUE_SIZE, QUEUES};
use super::super::test_machine::{EVENT_IDX, Found, INDIRECT, Machine, VERSION_1, register};
use crate::figures::counted;

const OFFERED: u64 = VERSION_1 | INDIRECT | EVENT_IDX | 1 << 5 | 1 << 6;

#[test]
fn the_function_is_a_modern_virtio_device() {
    let machine = Machine::new();
    assert_eq!(machine.config::<4>(0), [0xF4, 0x1A, 0x6A, 0x10]);
    assert_eq!(machine.config::<4>(8), [1, 0, 0, 0xFF]);
    assert_eq!(machine.config::<1>(0x3D), [0]);
    let found: Vec<_> = machine.found.values().map(|found| (found.bar, found.offset, found.length)).collect();
    assert_eq!(found, [(0, 0, 56), (0, 0x3000, 8), (0, 0x1000, 1), (0, 0x2000, 0x1000), (0, 0, 0)]);
    assert_eq!(machine.found.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    // Three vectors.
    assert_eq!(machine.config::<2>(machine.msix + 2), [2, 0]);
}

#[test]
fn features_of_device_and_transport_are_offered_and_no_others() {
    let machine = Machine::new();
    assert_eq!(machine.offered(), OFFERED);
    machine.set_common_32(register::DEVICE_FEATURE_SELECT, 2);
    assert_eq!(machine.common::<4>(register::DEVICE_FEATURE), [0; 4]);
}

#[test]
fn a_driver_gets_what_it_picks_of_the_offer() {
    let machine = Machine::new();
    for features in [VERSION_1, VERSION_1 | 1 << 5, OFFERED] {
        assert!(machine.negotiate(features));
    }
    machine.set_common_32(register::DRIVER_FEATURE_SELECT, 1);
    assert_eq!(machine.common::<4>(register::DRIVER_FEATURE), [1, 0, 0, 0]);
    assert_eq!(counted(&*machine.counters), [("resets", 3)]);
}

#[test]
fn what_was_not_offered_or_lacks_version_1_is_refused() {
    let machine = Machine::new();
    for features in [0, 1 << 5, OFFERED | 1 << 34, OFFERED | 1 << 36, OFFERED | 1] {
        assert!(!machine.negotiate(features));
    }
    // A bit above 63.
    machine.set_status(0);
    machine.pick(VERSION_1);
    machine.set_common_32(register::DRIVER_FEATURE_SELECT, 2);
    machine.set_common_32(register::DRIVER_FEATURE, 1);
    machine.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    assert_eq!(machine.status(), status::ACKNOWLEDGE | status::DRIVER);
    assert_eq!(machine.counters.refused_features.get(), 6);
    // The driver may try again.
    machine.set_common_32(register::DRIVER_FEATURE, 0);
    assert!(machine.negotiate(VERSION_1));
}

#[test]
fn what_the_device_cannot_work_with_is_refused() {
    let machine = Machine::new();
    assert!(!machine.negotiate(VERSION_1 | 1 << 6));
    assert_eq!(machine.status(), status::ACKNOWLEDGE | status::DRIVER);
    assert_eq!(machine.counters.refused_features.get(), 1);
    // A driver that goes on all the same gets no device.
    machine.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!((machine.status() & status::NEEDS_RESET, machine.spawner.running()), (status::NEEDS_RESET, 0));
    assert!(machine.negotiate(VERSION_1 | 1 << 5 | 1 << 6));
    assert!(machine.negotiate(VERSION_1 | 1 << 5));
}

#[test]
fn features_cannot_be_changed_after_features_ok() {
    let machine = Machine::new();
    assert!(machine.negotiate(VERSION_1));
    machine.set_common_32(register::DRIVER_FEATURE_SELECT, 0);
    machine.set_common_32(register::DRIVER_FEATURE, 1 << 5);
    assert_eq!(machine.common::<4>(register::DRIVER_FEATURE), [0; 4]);
    assert_eq!(machine.counters.ignored_accesses.get(), 1);
}

#[test]
fn status_bits_are_added_never_cleared() {
    let machine = Machine::new();
    assert!(machine.negotiate(VERSION_1));
    machine.set_status(status::ACKNOWLEDGE);
    assert_eq!(machine.status(), status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    // Bits that are not the driver's stay as they are.
    machine.set_status(machine.status() | status::NEEDS_RESET | 0x30);
    assert_eq!(machine.status(), status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    machine.set_status(machine.status() | status::FAILED);
    assert_eq!(machine.status() & status::FAILED, status::FAILED);
    machine.set_status(0);
    assert_eq!(machine.status(), 0);
}

#[test]
fn driver_ok_without_features_ok_needs_a_reset() {
    let machine = Machine::new();
    machine.set_status(status::ACKNOWLEDGE | status::DRIVER);
    machine.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(machine.status(), status::ACKNOWLEDGE | status::DRIVER | status::NEEDS_RESET);
    assert_eq!(machine.spawner.running(), 0);
    assert_eq!(machine.counters.failed_activations.get(), 1);
    machine.set_status(0);
    assert_eq!(machine.status(), 0);
}

#[test]
fn a_queue_shows_its_size_and_takes_smaller_powers_of_two() {
    let machine = Machine::new();
    assert_eq!(machine.common_16(register::QUEUES), QUEUES);
    assert_eq!(machine.common_16(register::QUEUE_SIZE), QUEUE_SIZE);
    for wrong in [0, 3, QUEUE_SIZE * 2, 0x8000, 0xFFFF] {
        machine.set_common_16(register::QUEUE_SIZE, wrong);
        assert_eq!(machine.common_16(register::QUEUE_SIZE), QUEUE_SIZE);
    }
    machine.set_common_16(register::QUEUE_SIZE, 4);
    assert_eq!(machine.common_16(register::QUEUE_SIZE), 4);
    machine.set_common_16(register::QUEUE_SELECT, 1);
    assert_eq!(machine.common_16(register::QUEUE_SIZE), QUEUE_SIZE);
    assert_eq!(machine.common_16(register::QUEUE_NOTIFY), 1);
    assert_eq!(machine.counters.ignored_accesses.get(), 5);
}

#[test]
fn a_queue_that_does_not_exist_has_size_0_and_takes_nothing() {
    let machine = Machine::new();
    machine.set_common_16(register::QUEUE_SELECT, QUEUES);
    machine.set_common_16(register::QUEUE_SIZE, 4);
    machine.set_common_16(register::QUEUE_ENABLE, 1);
    machine.set_common_16(register::QUEUE_VECTOR, 1);
    machine.set_common_32(register::USED, 0x1000);
    assert_eq!(machine.common::<8>(register::QUEUE_SIZE), [0, 0, 0xFF, 0xFF, 0, 0, 0, 0]);
    assert_eq!(machine.common::<8>(register::USED), [0; 8]);
}

#[test]
fn an_enabled_queue_cannot_be_changed_or_disabled() {
    let machine = Machine::new();
    assert!(machine.negotiate(VERSION_1));
    let queue = machine.new_queue(0);
    machine.set_queue(&queue, 0, 1);
    machine.set_common_16(register::QUEUE_SIZE, 2);
    machine.set_common_32(register::DESCRIPTORS, 0xDEAD_0000);
    machine.set_common_16(register::QUEUE_ENABLE, 0);
    assert_eq!(machine.common_16(register::QUEUE_SIZE), QUEUE_SIZE);
    assert_eq!(machine.common_16(register::QUEUE_ENABLE), 1);
    assert_eq!(u64::from_le_bytes(machine.common(register::DESCRIPTORS)), queue.descriptors());
    machine.set_status(0);
    assert_eq!(machine.common_16(register::QUEUE_ENABLE), 0);
    assert_eq!(machine.common_16(register::QUEUE_VECTOR), 0xFFFF);
}

#[test]
fn vectors_that_do_not_exist_cannot_be_had() {
    let machine = Machine::new();
    for register in [register::CONFIG_VECTOR, register::QUEUE_VECTOR] {
        assert_eq!(machine.common_16(register), 0xFFFF);
        machine.set_common_16(register, 2);
        assert_eq!(machine.common_16(register), 2);
        machine.set_common_16(register, 3);
        assert_eq!(machine.common_16(register), 0xFFFF);
    }
}

#[test]
fn registers_are_read_in_any_width_and_written_in_their_own() {
    let machine = Machine::new();
    machine.set_common(register::DESCRIPTORS, &0x1234_5678_9ABC_DEF0_u64.to_le_bytes());
    assert_eq!(machine.common::<8>(register::DESCRIPTORS), 0x1234_5678_9ABC_DEF0_u64.to_le_bytes());
    assert_eq!(machine.common::<1>(register::DESCRIPTORS + 3), [0x9A]);
    assert_eq!(machine.common::<2>(register::DESCRIPTORS + 3), [0x9A, 0x78]);
    let before = machine.counters.ignored_accesses.get();
    let odd: [(u64, &[u8]); 9] = [
        (register::STATUS, &[1, 0]),
        (register::STATUS, &[1, 0, 0, 0]),
        (register::QUEUE_SELECT, &[1]),
        (register::QUEUE_SELECT, &[1, 0, 0, 0]),
        (register::DEVICE_FEATURE_SELECT, &[1, 0]),
        (register::DESCRIPTORS, &[1]),
        (register::DESCRIPTORS + 2, &[1, 0, 0, 0]),
        (register::DESCRIPTORS + 4, &[1; 8]),
        (register::QUEUES, &[7, 0]),
    ];
    for (register, data) in odd {
        machine.set_common(register, data);
    }
    assert_eq!(machine.counters.ignored_accesses.get(), before + 9);
    assert_eq!(machine.common::<8>(register::DESCRIPTORS), 0x1234_5678_9ABC_DEF0_u64.to_le_bytes());
    assert_eq!((machine.status(), machine.common_16(register::QUEUES)), (0, QUEUES));
    // Past the end, and where nothing is.
    assert_eq!(machine.common::<4>(0x38), [0xFF; 4]);
    assert_eq!(machine.mmio_read::<4>(machine.structure(2)), [0xFF; 4]);
}

#[test]
fn the_generation_shows_that_the_configuration_changed() {
    let machine = Machine::new();
    *machine.state.config.lock().unwrap() = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(machine.common::<1>(register::GENERATION), [0]);
    assert_eq!(machine.mmio_read::<8>(machine.structure(4)), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(machine.common::<1>(register::GENERATION), [0]);
    // A change counts when the driver reads on, and as often as there may be between two reads, once.
    for _ in 0..256 {
        let mut config = machine.state.config.lock().unwrap();
        config[7] = config[7].wrapping_add(1);
    }
    machine.state.config.lock().unwrap()[0] = 9;
    assert_eq!(machine.mmio_read::<4>(machine.structure(4) + 4), [5, 6, 7, 8]);
    assert_eq!(machine.common::<1>(register::GENERATION), [1]);
    assert_eq!(machine.mmio_read::<1>(machine.structure(4)), [9]);
    assert_eq!(machine.common::<1>(register::GENERATION), [1]);
    machine.mmio_write(machine.structure(4) + 6, &[9, 9, 9, 9]);
    assert_eq!(machine.mmio_read::<8>(machine.structure(4) + 4), [5, 6, 9, 9, 0, 0, 0, 0]);
    assert_eq!(machine.mmio_read::<2>(machine.structure(4) + 0xFFE), [0, 0]);
}

#[test]
fn the_registers_can_be_reached_through_the_configuration_space() {
    let machine = Machine::new();
    machine.set_command(false, false);
    let Found { at, .. } = machine.found[&5];
    let point = |bar: u8, offset: u64, length: u32| {
        machine.set_config(at + 4, &[bar]);
        machine.set_config(at + 8, &u32::try_from(offset).unwrap().to_le_bytes());
        machine.set_config(at + 12, &length.to_le_bytes());
    };
    point(0, register::STATUS, 1);
    machine.set_config(at + 16, &[status::ACKNOWLEDGE, 0, 0, 0]);
    assert_eq!(machine.config::<1>(at + 16), [status::ACKNOWLEDGE]);
    point(0, register::QUEUE_SIZE, 2);
    assert_eq!(machine.config::<2>(at + 16), QUEUE_SIZE.to_le_bytes());
    // The MSI-X table is in BAR 2.
    point(2, 12, 4);
    assert_eq!(machine.config::<4>(at + 16), [1, 0, 0, 0]);
    // What makes no sense does nothing.
    for (bar, offset, length) in
        [(1, 0, 4), (6, 0, 4), (0, 0, 3), (0, 0, 8), (0, 0x4000, 1), (0, 0xFFFF_FFFF, 4)]
    {
        point(bar, offset, length);
        machine.set_config(at + 16, &[0; 4]);
        assert_eq!(machine.config::<4>(at + 16), [0; 4]);
    }
    machine.set_command(true, false);
    assert_eq!(machine.status(), status::ACKNOWLEDGE);
}
