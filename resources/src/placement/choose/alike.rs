//! Interchangeable pnodes, and which of two is better: this keeps the search small on real hosts.

use crate::placement::budget::Budget;
use crate::placement::pairs::Pairs;
use crate::placement::problem::{Amounts, fits};

/// Most better ones that are kept for a pnode: fewer only cut less off.
const MAX_BETTER: usize = 16;

/// A number out of a number, the same on every machine (splitmix64).
pub fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The same pnodes grouped by kind: those of a kind have the same distances to all others. Kinds come in the order of
/// their first.
pub fn kinds(pairs: &Pairs, others: &[usize], budget: &Budget) -> Vec<Vec<usize>> {
    let mark = |to: usize, distance: u16| mix((to as u64) << 16 | u64::from(distance));
    let sum = |of: usize| {
        let marks = pairs.row(of).iter().enumerate().filter(|(to, _)| *to != of);
        marks.fold(0u64, |sum, (to, distance)| sum.wrapping_add(mark(to, *distance)))
    };
    budget.spend((pairs.side() * others.len()) as u64);
    let marks: Vec<u64> = others.iter().map(|bin| sum(*bin)).collect();
    // Sums of numbers that stand for distances tell most of those that are not alike apart.
    let maybe = |a: usize, b: usize| {
        let apart = pairs.row(others[a])[others[b]];
        marks[a].wrapping_sub(mark(others[b], apart)) == marks[b].wrapping_sub(mark(others[a], apart))
    };
    let same = |a: usize, b: usize| {
        let rows = pairs.row(a).iter().zip(pairs.row(b)).enumerate();
        budget.spend(pairs.row(a).len() as u64 / 4);
        rows.filter(|(to, _)| *to != a && *to != b).all(|(_, (to_a, to_b))| to_a == to_b)
    };
    // By position in `others`.
    let mut kinds: Vec<Vec<usize>> = Vec::new();
    for at in 0..others.len() {
        budget.spend(kinds.len() as u64);
        let alike = |kind: &&mut Vec<usize>| {
            maybe(kind[0], at) && !budget.is_spent() && same(others[kind[0]], others[at])
        };
        match kinds.iter_mut().find(alike) {
            Some(kind) => kind.push(at),
            None => kinds.push(vec![at]),
        }
    }
    kinds.into_iter().map(|kind| kind.into_iter().map(|at| others[at]).collect()).collect()
}

/// For each pnode of a kind those before it that have no less room, as positions from `first` on: exchanged for one of
/// them it only makes a set better. Those that are better than one of these go without saying.
pub fn better(rooms: &[Amounts], kind: &[usize], first: usize, budget: &Budget) -> Vec<Vec<u16>> {
    let of = |at: usize| {
        let mut nearest: Vec<usize> = Vec::new();
        for before in (0..at).rev() {
            if nearest.len() == MAX_BETTER || budget.is_spent() {
                break;
            }
            budget.spend(1 + nearest.len() as u64);
            let room = &rooms[kind[before]];
            if fits(&rooms[kind[at]], room) && !nearest.iter().any(|n| fits(&rooms[kind[*n]], room)) {
                nearest.push(before);
            }
        }
        nearest.into_iter().filter_map(|before| u16::try_from(first + before).ok()).collect()
    };
    (0..kind.len()).map(of).collect()
}

/// For each of `others` the rest of them as positions, the nearest first, and of equals in order.
pub struct Near {
    rest: usize,
    positions: Vec<u16>,
}

impl Near {
    /// Sorts each row by counting: there are no more than 511 distances there and back.
    pub fn new(pairs: &Pairs, others: &[usize]) -> Self {
        let rest = others.len().saturating_sub(1);
        let mut positions = vec![0; others.len() * rest];
        for (at, bin) in others.iter().enumerate() {
            let row = pairs.row(*bin);
            let mut starts = vec![0usize; usize::from(row.iter().copied().max().unwrap_or(0)) + 2];
            let elsewhere = || (0u16..).zip(others).enumerate().filter(|(other, _)| *other != at);
            for (_, (_, other)) in elsewhere() {
                starts[usize::from(row[*other]) + 1] += 1;
            }
            (1..starts.len()).for_each(|value| starts[value] += starts[value - 1]);
            for (_, (position, other)) in elsewhere() {
                let slot = &mut starts[usize::from(row[*other])];
                positions[at * rest + *slot] = position;
                *slot += 1;
            }
        }
        Self { rest, positions }
    }

    /// The others of one.
    pub fn of(&self, at: usize) -> &[u16] {
        &self.positions[at * self.rest..(at + 1) * self.rest]
    }

    /// What the table takes.
    pub fn bytes(others: usize) -> u64 {
        (others * others * size_of::<u16>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Near, better, kinds};
    use crate::placement::budget::Budget;
    use crate::placement::pairs::Pairs;

    #[test]
    fn nodes_of_a_socket_are_alike_and_the_nearest_come_first() {
        let pairs = Pairs::from_fn(6, |a, b| if a / 2 == b / 2 { 24 } else { 40 + u16::from(a.max(b) == 5) });
        let budget = Budget::default();
        assert_eq!(kinds(&pairs, &[0, 1, 2, 3, 4, 5], &budget), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        let near = Near::new(&pairs, &[0, 2, 3, 5]);
        assert_eq!((near.of(0), near.of(2)), (&[1, 2, 3][..], &[1, 0, 3][..]));
    }

    #[test]
    fn a_better_one_has_no_less_of_anything() {
        let rooms = [[4, 0, 0, 4], [5, 0, 0, 2], [3, 0, 0, 3], [3, 0, 0, 2], [9, 0, 0, 9]];
        let all = better(&rooms, &[0, 1, 2, 3, 4], 10, &Budget::default());
        assert_eq!(all, [vec![], vec![], vec![10], vec![12, 11], vec![]]);
    }
}
