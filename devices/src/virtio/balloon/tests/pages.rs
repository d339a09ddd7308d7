//! Runs out of lists, and the shadow stack against a plain list.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::virtio::balloon::compact;
use crate::virtio::balloon::stack::{Removed, Stack};
use crate::virtio::balloon::test_host::run;

#[test]
fn an_array_in_reverse_order_with_a_page_twice_is_one_run() {
    assert_eq!(compact(&mut [9, 8, 8, 7, 20, u32::MAX]), [run(7, 3), run(20, 1), run(u32::MAX, 1)]);
    assert_eq!(compact(&mut []), []);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u32),
    Pop,
    Remove(u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Few numbers, far apart and near, so that they meet.
    let pfn = || prop_oneof![0_u32..40, 4090_u32..4100, Just(u32::MAX - 1)];
    prop_oneof![4 => pfn().prop_map(Step::Push), 2 => Just(Step::Pop), 2 => pfn().prop_map(Step::Remove)]
}

proptest! {
    #[test]
    fn runs_hold_the_same_pages_and_never_touch(mut pfns in prop::collection::vec(0_u32..200, 0..100)) {
        let before: BTreeSet<u32> = pfns.iter().copied().collect();
        let runs = compact(&mut pfns);
        let pages: Vec<u32> = runs.iter().flat_map(|run| run.first..run.first + run.count).collect();
        prop_assert_eq!(pages, before.into_iter().collect::<Vec<_>>());
        prop_assert!(runs.windows(2).all(|pair| pair[0].first + pair[0].count < pair[1].first));
    }

    #[test]
    fn the_stack_is_a_list_without_duplicates(steps in prop::collection::vec(step(), 0..300)) {
        let (mut stack, mut list) = (Stack::default(), Vec::new());
        for step in steps {
            match step {
                Step::Push(pfn) => {
                    let new = !list.contains(&pfn);
                    if new {
                        list.push(pfn);
                    }
                    prop_assert_eq!(stack.push(pfn), new);
                }
                Step::Pop => {
                    if let Some(pfn) = list.pop() {
                        prop_assert_eq!(stack.remove(pfn), Removed::Top);
                    }
                }
                Step::Remove(pfn) => {
                    let at = list.iter().position(|there| *there == pfn);
                    let expected = match at {
                        Some(at) if at + 1 == list.len() => Removed::Top,
                        Some(_) => Removed::Deeper,
                        None => Removed::Absent,
                    };
                    if let Some(at) = at {
                        list.remove(at);
                    }
                    prop_assert_eq!(stack.remove(pfn), expected);
                }
            }
            let down: Vec<u32> = list.iter().rev().copied().collect();
            prop_assert_eq!(stack.downwards().collect::<Vec<_>>(), down);
            prop_assert_eq!(usize::try_from(stack.len()).unwrap(), list.len());
        }
    }
}

#[test]
fn a_stack_that_is_emptied_from_below_closes_up() {
    let mut stack = Stack::default();
    (0..10_000).for_each(|pfn| assert!(stack.push(pfn)));
    (0..9_999).for_each(|pfn| assert_eq!(stack.remove(pfn), Removed::Deeper));
    assert_eq!((stack.len(), stack.downwards().collect::<Vec<_>>()), (1, vec![9_999]));
    assert_eq!(stack.remove(9_999), Removed::Top);
    assert_eq!(stack.len(), 0);
    assert!(stack.push(5));
}
