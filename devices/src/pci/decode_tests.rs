//! Tests of which BAR answers where.

use proptest::prelude::*;

use super::*;

const WINDOW: RangeInclusive<u64> = 0x1000..=0x8FFF;

fn wish(slot: u8, size: u64, address: Option<u64>, granted: Option<u64>) -> Wish {
    Wish { slot, bar: 0, size, address, granted }
}

#[test]
fn a_bar_in_the_window_answers() {
    let wishes = [wish(1, 0x1000, Some(0x1000), None), wish(2, 0x1000, Some(0x8000), None)];
    assert_eq!(grant(&[WINDOW], &wishes), [Some(0x1000), Some(0x8000)]);
}

#[test]
fn a_bar_that_leaves_the_window_or_wraps_does_not() {
    let outside = [0, 0x9000, 0x8800, !0xFFF, !0x7FF];
    let wishes = outside.map(|address| wish(1, 0x1000, Some(address), None));
    assert_eq!(grant(&[WINDOW], &wishes), [None; 5]);
}

#[test]
fn of_two_that_overlap_the_one_that_was_there_keeps_it() {
    let wishes = [wish(1, 0x2000, Some(0x2000), Some(0x4000)), wish(2, 0x1000, Some(0x3000), Some(0x3000))];
    assert_eq!(grant(&[WINDOW], &wishes), [None, Some(0x3000)]);
}

#[test]
fn of_two_newcomers_the_first_gets_it() {
    let wishes = [wish(1, 0x2000, Some(0x2000), None), wish(2, 0x1000, Some(0x3000), None)];
    assert_eq!(grant(&[WINDOW], &wishes), [Some(0x2000), None]);
}

#[test]
fn an_access_across_a_border_finds_nothing() {
    let list = decoded(&[wish(2, 0x1000, None, Some(0x3000)), wish(1, 0x1000, None, Some(0x2000))]);
    assert_eq!(find(&list, 0x2FFC, 4).map(|found| found.slot), Some(1));
    assert_eq!(find(&list, 0x2FFE, 4), None);
    assert_eq!(find(&list, 0x3FFD, 4), None);
    assert_eq!(find(&list, 0x1FFF, 1), None);
    assert_eq!(find(&list, u64::MAX, 8), None);
    assert_eq!(find(&list, 0x3000, 0), None);
}

proptest! {
    #[test]
    fn what_answers_is_wished_for_in_the_window_and_disjoint_and_nobody_is_driven_away(
        asked in proptest::collection::vec((0_u32..3, proptest::option::of(0_u64..12)), 0..12),
        moved in proptest::collection::vec(proptest::option::of(0_u64..12), 12),
    ) {
        let mut wishes: Vec<_> = (0..)
            .zip(&asked)
            .map(|(slot, (size, page))| wish(slot, 0x1000 << size, page.map(|page| page << 12), None))
            .collect();
        let mut before = vec![None; wishes.len()];
        for round in 0..2 {
            let granted = grant(&[WINDOW], &wishes);
            for (i, wish) in wishes.iter().enumerate() {
                prop_assert!(granted[i].is_none() || granted[i] == wish.address);
                if before[i].is_some() && before[i] == wish.address {
                    prop_assert_eq!(granted[i], before[i]);
                }
                let Some((first, last)) = wish.range(&[WINDOW]) else {
                    prop_assert_eq!(granted[i], None);
                    continue;
                };
                let overlaps = (0..wishes.len()).any(|other| {
                    other != i && granted[other].is_some_and(|at| at <= last && first < at + wishes[other].size)
                });
                prop_assert_ne!(granted[i].is_some(), overlaps);
            }
            for (wish, grant) in wishes.iter_mut().zip(&granted) {
                wish.granted = *grant;
            }
            before = granted;
            if round == 0 {
                for (wish, page) in wishes.iter_mut().zip(&moved) {
                    if let Some(page) = page {
                        wish.address = Some(page << 12);
                    }
                }
            }
        }
    }
}
