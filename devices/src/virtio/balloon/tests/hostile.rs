//! Drivers that mean harm: whatever they send is answered, bounded and counted.

use proptest::prelude::*;

use super::device::plain;
use crate::Figures;
use crate::virtio::balloon::{MAX_ARRAY_PAGES, PAGE_BYTES};

#[test]
fn an_array_that_is_no_array_is_answered() {
    let mut bench = plain();
    bench.handle.ask(10, true).unwrap();
    assert!(bench.buffer(0, 6, false));
    assert!(bench.buffer(0, 4, true));
    assert!(bench.buffer(1, 3, false));
    assert_eq!(bench.handle.counters().malformed.get(), 2);
}

#[test]
fn of_an_endless_array_only_so_much_is_looked_at() {
    let mut bench = plain();
    bench.handle.ask(10, false).unwrap();
    assert!(bench.buffer(0, 0x10_0000, false));
    let counters = bench.handle.counters();
    // All of them page 0, again and again.
    let looked_at = u64::try_from(MAX_ARRAY_PAGES).unwrap();
    let (malformed, bytes) = (counters.malformed.get(), counters.inflated_bytes.get());
    assert_eq!((malformed, bytes, counters.duplicates.get()), (1, PAGE_BYTES, looked_at - 1));
    let faults = bench.handle.figures().into_iter().find(|figure| figure.name == "faults");
    assert_eq!(faults.unwrap().value, looked_at);
}

proptest! {
    #[test]
    fn no_sequence_of_arrays_breaks_the_accounts(
        arrays in prop::collection::vec((0_u16..2, prop::collection::vec(0_u32..2200, 0..40), any::<bool>()), 0..60),
    ) {
        let mut bench = plain();
        for (queue, pfns, exact) in arrays {
            bench.handle.ask(u32::try_from(pfns.len() * 7).unwrap(), exact).unwrap();
            prop_assert!(bench.array(queue, &pfns));
            let view = bench.handle.view();
            prop_assert!(view.off_node <= view.held && view.returned <= view.held, "{:?}", view);
        }
    }
}
