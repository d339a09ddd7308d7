//! Spreads vnodes over several pnodes if no single pnode has room: whole vnodes first, then pieces where most is
//! left. `choose` selects the pnodes.

use crate::placement::problem::{Amounts, CPUS, KINDS, Problem, fits, missing, sum, take};
use std::cmp::Reverse;

/// What each vnode gets of which pnode. The pnodes of `set` have enough together.
pub fn spread(problem: &Problem, set: &[usize]) -> Vec<Vec<(usize, Amounts)>> {
    let mut left: Vec<(usize, Amounts)> = set.iter().map(|bin| (*bin, problem.bins[*bin].room)).collect();
    let mut order: Vec<usize> = (0..problem.items.len()).collect();
    order.sort_by_key(|item| (Reverse(problem.items[*item]), *item));
    let mut shares = vec![Vec::new(); problem.items.len()];
    order.retain(|item| {
        let need = problem.items[*item];
        let Some((bin, room)) = left.iter_mut().find(|(_, room)| fits(&need, room)) else { return true };
        take(room, &need);
        shares[*item].push((*bin, need));
        false
    });
    for item in order {
        shares[item] = pieces(problem.items[item], &mut left);
    }
    shares
}

fn pieces(mut need: Amounts, left: &mut [(usize, Amounts)]) -> Vec<(usize, Amounts)> {
    let kind = (0..CPUS).find(|kind| need[*kind] > 0).unwrap_or(CPUS);
    // Memory lies best where the vCPUs are: so pnodes that have some of all that is needed come first.
    left.sort_by_key(|(bin, room)| {
        let kinds = (0..KINDS).filter(|kind| need[*kind] > 0 && room[*kind] > 0).count();
        (Reverse(kinds), Reverse(room[kind].min(need[kind])), Reverse(room[CPUS].min(need[CPUS])), *bin)
    });
    let mut pieces = Vec::new();
    for (bin, room) in left {
        let piece: Amounts = std::array::from_fn(|kind| need[kind].min(room[kind]));
        if piece != [0; KINDS] {
            take(room, &piece);
            take(&mut need, &piece);
            pieces.push((*bin, piece));
        }
    }
    pieces.sort_unstable();
    pieces
}

/// The same problem with CPUs to be shared: if there are fewer than vCPUs, all of them are dealt out to the vnodes in
/// proportion. When none is left unclaimed, all CPUs of `cpus` count.
pub fn with_shared_cpus(problem: &Problem, cpus: &[u64]) -> Problem {
    let mut shared = problem.clone();
    let there = |problem: &Problem| sum(problem.bins.iter().map(|bin| &bin.room))[CPUS];
    if there(&shared) == 0 {
        shared.bins.iter_mut().zip(cpus).for_each(|(bin, cpus)| bin.room[CPUS] = *cpus);
    }
    let wants: Vec<u64> = shared.items.iter().map(|item| item[CPUS]).collect();
    if wants.iter().sum::<u64>() > there(&shared) && there(&shared) > 0 {
        // A vnode gets a part of a CPU at least: if there are more vnodes than CPUs, each CPU is cut into parts.
        let takers = wants.iter().filter(|want| **want > 0).count() as u64;
        let parts = takers.div_ceil(there(&shared));
        shared.bins.iter_mut().for_each(|bin| bin.room[CPUS] = bin.room[CPUS].saturating_mul(parts));
        let dealt = deal(&wants, there(&shared));
        shared.items.iter_mut().zip(dealt).for_each(|(item, dealt)| item[CPUS] = dealt);
    }
    shared
}

/// Deals `total` out in proportion to `wants`, whole and at least one to each that wants any.
fn deal(wants: &[u64], total: u64) -> Vec<u64> {
    let all = wants.iter().map(|want| u128::from(*want)).sum::<u128>().max(1);
    let exact = |want: u64| u128::from(want) * u128::from(total);
    let floor = |want: &u64| u64::try_from(exact(*want) / all).unwrap_or(u64::MAX).max(1).min(*want);
    let mut dealt: Vec<u64> = wants.iter().map(floor).collect();
    // How much more than its due a vnode has; negative where it has less.
    let over = |index: usize, dealt: &[u64]| {
        i128::try_from(u128::from(dealt[index]) * all).unwrap_or(i128::MAX)
            - i128::try_from(exact(wants[index])).unwrap_or(i128::MAX)
    };
    while dealt.iter().sum::<u64>() > total {
        let may = (0..wants.len()).filter(|index| dealt[*index] > 1);
        let Some(index) = may.max_by_key(|index| (over(*index, &dealt), Reverse(*index))) else { break };
        dealt[index] -= 1;
    }
    while dealt.iter().sum::<u64>() < total {
        let may = (0..wants.len()).filter(|index| dealt[*index] < wants[*index]);
        let Some(index) = may.min_by_key(|index| (over(*index, &dealt), *index)) else { break };
        dealt[index] += 1;
    }
    dealt
}

