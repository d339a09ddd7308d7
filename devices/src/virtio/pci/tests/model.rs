//! Whatever a driver does in the rules: every chain is used once, in order, with the right bytes, and every interrupt
//! that it asked for comes, once and no other.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::test_echo::{QUEUE_SIZE, QUEUES};
use super::super::test_machine::{EVENT_IDX, INDIRECT, Machine, VERSION_1, message};
use crate::virtio::test_driver::{BUFFERS, TestBuffer, TestQueue};

const SLOT_BYTES: u64 = 0x4000;
const TABLES: u64 = BUFFERS + 0x20_0000;

#[derive(Debug, Clone)]
enum Step {
    /// Lengths of buffers to read and to write; in a table of their own or not.
    Add {
        queue: u16,
        read: Vec<u32>,
        write: Vec<u32>,
        indirect: bool,
    },
    Notify(u16),
    /// The worker gets its turn.
    Pump,
    Mask(u16, bool),
    MaskFunction(bool),
    BusMaster(bool),
    /// The driver wants to hear of the `n`-th next used entry, or of none.
    Want(u16, Option<u16>),
    MoveBar(u64),
    Reset {
        event_idx: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = || proptest::collection::vec(0_u32..200, 0..4);
    let queue = || 0..QUEUES;
    prop_oneof![
        6 => (queue(), lengths(), lengths(), any::<bool>())
            .prop_map(|(queue, read, write, indirect)| Step::Add { queue, read, write, indirect }),
        4 => queue().prop_map(Step::Notify),
        6 => Just(Step::Pump),
        2 => (0..=QUEUES, any::<bool>()).prop_map(|(vector, masked)| Step::Mask(vector, masked)),
        1 => any::<bool>().prop_map(Step::MaskFunction),
        1 => any::<bool>().prop_map(Step::BusMaster),
        2 => (queue(), proptest::option::of(0_u16..4)).prop_map(|(queue, want)| Step::Want(queue, want)),
        1 => (0_u64..8).prop_map(Step::MoveBar),
        1 => any::<bool>().prop_map(|event_idx| Step::Reset { event_idx }),
    ]
}

struct Expected {
    head: u16,
    bytes: Vec<u8>,
    /// Where they are written.
    at: Vec<TestBuffer>,
}

/// What the model knows of a queue.
struct Lane {
    ring: TestQueue,
    waiting: Vec<Expected>,
    /// Available entries, used entries, and used entries at the last time the device asked.
    served: u16,
    notified: bool,
    /// Notified since it was set up: whoever begins to watch then is called once for that.
    rung: bool,
    wants: bool,
    event: u16,
    filler: u8,
}

struct Model {
    machine: Machine,
    lanes: Vec<Lane>,
    event_idx: bool,
    bus_master: bool,
    function_masked: bool,
    masked: Vec<bool>,
    pending: Vec<bool>,
}

impl Model {
    fn new() -> Self {
        let machine = Machine::new();
        machine.enable_interrupts();
        let vectors = usize::from(QUEUES) + 1;
        let mut model = Self {
            machine,
            lanes: Vec::new(),
            event_idx: false,
            bus_master: true,
            function_masked: false,
            masked: vec![false; vectors],
            pending: vec![false; vectors],
        };
        model.bring_up(false);
        model
    }

    fn bring_up(&mut self, event_idx: bool) {
        let features = VERSION_1 | INDIRECT | if event_idx { EVENT_IDX } else { 0 };
        self.event_idx = event_idx;
        let lane = |ring| Lane {
            ring,
            waiting: Vec::new(),
            served: 0,
            notified: false,
            rung: false,
            wants: true,
            event: 0,
            filler: 0,
        };
        self.lanes = self.machine.bring_up(features).into_iter().map(lane).collect();
    }

    fn step(&mut self, step: &Step) -> Vec<u16> {
        match step {
            Step::Add { queue, read, write, indirect } => self.add(*queue, read, write, *indirect),
            Step::Notify(queue) => {
                self.machine.notify(*queue);
                let lane = &mut self.lanes[usize::from(*queue)];
                (lane.notified, lane.rung) = (true, true);
            }
            Step::Pump => {
                self.machine.spawner.pump();
                return self.serve(false);
            }
            Step::Mask(vector, masked) => {
                self.machine.mask(*vector, *masked);
                self.masked[usize::from(*vector)] = *masked;
                return self.flush();
            }
            Step::MaskFunction(masked) => {
                self.machine.set_msix(true, *masked);
                self.function_masked = *masked;
                return self.flush();
            }
            Step::BusMaster(on) => {
                let before = std::mem::replace(&mut self.bus_master, *on);
                self.machine.set_command(true, *on);
                let mut sent = self.flush();
                if *on && !before {
                    sent.extend(self.serve(true));
                }
                return sent;
            }
            Step::Want(queue, want) => self.want(*queue, *want),
            Step::MoveBar(place) => self.machine.move_bar(0, 0x80_0001_0000 + place * 0x4000),
            Step::Reset { event_idx } => self.bring_up(*event_idx),
        }
        Vec::new()
    }

