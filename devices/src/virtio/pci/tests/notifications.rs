//! Tests of doorbells and interrupts.

use super::super::common::status;
use super::super::test_echo::QUEUES;
use super::super::test_machine::{INDIRECT, Machine, VERSION_1, message, register};
use crate::interrupt::MsiMessage;
use crate::virtio::VirtioInterrupt;
use crate::virtio::test_driver::{BUFFERS, MEMORY_BYTES};

fn interrupt(machine: &Machine) -> std::sync::Arc<dyn VirtioInterrupt> {
    machine.state.interrupt.lock().unwrap().clone().unwrap()
}

#[test]
fn doorbells_cost_no_exit_while_the_device_runs() {
    let machine = Machine::new();
    assert!(machine.events.addresses().is_empty());
    machine.bring_up(VERSION_1);
    let doorbells: Vec<_> = (0..QUEUES).map(|index| machine.doorbell(index)).collect();
    assert_eq!(machine.events.addresses(), doorbells);
    assert!(!machine.notify(1));
    assert_eq!(machine.counters.slow_notifications.get(), 0);
    machine.set_status(0);
    assert!(machine.events.addresses().is_empty());
}

#[test]
fn only_enabled_queues_have_doorbells() {
    let machine = Machine::new();
    assert!(machine.negotiate(VERSION_1));
    machine.set_queue(&machine.new_queue(1), 1, 0xFFFF);
    machine.drive();
    assert_eq!(machine.events.addresses(), [machine.doorbell(1)]);
    machine.notify(0);
    assert_eq!((machine.counters.slow_notifications.get(), machine.counters.ignored_accesses.get()), (0, 1));
}

#[test]
fn doorbells_follow_the_bar() {
    let machine = Machine::new();
    machine.bring_up(VERSION_1);
    machine.move_bar(0, 0x80_0008_0000);
    assert_eq!(machine.events.addresses(), [0x80_0008_3000, 0x80_0008_3004]);
    machine.move_bar(0, 0x1000);
    assert!(machine.events.addresses().is_empty());
    machine.move_bar(0, 0x80_0004_0000);
    assert_eq!(machine.events.addresses(), [0x80_0004_3000, 0x80_0004_3004]);
    machine.set_command(false, true);
    assert!(machine.events.addresses().is_empty());
    machine.set_command(true, true);
    assert_eq!(machine.events.addresses().len(), 2);
}

#[test]
fn a_notification_through_an_exit_does_the_same() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.events.fail(true);
    let mut queues = machine.bring_up(VERSION_1);
    assert_eq!(machine.counters.host_failures.get(), 2);
    for (count, width) in (1..).zip([2, 4]) {
        let head = queues[1].add(&[(BUFFERS, 4, true)]).unwrap();
        machine.mmio_write(machine.doorbell(1), &[1, 0, 0, 0][..width]);
        machine.spawner.pump();
        assert_eq!(queues[1].used(), Some((head, 0)));
        assert_eq!(machine.counters.slow_notifications.get(), count);
    }
    // A doorbell is not rung in other widths, nor beside it.
    let before = machine.counters.ignored_accesses.get();
    machine.mmio_write(machine.doorbell(1), &[1]);
    machine.mmio_write(machine.doorbell(1), &[1; 8]);
    machine.mmio_write(machine.doorbell(1) + 2, &[1, 0]);
    machine.mmio_write(machine.doorbell(1) + 4, &[1, 0]);
    assert_eq!(machine.counters.ignored_accesses.get(), before + 4);
    assert_eq!(machine.counters.slow_notifications.get(), 2);
}

#[test]
fn configuration_changes_interrupt_through_their_vector_and_the_isr() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    interrupt(&machine).config_changed().unwrap();
    assert_eq!(machine.interrupts(), [0]);
    // Reading clears. With MSI-X on, queues leave no trace there.
    interrupt(&machine).queue_used(0).unwrap();
    assert_eq!(machine.mmio_read::<1>(machine.structure(3)), [2]);
    assert_eq!(machine.mmio_read::<1>(machine.structure(3)), [0]);
    assert_eq!(machine.interrupts(), [1]);
}