/// What `set` lacks.
pub fn lack(problem: &Problem, set: &[usize]) -> Amounts {
    missing(&problem.need(), &sum(set.iter().map(|bin| &problem.bins[*bin].room)))
}

#[cfg(test)]
mod tests {
    use super::{spread, with_shared_cpus};
    use crate::placement::pairs::Pairs;
    use crate::placement::problem::{Amounts, Bin, CPUS, Problem, sum};
    use proptest::prelude::proptest;

    fn problem(rooms: &[(u64, u64)], items: &[(u64, u64)]) -> Problem {
        let bin =
            |(memory, cpus): &(u64, u64)| Bin { room: [*memory, 0, 0, *cpus], claimed: 0, free: *memory };
        Problem {
            bins: rooms.iter().map(bin).collect(),
            items: items.iter().map(|(memory, cpus)| [*memory, 0, 0, *cpus]).collect(),
            given: vec![],
            pairs: Pairs::from_fn(rooms.len(), |_, _| 20).into(),
        }
    }

    #[test]
    fn whole_vnodes_stay_whole_and_the_rest_goes_where_most_is_left() {
        let shares = spread(&problem(&[(4, 2), (3, 2), (2, 0)], &[(6, 3), (2, 1)]), &[0, 1, 2]);
        assert_eq!(
            shares,
            [vec![(0, [2, 0, 0, 1]), (1, [3, 0, 0, 2]), (2, [1, 0, 0, 0])], vec![(0, [2, 0, 0, 1])]]
        );
    }

    #[test]
    fn shared_cpus_are_shared_in_proportion() {
        let dealt = |rooms: &[(u64, u64)], items: &[(u64, u64)]| {
            let shared = with_shared_cpus(&problem(rooms, items), &[4; 8][..rooms.len()]);
            let of = |amounts: Vec<Amounts>| amounts.iter().map(|amounts| amounts[CPUS]).collect::<Vec<_>>();
            (of(shared.bins.iter().map(|bin| bin.room).collect()), of(shared.items))
        };
        assert_eq!(dealt(&[(9, 2), (9, 2)], &[(1, 6), (1, 2)]), (vec![2, 2], vec![3, 1]));
        assert_eq!(dealt(&[(9, 2); 8], &[(1, 38), (1, 37)].repeat(4)), (vec![2; 8], vec![2; 8]));
        assert_eq!(dealt(&[(9, 1), (9, 1)], &[(1, 1); 3]), (vec![2, 2], vec![1; 3]));
        assert_eq!(
            dealt(&[(9, 2), (9, 1)], &[(1, 10), (1, 1), (1, 1), (1, 0)]),
            (vec![2, 1], vec![1, 1, 1, 0])
        );
        assert_eq!(dealt(&[(9, 0), (9, 0)], &[(1, 3)]), (vec![4, 4], vec![3]));
    }

    proptest! {
        #[test]
        fn everybody_gets_what_was_asked_and_nothing_is_given_twice(
            rooms in proptest::collection::vec((0u64..9, 0u64..5), 1..6),
            items in proptest::collection::vec((0u64..9, 0u64..5), 1..6),
        ) {
            let problem = problem(&rooms, &items);
            let set: Vec<usize> = (0..rooms.len()).collect();
            if super::lack(&problem, &set) != [0; 4] {
                return Ok(());
            }
            let shares = spread(&problem, &set);
            for (item, shares) in problem.items.iter().zip(&shares) {
                assert_eq!(sum(shares.iter().map(|(_, piece)| piece)), *item);
            }
            for (at, bin) in problem.bins.iter().enumerate() {
                let taken = sum(shares.iter().flatten().filter(|(bin, _)| *bin == at).map(|(_, piece)| piece));
                assert!(taken.iter().zip(&bin.room).all(|(taken, room)| taken <= room));
            }
        }
    }
}
