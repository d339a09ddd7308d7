//! A guest that writes whatever it likes, wherever it likes: nothing panics or hangs, and afterwards a driver within
//! the rules finds the device as good as new.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::{INDIRECT, Machine, VERSION_1, WINDOW, WINDOW_BYTES};
use super::echo::QUEUES;
use crate::virtio::test_driver::{BUFFERS, MEMORY_BYTES};

#[derive(Debug, Clone)]
enum Step {
    Config {
        offset: u16,
        data: Vec<u8>,
    },
    Bar {
        offset: u64,
        data: Vec<u8>,
    },
    /// In the common configuration, with a value that is likely to mean something.
    Common {
        offset: u64,
        value: u64,
        width: usize,
    },
    Memory {
        address: u64,
        data: Vec<u8>,
    },
    /// In the rings.
    Ring {
        offset: u64,
        value: u16,
    },
    Kick(u16),
    Pump,
    BringUp {
        features: u64,
    },
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    (any::<[u8; 8]>(), prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)])
        .prop_map(|(data, width)| data[..width].to_vec())
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..40,
        any::<u64>(),
        (0_u64..64).prop_map(|bit| 1 << bit),
        (0..MEMORY_BYTES).prop_map(|at| at & !0xF),
        (0_u64..64).prop_map(|less| u64::MAX - less),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let widths = prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)];
    prop_oneof![
        2 => (0_u16..0xB0, data()).prop_map(|(offset, data)| Step::Config { offset, data }),
        2 => (0_u64..0x6000, data()).prop_map(|(offset, data)| Step::Bar { offset, data }),
        6 => (0_u64..0x40, value(), widths)
            .prop_map(|(offset, value, width)| Step::Common { offset, value, width }),
        2 => (0..MEMORY_BYTES - 8, data()).prop_map(|(address, data)| Step::Memory { address, data }),
        6 => (0_u64..0x8000, prop_oneof![0_u16..20, any::<u16>()])
            .prop_map(|(offset, value)| Step::Ring { offset, value }),
        3 => (0..QUEUES).prop_map(Step::Kick),
        3 => Just(Step::Pump),
        2 => prop_oneof![Just(VERSION_1), Just(VERSION_1 | INDIRECT), any::<u64>()]
            .prop_map(|features| Step::BringUp { features }),
    ]
}

fn act(machine: &Machine, step: &Step) {
    match step {
        Step::Config { offset, data } => machine.set_config(*offset, data),
        Step::Bar { offset, data } => machine.mmio_write(WINDOW + offset, data),
        Step::Common { offset, value, width } => {
            machine.mmio_write(WINDOW + offset, &value.to_le_bytes()[..*width]);
        }
        Step::Memory { address, data } => {
            machine.memory.write_slice(data, GuestAddress(*address)).unwrap();
        }
        Step::Ring { offset, value } => {
            machine.memory.write_obj(*value, GuestAddress(offset & !1)).unwrap();
        }
        Step::Kick(index) => {
            for address in machine.events.addresses() {
                machine.events.write(address);
            }
            machine.mmio_write(WINDOW + 0x3000 + u64::from(*index) * 4, &[0, 0]);
        }
        Step::Pump => machine.spawner.pump(),
        Step::BringUp { features } => {
            for offset in [0x14, 0x14, 0x14] {
                machine.mmio_write(WINDOW + offset, &[0]);
            }
            for (select, half) in [(0_u32, *features), (1, features >> 32)] {
                let [a, b, c, d, ..] = half.to_le_bytes();
                machine.mmio_write(WINDOW + 8, &select.to_le_bytes());
                machine.mmio_write(WINDOW + 12, &[a, b, c, d]);
            }
            machine.mmio_write(WINDOW + 0x14, &[3]);
            machine.mmio_write(WINDOW + 0x14, &[11]);
            for index in 0..QUEUES {
                let base = u64::from(index) * 0x4000;
                machine.mmio_write(WINDOW + 0x16, &index.to_le_bytes());
                machine.mmio_write(WINDOW + 0x20, &base.to_le_bytes());
                machine.mmio_write(WINDOW + 0x28, &(base + 0x1000).to_le_bytes());
                machine.mmio_write(WINDOW + 0x30, &(base + 0x2000).to_le_bytes());
                machine.mmio_write(WINDOW + 0x1C, &[1, 0]);
            }
            machine.mmio_write(WINDOW + 0x14, &[15]);
        }
    }
}

fn works(machine: &Machine) {
    machine.segment.reset();
    machine.vectors.take();
    machine.enable_interrupts();
    for mut queue in machine.bring_up(VERSION_1 | INDIRECT) {
        let index = u16::try_from(queue.descriptors() / 0x4000).unwrap();
        let head = queue.add(&[(BUFFERS, 8, false), (BUFFERS + 64, 8, true)]).unwrap();
        machine.memory.write_obj(0x1122_3344_5566_7788_u64, GuestAddress(BUFFERS)).unwrap();
        machine.notify(index);
        machine.spawner.pump();
        assert_eq!(queue.used(), Some((head, 8)));
        let answer: u64 = machine.memory.read_obj(GuestAddress(BUFFERS + 64)).unwrap();
        assert_eq!(answer, !0x1122_3344_5566_7788);
        assert_eq!(machine.interrupts(), [index + 1]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nonsense_neither_panics_nor_lasts(steps in proptest::collection::vec(step(), 0..150)) {
        let machine = Machine::new();
        machine.enable_interrupts();
        for step in &steps {
            act(&machine, step);
        }
        let mut read = [0; 8];
        for offset in (0..WINDOW_BYTES).step_by(0x3FF) {
            machine.bars.read(offset.min(WINDOW_BYTES - 8), &mut read);
            machine.ecam.read(offset.min(WINDOW_BYTES - 8), &mut read);
        }
        works(&machine);
    }
}
