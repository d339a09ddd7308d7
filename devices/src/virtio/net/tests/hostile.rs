//! Drivers that write anything anywhere: no panic, no endless round, memory of the host untouched.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Bench, frame};
use crate::virtio::net::bits;
use crate::virtio::pci::test_machine::{EVENT_IDX, INDIRECT};

proptest! {
    #[test]
    fn rings_full_of_nonsense_end_in_a_fault_or_in_frames(
        features in prop_oneof![Just(0), Just(bits::MRG_RXBUF), Just(EVENT_IDX | INDIRECT | bits::MRG_RXBUF)],
        descriptors in vec((0_u64..0x90_0000, prop_oneof![0_u32..5000, any::<u32>()], 0_u16..8, 0_u16..20), 48),
        heads in vec(0_u16..20, 1..32),
        bytes in vec(any::<u8>(), 256),
    ) {
        let mut bench = Bench::with(features | bits::CTRL_VQ, vec![crate::virtio::net::NetQueues { tap: super::FakeTap::new(), kernel: None }], 16);
        bench.write(0x10_0000, &bytes);
        for (i, (address, length, flags, next)) in descriptors.into_iter().enumerate() {
            let number = u16::try_from(i % 16).unwrap();
            bench.queues[i / 16].descriptor(number, address, length, flags, next);
        }
        for (i, head) in heads.iter().enumerate() {
            bench.queues[i % 3].make_available(*head);
            bench.tap(|tap| tap.incoming.push_back(frame(i, 5000)));
            bench.run();
        }
        let faults = bench.interrupt.faults.lock().unwrap().len();
        prop_assert!(faults <= 3, "one per queue");
    }

    #[test]
    fn an_index_that_runs_away_stops_the_queue(queue in 0_usize..3, index in 17_u16..) {
        let mut bench = Bench::with(bits::CTRL_VQ, vec![crate::virtio::net::NetQueues { tap: super::FakeTap::new(), kernel: None }], 16);
        let ring = bench.queues[queue].available_ring();
        bench.write(ring + 2, &index.to_le_bytes());
        bench.tap(|tap| tap.incoming.push_back(frame(0, 60)));
        bench.run();
        prop_assert_eq!(bench.interrupt.faults.lock().unwrap().len(), 1);
    }
}
