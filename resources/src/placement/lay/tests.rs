//! Assignments against exhaustive search.

use crate::placement::budget::Budget;
use crate::placement::lay::{Laid, Layout};
use crate::placement::pack::{Packing, pack};
use crate::placement::problem::{fits, take};
use proptest::prelude::{Strategy, proptest};
use proptest::sample::select;

fn brute(layout: &Layout, keep: Option<&Vec<usize>>) -> Vec<usize> {
    let (items, bins) = (layout.items.len(), layout.rooms.len());
    let mut best: Option<(u64, Vec<usize>)> = None;
    for code in 0..bins.pow(u32::try_from(items).unwrap()) {
        let at: Vec<usize> =
            (0..items).rev().map(|item| code / bins.pow(u32::try_from(item).unwrap()) % bins).collect();
        let mut left = layout.rooms.clone();
        let fit = at.iter().zip(&layout.items).all(|(bin, item)| {
            let fit = fits(item, &left[*bin]);
            take(&mut left[*bin], item);
            fit
        });
        let score = layout.score(&at);
        // Codes ascend in the order of layouts, so of equals the first stays.
        if fit && best.as_ref().is_none_or(|best| score > best.0) {
            best = Some((score, at));
        }
    }
    let (score, at) = best.unwrap();
    match keep {
        Some(keep) if layout.score(keep) == score => keep.clone(),
        _ => at,
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    (1usize..6, 1usize..5).prop_flat_map(|(items, bins)| {
        (
            proptest::collection::vec(1u64..4, items),
            proptest::collection::vec(1u64..8, bins),
            proptest::collection::vec(
                proptest::collection::vec(select(vec![0u64, 0, 0, 5, 11]), items),
                items,
            ),
            proptest::collection::vec(proptest::collection::vec(select(vec![12u64, 21, 32]), bins), bins),
            proptest::collection::vec(proptest::collection::vec(select(vec![0u64, 0, 50, 90]), bins), items),
        )
            .prop_map(|(items, rooms, weights, mut distances, fixed)| {
                (0..rooms.len()).for_each(|bin| distances[bin][bin] = 10);
                let weights = weights.into_iter().enumerate().map(|(i, mut row)| {
                    row[i] = 0;
                    row
                });
                let kind = |amount: &u64| [*amount, 0, 0, 0];
                Layout {
                    items: items.iter().map(kind).collect(),
                    rooms: rooms.iter().map(kind).collect(),
                    weights: weights.collect(),
                    distances,
                    fixed,
                }
            })
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, ..Default::default() })]
    #[test]
    fn layouts_agree_with_trying_every_one(layout in layout()) {
        let Packing::Fits(at) = pack(&layout.rooms, &layout.items, &Budget::default().allow(u64::MAX)) else { return Ok(()) };
        let laid = layout.lay(at.clone(), false, &Budget::default());
        assert_eq!(laid, Laid { at: brute(&layout, None), complete: true });
        let kept = layout.lay(at.clone(), true, &Budget::default());
        assert!(kept.complete);
        let expected = brute(&layout, Some(&at));
        assert_eq!(layout.score(&kept.at), layout.score(&expected));
        if expected == at {
            assert_eq!(kept.at, at);
        }
    }
}

fn sixteen(weight: impl Fn(usize, usize) -> u64) -> Layout {
    Layout {
        items: vec![[1, 0, 0, 0]; 16],
        rooms: vec![[1, 0, 0, 0]; 16],
        weights: (0..16).map(|a| (0..16).map(|b| if a == b { 0 } else { weight(a, b) }).collect()).collect(),
        distances: (0..16)
            .map(|a| {
                (0..16)
                    .map(|b| {
                        if a == b {
                            10
                        } else if a / 4 == b / 4 {
                            12
                        } else {
                            32
                        }
                    })
                    .collect()
            })
            .collect(),
        fixed: vec![vec![0; 16]; 16],
    }
}

#[test]
fn sixteen_vnodes_in_groups_find_the_sockets() {
    // Vnodes 0, 4, 8, 12 are near each other, and so on.
    let layout = sixteen(|a, b| if a % 4 == b % 4 { 0 } else { 11 });
    let laid = layout.lay((0..16).collect(), false, &Budget::default());
    for group in 0..4 {
        let sockets: Vec<usize> = (group..16).step_by(4).map(|vnode| laid.at[vnode] / 4).collect();
        assert!(sockets.iter().all(|socket| *socket == sockets[0]), "{laid:?}");
    }
}

#[test]
fn vnodes_of_which_no_distance_was_said_lie_in_order() {
    let laid = sixteen(|_, _| 0).lay((0..16).rev().collect(), false, &Budget::default());
    assert_eq!(laid, Laid { at: (0..16).collect(), complete: true });
}