#[test]
fn without_msix_the_isr_still_tells() {
    let machine = Machine::new();
    machine.bring_up(VERSION_1);
    interrupt(&machine).queue_used(1).unwrap();
    interrupt(&machine).config_changed().unwrap();
    assert_eq!(machine.mmio_read::<4>(machine.structure(3)), [3, 0, 0, 0]);
    assert!(machine.interrupts().is_empty());
}

#[test]
fn the_pci_status_shows_the_isr_while_msix_is_off() {
    let machine = Machine::new();
    machine.set_command(true, true);
    machine.bring_up(VERSION_1);
    let shown = |machine: &Machine| machine.config::<2>(6)[0] & 1 << 3 != 0;
    assert!(!shown(&machine));
    interrupt(&machine).config_changed().unwrap();
    assert!(shown(&machine));
    // Reading the ISR takes it back.
    assert_ne!(machine.mmio_read::<1>(machine.structure(3)), [0]);
    assert!(!shown(&machine));
    interrupt(&machine).queue_used(0).unwrap();
    assert!(shown(&machine));
    machine.set_msix(true, false);
    assert!(!shown(&machine));
}

#[test]
fn a_queue_without_a_vector_is_silent() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    machine.set_common_16(register::QUEUE_SELECT, 0);
    machine.set_common_16(register::QUEUE_VECTOR, 0xFFFF);
    interrupt(&machine).queue_used(0).unwrap();
    interrupt(&machine).queue_used(77).unwrap();
    assert!(machine.interrupts().is_empty());
    assert!(interrupt(&machine).queue_call(0).is_none());
    assert!(interrupt(&machine).queue_call(1).is_some());
}

#[test]
fn the_device_hears_where_its_configuration_interrupt_goes() {
    let machine = Machine::new();
    let heard = || std::mem::take(&mut *machine.state.messages.lock().unwrap());
    machine.enable_interrupts();
    assert_eq!(heard(), []);
    machine.bring_up(VERSION_1);
    assert_eq!(heard(), [Some(message(0))]);
    assert_eq!(interrupt(&machine).config_message(), Some(message(0)));
    // The driver moves it to CPU 5, as Linux does: mask, write, unmask.
    let other = MsiMessage { address: 0xFEE0_5000, data: 0x51 };
    machine.program(0, other);
    assert_eq!(heard(), [None, Some(other)]);
    machine.program(1, other);
    assert_eq!(heard(), []);
    machine.set_msix(true, true);
    machine.set_msix(true, false);
    machine.set_command(true, false);
    machine.set_command(true, true);
    assert_eq!(heard(), [None, Some(other), None, Some(other)]);
    machine.set_common_16(register::CONFIG_VECTOR, 2);
    machine.set_status(0);
    assert_eq!(heard(), [Some(message(2)), None]);
    assert_eq!(interrupt(&machine).config_message(), None);
}

#[test]
fn a_driver_that_breaks_a_queue_is_asked_to_reset() {
    let machine = Machine::new();
    machine.enable_interrupts();
    let mut queues = machine.bring_up(VERSION_1 | INDIRECT);
    queues[0].add(&[(MEMORY_BYTES, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    assert_eq!(queues[0].used(), None);
    assert_eq!(machine.status() & status::NEEDS_RESET, status::NEEDS_RESET);
    assert_eq!((machine.interrupts(), machine.counters.queue_faults.get()), (vec![0], 1));
    // Once is enough, even if the other queue breaks too.
    queues[1].add_indirect(BUFFERS, &[]).unwrap();
    machine.notify(1);
    machine.spawner.pump();
    assert_eq!((machine.interrupts(), machine.counters.queue_faults.get()), (vec![], 2));
    let mut queues = machine.bring_up(VERSION_1);
    let head = queues[0].add(&[(BUFFERS, 4, true)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    assert_eq!((queues[0].used(), machine.interrupts()), (Some((head, 0)), vec![1]));
}

#[test]
fn a_host_that_cannot_interrupt_is_counted() {
    let machine = Machine::new();
    machine.enable_interrupts();
    machine.bring_up(VERSION_1);
    machine.vectors.fail(true);
    assert!(interrupt(&machine).queue_used(0).is_err());
    assert_eq!(machine.counters.host_failures.get(), 1);
}
