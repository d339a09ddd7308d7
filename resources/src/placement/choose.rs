//! Which pnodes a VM gets under `auto`: the exact objective, searched by branch and bound. Which vnode then lies on
//! which of them is `lay`'s business.
//!
//! Choosing k of n nodes with the least sum of distances is NP-hard, so an exact answer can take time that is
//! exponential in n. What keeps the search small on hosts as they are built: nodes of one socket have the same
//! distances to all others, and of two such nodes the better one always comes first (`alike`); bounds on distance,
//! claims, memory and ids cut whole branches off. For hosts where that is not enough the search is bounded: it then
//! keeps the best set that it saw, which is no worse than what one vnode after the other would have found, and says so.

mod alike;
mod greedy_sets;
mod part;
mod seed;
mod stock;

use crate::placement::budget::{Allowance, Budget};
use crate::placement::choose::alike::{Near, better, kinds};
use crate::placement::choose::greedy_sets::Known;
use crate::placement::choose::part::Part;
use crate::placement::choose::stock::{Stock, Totals};
use crate::placement::pack::{Packing, pack};
use crate::placement::problem::{Amounts, KINDS, Problem, missing};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Most work on sets that are smaller than one that is known to fit; some 10 ms.
const SMALLER_WORK: u64 = 3_000_000;
/// Most work on sets to begin with, of the size at which the search ends.
const SEED_WORK: u64 = 2_000_000;
/// Most work on the neighbours of the best.
const AROUND_WORK: u64 = 1_500_000;
/// Most work of branch and bound on sets of that size.
const EXTEND_WORK: u64 = 4_000_000;
/// Sets that are remembered, so as not to be counted twice: the last of each of so many groups.
const REMEMBERED: usize = 1 << 13;

/// What decides between sets with as many pnodes, but for their order: distance, vCPUs claimed, free memory.
pub type Figures = (u64, u64, Reverse<u64>);

/// What makes one set of pnodes better than another of the same size: less of the first field in which they differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Sum of the distances between its pnodes, there and back.
    pub distance: u64,
    /// vCPUs claimed there.
    pub claimed: u64,
    /// Free memory there.
    pub free: Reverse<u64>,
    /// The set, ascending by position.
    pub set: Vec<usize>,
}

impl Key {
    /// What a set comes to.
    pub fn of(problem: &Problem, set: &[usize]) -> Self {
        let bins = || set.iter().map(|bin| &problem.bins[*bin]);
        Self {
            distance: problem.pairs.within(set),
            claimed: bins().map(|bin| bin.claimed).sum(),
            free: Reverse(bins().map(|bin| bin.free).sum()),
            set: set.to_vec(),
        }
    }

    fn figures(&self) -> Figures {
        (self.distance, self.claimed, self.free)
    }
}

/// The best set of pnodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The best.
    pub best: Key,
    /// The next best that was seen.
    pub next: Option<Key>,
    /// Sets of this size that were looked at and in which the VM fits. Past some thousands, a set that is looked at
    /// again may count again.
    pub candidates: u64,
    /// Whether nothing better can exist.
    pub complete: bool,
    /// The pnode of each whole vnode, if that is known already.
    pub at: Option<Vec<usize>>,
}

/// No set will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nowhere {
    /// Whether that is certain.
    pub complete: bool,
}

/// The best of the smallest sets of pnodes in which the vnodes fit: whole, or with `split` spread as one likes.
pub fn choose(problem: &Problem, split: bool, budget: &Budget) -> Result<Choice, Nowhere> {
    let stock = Stock::new(problem, split);
    budget.spend(8 * problem.bins.len() as u64);
    if stock.is_short(problem, split) {
        return Err(Nowhere { complete: true });
    }
    let known = greedy_sets::find(problem, &stock, split, budget);
    let mut search = Search::new(problem, split, stock, budget);
    search.known = known;
    let most = if split { problem.bins.len() } else { problem.items.len() }.min(search.others.len());
    let given = problem.given.len();
    let reach = search.known.iter().map(|known| known.set.len() - given).min();
    let smaller = budget.allow(SMALLER_WORK);
    let fewest = search.stock.fewest(&search.start().totals, &search.others, split);
    for more in fewest..reach.unwrap_or(most + 1).min(most + 1) {
        if smaller.is_spent() {
            search.complete = false;
            break;
        }
        search.look_for(more, [&smaller; 3]);
        if let Some(choice) = search.choice() {
            return Ok(choice);
        }
    }
    if let Some(more) = reach {
        let works = [SEED_WORK, AROUND_WORK, EXTEND_WORK].map(|work| budget.allow(work));
        search.look_for(more, works.each_ref());
    }
    search.choice().ok_or(Nowhere { complete: search.complete })
}

