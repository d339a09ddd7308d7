//! The search against exhaustive search.

use crate::placement::budget::Budget;
use crate::placement::choose::{Choice, Key, Nowhere};
use crate::placement::pack::{Packing, pack};
use crate::placement::pairs::Pairs;
use crate::placement::problem::{Amounts, Bin, KINDS, Problem, missing, sum};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use std::cmp::Reverse;
use std::rc::Rc;

fn choose(problem: &Problem, split: bool) -> Result<Choice, Nowhere> {
    super::choose(problem, split, &Budget::default())
}

/// The best of the smallest sets that fit, by looking at all.
fn brute(problem: &Problem, split: bool) -> Option<Key> {
    let bins = problem.bins.len();
    let sets =
        (0u32..1 << bins).map(|mask| (0..bins).filter(|bin| mask & (1 << bin) != 0).collect::<Vec<_>>());
    let with_given = sets.filter(|set| problem.given.iter().all(|bin| set.contains(bin)));
    let fitting = with_given.filter(|set| {
        let rooms: Vec<Amounts> = set.iter().map(|bin| problem.bins[*bin].room).collect();
        match split {
            true => missing(&problem.need(), &sum(&rooms)) == [0; KINDS],
            false => {
                matches!(pack(&rooms, &problem.items, &Budget::default().allow(u64::MAX)), Packing::Fits(_))
            }
        }
    });
    let key = |set: Vec<usize>| Key {
        distance: problem.pairs.within(&set),
        claimed: set.iter().map(|bin| problem.bins[*bin].claimed).sum(),
        free: Reverse(set.iter().map(|bin| problem.bins[*bin].free).sum()),
        set,
    };
    fitting.map(key).min_by(|a, b| (a.set.len(), a).cmp(&(b.set.len(), b)))
}

fn pairs(bins: usize, half: &[u16]) -> Rc<Pairs> {
    Pairs::from_fn(bins, |a, b| half[(b * bins + a) % half.len()]).into()
}

/// Few different values, so that there are ties to be broken.
fn problem() -> impl Strategy<Value = Problem> {
    let bin = (
        select(vec![0u64, 2, 4, 4, 7, 12]),
        select(vec![0u64, 2, 4, 4]),
        0u64..3,
        prop_oneof![Just(0u64), 0u64..3],
    );
    let item = (0u64..5, 0u64..4);
    (
        proptest::collection::vec(bin, 1..9),
        proptest::collection::vec(item, 1..6),
        proptest::collection::vec(select(vec![24u16, 42, 64]), 1..40),
        proptest::collection::vec(0usize..8, 0..3),
        any::<bool>(),
    )
        .prop_map(|(bins, items, distances, mut given, uniform)| {
            given.retain(|bin| *bin < bins.len() && bin % 2 == 0);
            given.sort_unstable();
            given.dedup();
            let distances = if uniform { vec![40] } else { distances };
            Problem {
                pairs: pairs(bins.len(), &distances),
                items: items.iter().map(|(memory, cpus)| [*memory, 0, 0, *cpus]).collect(),
                bins: bins
                    .into_iter()
                    .map(|(memory, cpus, claimed, free)| Bin {
                        room: [memory, 0, 0, cpus],
                        claimed,
                        free: free + memory,
                    })
                    .collect(),
                given,
            }
        })
}

fn agrees(problem: &Problem, split: bool) {
    let expected = brute(problem, split);
    match choose(problem, split) {
        Ok(choice) => {
            assert!(choice.complete);
            assert_eq!(Some(&choice.best), expected.as_ref(), "{problem:?}");
            assert!(
                choice.next.is_none_or(|next| next > choice.best && next.set.len() == choice.best.set.len())
            );
        }
        Err(nowhere) => assert_eq!((nowhere, expected), (Nowhere { complete: true }, None), "{problem:?}"),
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 3000, ..Default::default() })]
    #[test]
    fn the_search_agrees_with_trying_every_set(problem in problem()) {
        agrees(&problem, false);
        agrees(&problem, true);
    }
}

/// All hosts of up to four nodes and VMs of up to three vnodes with two sizes, two loads and two distances.
#[test]
fn every_small_case_agrees_with_trying_every_set() {
    let mut cases = 0;
    for bins in 1..=4usize {
        for vnodes in 1..=3usize {
            for shape in 0..1u32 << (2 * bins) {
                let bin = |at: usize| {
                    let (large, busy) = (shape >> (2 * at) & 1, shape >> (2 * at + 1) & 1);
                    let room = [2 + 2 * u64::from(large), 0, 0, 2];
                    Bin { room, claimed: u64::from(busy), free: room[0] }
                };
                for links in 0..1u32 << (bins * (bins - 1) / 2) {
                    let half: Vec<u16> =
                        (0..16).map(|at| 24 + 18 * u16::try_from(links >> (at % 6) & 1).unwrap()).collect();
                    for sizes in 0..1u32 << vnodes {
                        let item = |at: usize| [1 + u64::from(sizes >> at & 1), 0, 0, 1];
                        let problem = Problem {
                            bins: (0..bins).map(bin).collect(),
                            items: (0..vnodes).map(item).collect(),
                            given: vec![],
                            pairs: pairs(bins, &half),
                        };
                        agrees(&problem, false);
                        cases += 1;
                    }
                }
            }
        }
    }
    assert!(cases > 200_000, "{cases}");
}

/// `sockets` times `nodes`, near inside a socket, with free memory that differs by a little everywhere.
fn sockets(sockets: usize, nodes: usize, items: Vec<Amounts>) -> Problem {
    let bins = sockets * nodes;
    Problem {
        bins: (0..bins as u64)
            .map(|bin| Bin {
                room: [1000 + bin * 37 % 64, 0, 0, 8],
                claimed: bin * 5 % 3,
                free: 1000 + bin * 37 % 64,
            })
            .collect(),
        items,
        given: vec![],
        pairs: Pairs::from_fn(bins, |a, b| if a / nodes == b / nodes { 24 } else { 64 }).into(),
    }
}

#[test]
fn hosts_as_they_are_built_are_searched_to_the_end() {
    for (count, nodes) in [(1, 64), (2, 32), (4, 16), (8, 8), (16, 4), (32, 2), (64, 1)] {
        for vnodes in [1, 3, 6, 12, 16] {
            let choice: Choice = choose(&sockets(count, nodes, vec![[900, 0, 0, 4]; vnodes]), false).unwrap();
            // Dozens of pairs that are all as good as each other are the one case that is not.
            let many_pairs = (count, vnodes) == (32, 12) || (count, vnodes) == (32, 16);
            assert!(choice.complete || many_pairs, "{count} sockets of {nodes} nodes, {vnodes} vnodes");
            assert_eq!(choice.best.set.len(), vnodes);
        }
    }
}

#[test]
fn a_hard_host_ends_within_the_bound_and_says_that_it_was_bounded() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    let half: Vec<u16> = (0..4096).map(|_| u16::try_from(22 + random() % 200).unwrap()).collect();
    let mut problem = sockets(64, 1, vec![[900, 0, 0, 4]; 16]);
    problem.pairs = pairs(64, &half);
    let choice = choose(&problem, false).unwrap();
    assert!(!choice.complete);
    assert_eq!(choice.best.set.len(), 16);
    assert!(choice.next.is_some_and(|next| next > choice.best));
}