    fn add(&mut self, queue: u16, read: &[u32], write: &[u32], indirect: bool) {
        let lane = &mut self.lanes[usize::from(queue)];
        let count = lane.waiting.len();
        if read.len() + write.len() == 0 || count >= usize::from(QUEUE_SIZE) {
            return;
        }
        lane.filler = lane.filler.wrapping_add(1);
        // A place of its own for each chain in flight: by the filler, which no two in flight share.
        let place = u64::from(queue) * 0x10_0000 + u64::from(lane.filler % 32) * SLOT_BYTES;
        let mut at = BUFFERS + place;
        let mut buffers: Vec<TestBuffer> = Vec::new();
        let (mut bytes, mut filler) = (Vec::new(), lane.filler);
        for length in read {
            let data: Vec<u8> = (0..*length)
                .map(|_| {
                    filler = filler.wrapping_mul(31).wrapping_add(7);
                    filler
                })
                .collect();
            self.machine.memory.write_slice(&data, GuestAddress(at)).unwrap();
            bytes.extend(data.iter().map(|byte| !byte));
            buffers.push((at, *length, false));
            at += 0x200;
        }
        let written: Vec<TestBuffer> = write
            .iter()
            .map(|length| {
                at += 0x200;
                (at, *length, true)
            })
            .collect();
        buffers.extend(&written);
        let room: u32 = write.iter().sum();
        bytes.truncate(usize::try_from(room).unwrap());
        let head = match indirect {
            true => lane.ring.add_indirect(TABLES + place, &buffers),
            false => lane.ring.add(&buffers),
        };
        if let Some(head) = head {
            lane.waiting.push(Expected { head, bytes, at: written });
        }
    }

    fn want(&mut self, queue: u16, want: Option<u16>) {
        let lane = &mut self.lanes[usize::from(queue)];
        match (self.event_idx, want) {
            (true, Some(ahead)) => lane.event = lane.served.wrapping_add(ahead),
            (true, None) => lane.event = lane.served.wrapping_sub(1),
            (false, want) => lane.wants = want.is_some(),
        }
        match self.event_idx {
            true => lane.ring.set_used_event(lane.event),
            false => lane.ring.set_wants_interrupt(lane.wants),
        }
    }

    /// What the device must have done in its turn, or when it was started again; the interrupts that must have come.
    fn serve(&mut self, started: bool) -> Vec<u16> {
        let mut sent = Vec::new();
        if !self.bus_master {
            return sent;
        }
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if !started && !lane.notified {
                continue;
            }
            lane.notified = started && lane.rung;
            let (old, mut new) = (lane.served, lane.served);
            for expected in lane.waiting.drain(..) {
                let written = u32::try_from(expected.bytes.len()).unwrap();
                assert_eq!(lane.ring.used(), Some((expected.head, written)));
                let mut found = Vec::new();
                for (at, length, _) in expected.at {
                    let mut data = vec![0; usize::try_from(length).unwrap()];
                    self.machine.memory.read_slice(&mut data, GuestAddress(at)).unwrap();
                    found.extend(data);
                }
                found.truncate(expected.bytes.len());
                assert_eq!(found, expected.bytes);
                new = new.wrapping_add(1);
            }
            assert_eq!(lane.ring.used(), None);
            lane.served = new;
            let wanted = match self.event_idx {
                true => (old..new).contains(&lane.event),
                false => lane.wants,
            };
            if new != old && wanted {
                sent.extend(self.trigger(index + 1));
            }
        }
        sent
    }

    fn live(&self, vector: usize) -> bool {
        !self.masked[vector] && !self.function_masked && self.bus_master
    }

    fn trigger(&mut self, vector: usize) -> Option<u16> {
        self.pending[vector] = true;
        self.deliver(vector)
    }

    fn deliver(&mut self, vector: usize) -> Option<u16> {
        let deliver = self.live(vector) && std::mem::take(&mut self.pending[vector]);
        deliver.then(|| u16::try_from(vector).unwrap())
    }

    fn flush(&mut self) -> Vec<u16> {
        (0..self.masked.len()).filter_map(|vector| self.deliver(vector)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_driver_within_the_rules_gets_every_answer_and_every_interrupt(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut model = Model::new();
        for step in &steps {
            let expected = model.step(step);
            prop_assert_eq!(model.machine.interrupts(), expected, "after {:?}", step);
            prop_assert_eq!(model.machine.status(), 15);
            for (index, lane) in (1..).zip(&model.lanes) {
                // Nothing is used before its turn.
                prop_assert!(lane.ring.is_idle(), "queue {} used something by itself", index - 1);
                let live = model.live(usize::from(index));
                prop_assert_eq!(model.machine.vectors.route(index), live.then(|| message(index)));
            }
        }
        let counters = &model.machine.counters;
        prop_assert_eq!((counters.queue_faults.get(), counters.failed_activations.get(), counters.host_failures.get()), (0, 0, 0));
    }
}