struct Search<'a> {
    problem: &'a Problem,
    split: bool,
    budget: &'a Budget,
    /// What is counted in the budget for the search as a whole.
    held: u64,
    stock: Stock,
    /// Pnodes that could be added, the better first where distances are the same.
    others: Rc<[usize]>,
    /// For each of `others` those before it that are as near to everything and better: without them it is no use.
    better: Vec<Vec<u16>>,
    /// For each of `others` the rest of them, the nearest first.
    near: Near,
    best: Option<Key>,
    next: Option<Key>,
    candidates: u64,
    /// Marks of sets that fit, by their last bits.
    seen: Vec<u64>,
    /// Whether the vnodes can be packed on pnodes of these classes.
    packed: BTreeMap<Vec<u16>, bool>,
    /// Sets that are known to fit.
    known: Vec<Known>,
    complete: bool,
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        self.budget.release(self.held);
    }
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, split: bool, stock: Stock, budget: &'a Budget) -> Self {
        let may_add =
            |bin: &usize| problem.given.binary_search(bin).is_err() && stock.helps(problem, *bin, split);
        let mut others: Vec<usize> = (0..problem.bins.len()).filter(may_add).collect();
        let rank = |bin: usize| (problem.bins[bin].claimed, Reverse(problem.bins[bin].free), bin);
        others.sort_by_key(|bin| rank(*bin));
        let kinds = kinds(&problem.pairs, &others, budget);
        let mut all_better = Vec::with_capacity(others.len());
        for kind in &kinds {
            let first = all_better.len();
            all_better.extend(better(&stock.rooms, kind, first, budget));
        }
        let others: Rc<[usize]> = kinds.into_iter().flatten().collect();
        let held = problem.pairs.bytes() + Near::bytes(others.len()) + (REMEMBERED * size_of::<u64>()) as u64;
        budget.hold(held);
        budget.spend((others.len() * others.len()) as u64);
        Self {
            problem,
            split,
            budget,
            held,
            stock,
            better: all_better,
            near: Near::new(&problem.pairs, &others),
            others,
            best: None,
            next: None,
            candidates: 0,
            seen: vec![0; REMEMBERED],
            packed: BTreeMap::new(),
            known: Vec::new(),
            complete: true,
        }
    }

    /// The result so far.
    fn choice(&mut self) -> Option<Choice> {
        let (best, next) = (self.best.take()?, self.next.take());
        let at = self.known.iter().find(|known| known.set == best.set).map(|known| known.at.clone());
        Some(Choice { best, next, candidates: self.candidates, complete: self.complete, at })
    }

    /// Looks for the best set of the given pnodes and `more` others, with so much work on sets to begin with, on
    /// neighbours, and on all others.
    fn look_for(&mut self, more: usize, [seeds, around, all]: [&Allowance<'_>; 3]) {
        let size = self.problem.given.len() + more;
        let known: Vec<Vec<usize>> = self.known.iter().map(|known| known.set.clone()).collect();
        for set in known.into_iter().filter(|set| set.len() == size) {
            let totals = self.totals(&set);
            if self.is_new(&totals) {
                self.keep(&totals, &|| set.clone());
            }
        }
        let mut part = self.start();
        self.seed(&mut part, more, seeds, around);
        self.extend(&mut part, 0, more, all);
        self.look_around(around);
    }

    fn extend(&mut self, part: &mut Part, mut from: usize, more: usize, limit: &Allowance<'_>) {
        if more == 0 {
            return self.consider_part(part, limit);
        }
        loop {
            if limit.is_spent() {
                self.complete = false;
                return;
            }
            let open = self.open(part, from);
            let pool: Vec<usize> = (from..open.len()).filter(|at| open[*at]).collect();
            limit.spend((pool.len() * more.max(4) + open.len() / 4) as u64 + 1);
            if pool.len() < more
                || !self.may_fit(part, &pool, more)
                || !self.may_win(part, &pool, &open, more, limit)
            {
                return;
            }
            // The first of the pool has no better one undecided before it: it is in the set, or it is not.
            let at = pool[0];
            self.add(part, at);
            self.extend(part, at + 1, more - 1, limit);
            self.remove(part);
            from = at + 1;
        }
    }

    /// Which of those from `from` on can still be added: none whose better one was left out. Those before are as taken.
    fn open(&self, part: &Part, from: usize) -> Vec<bool> {
        let mut open = part.taken.clone();
        for at in from..open.len() {
            open[at] = self.better[at].iter().all(|p| open[usize::from(*p)]);
        }
        open
    }

    /// Whether the largest of the pool are enough.
    fn may_fit(&self, part: &Part, pool: &[usize], more: usize) -> bool {
        let enough = |of: &dyn Fn(usize) -> u64, short: u64| {
            let most = least(pool.iter().map(|at| Reverse(of(self.others[*at]))), more);
            most.iter().fold(0, |sum: u64, amount| sum.saturating_add(amount.0)) >= short
        };
        let short = missing(&self.stock.need, &part.totals.have);
        let vnodes = self.stock.count.saturating_sub(part.totals.most);
        (0..KINDS).all(|kind| short[kind] == 0 || enough(&|bin| self.stock.rooms[bin][kind], short[kind]))
            && (self.split || vnodes == 0 || enough(&|bin| self.stock.each[bin].most, vnodes))
    }

    /// Whether any completion could be better than the best so far.
    fn may_win(
        &self,
        part: &Part,
        pool: &[usize],
        open: &[bool],
        more: usize,
        limit: &Allowance<'_>,
    ) -> bool {
        let Some(best) = &self.best else { return true };
        // A pnode that is added is as far from the set as it is, and has at best the nearest of the pool for company;
        // each pair among the added ones is counted from both sides.
        let in_pool = |at: u16| open[usize::from(at)] && !part.taken[usize::from(at)];
        let company = |at: usize| {
            let row = self.problem.pairs.row(self.others[at]);
            let (mut sum, mut left) = (0, more - 1);
            let scanned = self.near.of(at).iter().take_while(|other| {
                if left > 0 && in_pool(**other) {
                    left -= 1;
                    sum += u64::from(row[self.others[usize::from(**other)]]);
                }
                left > 0
            });
            limit.spend(scanned.count() as u64 / 8);
            sum
        };
        let added = least(pool.iter().map(|at| 2 * u64::from(part.away[*at]) + company(*at)), more);
        let distance = part.totals.distance + added.iter().sum::<u64>().div_ceil(2);
        if distance != best.distance {
            return distance < best.distance;
        }
        let bins = &self.problem.bins;
        let claimed = least(pool.iter().map(|at| bins[self.others[*at]].claimed), more);
        let claimed = part.totals.claimed + claimed.iter().sum::<u64>();
        if claimed != best.claimed {
            return claimed < best.claimed;
        }
        let free = least(pool.iter().map(|at| Reverse(bins[self.others[*at]].free)), more);
        let free = part.totals.free + free.iter().map(|free| free.0).sum::<u64>();
        if free != best.free.0 {
            return free > best.free.0;
        }
        let mut set = least(pool.iter().map(|at| self.others[*at]), more);
        set.extend(self.set(part));
        set.sort_unstable();
        set < best.set
    }

    /// A whole set: counts it if the VM fits, and keeps it if it is better than what was seen.
    fn consider(&mut self, totals: &Totals, set: &dyn Fn() -> Vec<usize>, limit: &Allowance<'_>) {
        if self.is_new(totals) && self.fits(totals, set, limit) {
            self.keep(totals, set);
        }
    }

    /// Whether this set is not known to fit, as far as that is remembered.
    fn is_new(&self, totals: &Totals) -> bool {
        self.seen[slot(totals)] != totals.mark
    }

    /// A set that fits.
    fn keep(&mut self, totals: &Totals, set: &dyn Fn() -> Vec<usize>) {
        self.seen[slot(totals)] = totals.mark;
        self.candidates += 1;
        let figures = totals.figures();
        if self.next.as_ref().is_some_and(|next| figures > next.figures()) {
            return;
        }
        let mut set = set();
        set.sort_unstable();
        let (distance, claimed, free) = figures;
        let key = Key { distance, claimed, free, set };
        match &self.best {
            Some(best) if key == *best => {}
            Some(best) if key > *best => {
                if self.next.as_ref().is_none_or(|next| key < *next) {
                    self.next = Some(key);
                }
            }
            Some(_) | None => self.next = self.best.replace(key),
        }
    }

    /// Whether the VM fits on a set.
    fn fits(&mut self, totals: &Totals, set: &dyn Fn() -> Vec<usize>, limit: &Allowance<'_>) -> bool {
        if missing(&self.stock.need, &totals.have) != [0; KINDS] {
            return false;
        }
        if self.split || totals.sure >= self.stock.count {
            return true;
        }
        if totals.most < self.stock.count {
            return false;
        }
        let mut classes: Vec<u16> = set().iter().map(|bin| self.stock.classes[*bin]).collect();
        classes.sort_unstable();
        limit.spend(classes.len() as u64);
        if let Some(known) = self.packed.get(&classes) {
            return *known;
        }
        let mut rooms: Vec<Amounts> =
            classes.iter().map(|class| self.stock.of_class[usize::from(*class)]).collect();
        rooms.sort_unstable();
        let fits = match pack(&rooms, &self.problem.items, limit) {
            Packing::Fits(_) => true,
            Packing::Not => false,
            Packing::Unknown => {
                self.complete = false;
                false
            }
        };
        let bytes = (classes.len() * size_of::<u16>() + 64) as u64;
        if self.budget.try_hold(bytes) {
            self.held += bytes;
            self.packed.insert(classes, fits);
        }
        fits
    }
}

/// Where a set is remembered.
#[expect(clippy::cast_possible_truncation, reason = "the last bits are meant")]
fn slot(totals: &Totals) -> usize {
    totals.mark as usize % REMEMBERED
}

/// The `count` least, in any order.
fn least<T: Ord>(values: impl Iterator<Item = T>, count: usize) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    if count < values.len() {
        values.select_nth_unstable(count);
        values.truncate(count);
    }
    values
}

#[cfg(test)]
mod tests;
