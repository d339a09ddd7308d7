//! The resources of pnodes for the vnodes, and sums over sets of pnodes, so that sets that differ in one pnode can be
//! compared quickly.

use crate::placement::choose::Figures;
use crate::placement::choose::alike::mix;
use crate::placement::pack::capacity;
use crate::placement::problem::{Amounts, KINDS, Problem, fits, missing, parts, sum};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Most sizes of vnodes that are looked at one by one, the largest.
const MAX_SIZES: usize = 8;

/// What a set comes to, or one pnode alone. Amounts are so small that sums of all pnodes do not overflow
/// ([`MAX_AMOUNT`](crate::placement::problem::MAX_AMOUNT)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Room as far as it is of use.
    pub have: Amounts,
    /// So many vnodes fit if all are as large as the largest.
    pub sure: u64,
    /// So many vnodes fit if all are as small as the smallest.
    pub most: u64,
    /// Sum of the distances between its pnodes, there and back.
    pub distance: u64,
    /// vCPUs claimed there.
    pub claimed: u64,
    /// Free memory there.
    pub free: u64,
    /// A number that stands for the set.
    pub mark: u64,
}

impl Totals {
    /// Of no pnode.
    pub const NONE: Self =
        Self { have: [0; KINDS], sure: 0, most: 0, distance: 0, claimed: 0, free: 0, mark: 1 };

    /// With a pnode that is `away` from all of the set.
    pub fn with(&self, one: &Self, away: u64) -> Self {
        Self {
            have: std::array::from_fn(|kind| self.have[kind] + one.have[kind]),
            sure: self.sure + one.sure,
            most: self.most + one.most,
            distance: self.distance + away,
            claimed: self.claimed + one.claimed,
            free: self.free + one.free,
            mark: self.mark ^ one.mark,
        }
    }

    /// Without a pnode of the set that is `away` from all others.
    pub fn without(&self, one: &Self, away: u64) -> Self {
        Self {
            have: std::array::from_fn(|kind| self.have[kind] - one.have[kind]),
            sure: self.sure - one.sure,
            most: self.most - one.most,
            distance: self.distance - away,
            claimed: self.claimed - one.claimed,
            free: self.free - one.free,
            mark: self.mark ^ one.mark,
        }
    }

    /// What decides between sets with as many pnodes.
    pub fn figures(&self) -> Figures {
        (self.distance, self.claimed, Reverse(self.free))
    }
}

/// All pnodes as far as the vnodes can use them.
pub struct Stock {
    /// What all vnodes take.
    pub need: Amounts,
    /// How many vnodes.
    pub count: u64,
    /// Usable room by position.
    pub rooms: Vec<Amounts>,
    /// What each pnode comes to alone.
    pub each: Vec<Totals>,
    /// A small number for each pnode; pnodes with as much usable room have the same.
    pub classes: Vec<u16>,
    /// Room by class.
    pub of_class: Vec<Amounts>,
}

impl Stock {
    /// Looks at each pnode once.
    pub fn new(problem: &Problem, split: bool) -> Self {
        let rooms = problem.usable_rooms(split);
        let count = problem.items.len() as u64;
        let of_items = |pick: fn(u64, u64) -> u64| {
            let of = |kind: usize| problem.items.iter().map(|item| item[kind]).reduce(pick).unwrap_or(0);
            std::array::from_fn(of)
        };
        let (least, largest): (Amounts, Amounts) = (of_items(u64::min), of_items(u64::max));
        let one = |(at, (bin, room)): (usize, (_, &Amounts))| {
            let bin: &crate::placement::problem::Bin = bin;
            Totals {
                have: *room,
                sure: capacity(room, &largest).min(count),
                most: capacity(room, &least).min(count),
                distance: 0,
                claimed: bin.claimed,
                free: bin.free,
                mark: mix(at as u64),
            }
        };
        let each = problem.bins.iter().zip(&rooms).enumerate().map(one).collect();
        let mut known: BTreeMap<Amounts, u16> = BTreeMap::new();
        let mut of_class = Vec::new();
        let mut class = |room: &Amounts| {
            *known.entry(*room).or_insert_with(|| {
                of_class.push(*room);
                u16::try_from(of_class.len() - 1).unwrap_or(u16::MAX)
            })
        };
        let classes = rooms.iter().map(&mut class).collect();
        Self { need: problem.need(), count, rooms, each, classes, of_class }
    }

    /// Whether all pnodes together have too little, whatever is chosen: in sum, or for the vnodes that are as large as
    /// some size or larger, if all were of that size.
    pub fn is_short(&self, problem: &Problem, split: bool) -> bool {
        let short = |size: &Amounts| {
            let larger = problem.items.iter().filter(|item| fits(size, item)).count() as u64;
            self.rooms.iter().map(|room| capacity(room, size).min(larger)).sum::<u64>() < larger
        };
        let sizes: BTreeSet<&Amounts> = problem.items.iter().collect();
        missing(&self.need, &sum(&self.rooms)) != [0; KINDS]
            || (!split && sizes.into_iter().rev().take(MAX_SIZES).any(short))
    }

    /// How much of what is missing a pnode adds, all kinds together, to be compared.
    pub fn gain(&self, bin: usize, short: &Amounts) -> u64 {
        let kinds = (0..KINDS).filter(|kind| short[*kind] > 0);
        let of = |kind: usize| parts(self.rooms[bin][kind].min(short[kind]), self.need[kind]);
        kinds.map(of).fold(0, u64::saturating_add)
    }

    /// Whether a pnode is of use at all.
    pub fn helps(&self, problem: &Problem, bin: usize, split: bool) -> bool {
        match split {
            true => self.rooms[bin] != [0; KINDS],
            false => {
                self.each[bin].most > 0
                    && (self.each[bin].sure > 0
                        || problem.items.iter().any(|item| fits(item, &self.rooms[bin])))
            }
        }
    }

    /// Fewer of `others` than this have too little of some kind for `start`, however large.
    pub fn fewest(&self, start: &Totals, others: &[usize], split: bool) -> usize {
        let first_enough = |mut amounts: Vec<u64>, short: u64| {
            amounts.sort_unstable_by_key(|amount| Reverse(*amount));
            let sums = amounts.iter().scan(0u64, |have, amount| {
                *have += amount;
                Some(*have)
            });
            // Of the sums of the largest 0, 1, 2 ... the first that is enough.
            std::iter::once(0).chain(sums).position(|have| have >= short).unwrap_or(usize::MAX)
        };
        let short = missing(&self.need, &start.have);
        let of = |kind: usize| {
            first_enough(others.iter().map(|bin| self.rooms[*bin][kind]).collect(), short[kind])
        };
        let vnodes = match split {
            true => 0,
            false => {
                let most = others.iter().map(|bin| self.each[*bin].most).collect();
                first_enough(most, self.count.saturating_sub(start.most))
            }
        };
        (0..KINDS).map(of).max().unwrap_or(0).max(vnodes)
    }
}
