//! Sets of pnodes found greedily, one vnode after the other: a lower bound for the result of the search, whatever the
//! budget.

use crate::placement::budget::Budget;
use crate::placement::choose::stock::{Stock, Totals};
use crate::placement::greedy::{self, Rule};
use crate::placement::pack::{Packing, largest_first, pack};
use crate::placement::problem::{Amounts, KINDS, Problem, fits, missing, take};
use std::cmp::Reverse;

/// Most work on packing when greedy finds nothing.
const PACK_WORK: u64 = 1_000_000;

/// A set in which the VM fits.
pub struct Known {
    /// The set, ascending by position.
    pub set: Vec<usize>,
    /// The pnode of each whole vnode.
    pub at: Vec<usize>,
}

/// The sets that are found; if none is, none may exist, or it takes a search.
pub fn find(problem: &Problem, stock: &Stock, split: bool, budget: &Budget) -> Vec<Known> {
    if split {
        return Vec::from_iter(cover(problem, stock, budget));
    }
    budget.spend((3 * problem.items.len() * problem.bins.len()) as u64);
    let each = [Rule::First, Rule::Best].map(|rule| greedy::each(problem, rule).ok());
    let found = each.into_iter().chain([into_the_largest(problem, stock)]).flatten();
    let known: Vec<Known> = found.map(|at| known(problem, at)).collect();
    if !known.is_empty() {
        return known;
    }
    match pack(&stock.rooms, &problem.items, &budget.allow(PACK_WORK)) {
        Packing::Fits(at) => vec![self::known(problem, at)],
        Packing::Not | Packing::Unknown => vec![],
    }
}

fn known(problem: &Problem, at: Vec<usize>) -> Known {
    let mut set: Vec<usize> = problem.given.iter().chain(&at).copied().collect();
    set.sort_unstable();
    set.dedup();
    Known { set, at }
}

/// The largest vnode first, on the first pnode that has room: the given ones, then those that hold most.
fn into_the_largest(problem: &Problem, stock: &Stock) -> Option<Vec<usize>> {
    let mut bins: Vec<usize> = (0..problem.bins.len()).collect();
    let rank = |bin: usize| {
        let one = &stock.each[bin];
        (
            problem.given.binary_search(&bin).is_err(),
            Reverse((one.sure, one.most)),
            Reverse(stock.rooms[bin]),
            bin,
        )
    };
    bins.sort_by_cached_key(|bin| rank(*bin));
    let mut left: Vec<Amounts> = bins.iter().map(|bin| problem.bins[*bin].room).collect();
    let mut at = vec![0; problem.items.len()];
    for item in largest_first(&problem.items, &stock.need) {
        let need = &problem.items[item];
        let place = left.iter().position(|room| fits(need, room))?;
        take(&mut left[place], need);
        at[item] = bins[place];
    }
    Some(at)
}

/// Enough pnodes for vnodes in pieces: one after the other the one that adds most of what is missing.
fn cover(problem: &Problem, stock: &Stock, budget: &Budget) -> Option<Known> {
    let mut set = problem.given.clone();
    let mut have = set.iter().fold(Totals::NONE, |sum, bin| sum.with(&stock.each[*bin], 0)).have;
    let mut rest: Vec<usize> = (0..problem.bins.len()).filter(|bin| !set.contains(bin)).collect();
    loop {
        let short = missing(&stock.need, &have);
        if short == [0; KINDS] {
            set.sort_unstable();
            return Some(Known { set, at: vec![] });
        }
        budget.spend(2 * rest.len() as u64);
        let gain = |bin: usize| stock.gain(bin, &short);
        let place = (0..rest.len()).max_by_key(|place| (gain(rest[*place]), Reverse(rest[*place])))?;
        let bin = rest.swap_remove(place);
        have = std::array::from_fn(|kind| have[kind] + stock.rooms[bin][kind]);
        set.push(bin);
    }
}
