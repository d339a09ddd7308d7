//! All that a new device has to bring along: a bell that rings for each buffer. Its figures reach people through what is the
//! same for all devices.

use std::any::Any;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::test_machine::{Machine, VERSION_1};
use crate::figures::counted;
use crate::state::{Section, State, StateError};
use crate::virtio::test_driver::BUFFERS;
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, QueuePosition, Source, VirtioDevice, Worker,
    WorkerQueue,
};
use crate::{Figure, FigureKind, Figures};

crate::figures! {
    /// What a bell counts.
    struct BellCounters: "bell" {
        rings: Counter = "Times that the bell rang.",
    }
}

#[derive(Default)]
struct Bell {
    counters: Arc<BellCounters>,
}

/// It keeps nothing beyond its queue.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BellState {}

impl State for BellState {
    const NAME: &'static str = "bell";
    const VERSION: u32 = 1;
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Bell {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 63, pci_class: 0x00_FF_00 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![16]
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(Arc::clone(&self.counters) as _)
    }

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let queue = WorkerQueue::of(&mut activation, "bell", 0)?;
        Ok(Box::new(BellWorker { queue, counters: Arc::clone(&self.counters) }))
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        Section::of(&BellState {})
    }

    fn restore(&mut self, state: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
        state.decode().map(|BellState {}| ())
    }
}

struct BellWorker<M> {
    queue: WorkerQueue<M>,
    counters: Arc<BellCounters>,
}

impl<M: GuestMemoryHandle> Worker for BellWorker<M> {
    fn sources(&self) -> Vec<Source> {
        vec![self.queue.source(0)]
    }

    fn ready(&mut self, _token: u32) -> bool {
        self.queue.begin();
        while let Some(chain) = self.queue.pop() {
            self.counters.rings.one();
            self.queue.used(chain, 0);
        }
        self.queue.signal();
        false
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        vec![self.queue.position()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn rings(machine: &Machine) {
    machine.enable_interrupts();
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.new_queue(0);
    machine.set_queue(&queue, 0, 1);
    machine.drive();
    queue.add(&[(BUFFERS, 1, false)]).unwrap();
    machine.notify(0);
    machine.spawner.pump();
    assert!(queue.used().is_some());
}

#[test]
fn a_device_needs_a_kind_queues_a_worker_figures_and_a_state_and_no_more() {
    let bell = Bell::default();
    let figures = VirtioDevice::<crate::virtio::test_driver::TestMemory>::figures(&bell).unwrap();
    let machine = Machine::of(Box::new(bell));
    rings(&machine);
    let rang = Figure::new("bell", "rings", "Times that the bell rang.", (FigureKind::Counter, 1));
    assert_eq!(figures.figures(), [rang]);
}

#[test]
fn a_configuration_that_is_empty_reads_as_zeros_and_takes_no_writes() {
    let machine = Machine::of(Box::new(Bell::default()));
    machine.enable_interrupts();
    let space = machine.structure(4);
    assert_eq!(machine.mmio_read::<4>(space), [0; 4]);
    machine.mmio_write(space, &[7]);
    assert_eq!(counted(&*machine.counters), [("ignored_accesses", 1)]);
}

#[test]
fn counters_of_transport_and_device_go_on_when_the_guest_resets() {
    let bell = Bell::default();
    let counters = Arc::clone(&bell.counters);
    let mut machine = Machine::of(Box::new(bell));
    for round in 1..=3 {
        rings(&machine);
        assert_eq!(counters.rings.get(), round);
        assert_eq!(counted(&*machine.counters), [("activations", round), ("resets", round)]);
        machine = machine.next();
    }
}
