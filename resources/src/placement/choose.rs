//! Which pnodes a VM gets under `auto`: the exact objective, searched by branch and bound. Which vnode then lies on
//! which of them is `lay`'s business.
//!
//! Choosing k of n nodes with the least sum of distances is NP-hard, so an exact answer can take time that is
//! exponential in n. What keeps the search small on hosts as they are built: nodes of one socket have the same
//! distances to all others, and of two such nodes the better one always comes first (`better`); bounds on distance,
//! claims, memory and ids cut whole branches off. For hosts where that is not enough the search is bounded
//! (`MAX_WORK`): it then keeps the best set that it saw, and says so.

mod seed;

use crate::placement::pack::{Packing, pack};
use crate::placement::problem::{Amounts, KINDS, Problem, fits, missing, sum};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Most work of one search, in pnodes looked at; some 10 ms.
pub const MAX_WORK: u64 = 2_000_000;
/// What a packing is counted as, in the same unit.
const PACKING_WORK: u64 = 200;

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

/// The best set of pnodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The best.
    pub best: Key,
    /// The next best that was seen.
    pub next: Option<Key>,
    /// Sets of this size that were looked at and in which the VM fits.
    pub candidates: u64,
    /// Whether nothing better can exist.
    pub complete: bool,
}

/// No set will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nowhere {
    /// Whether that is certain.
    pub complete: bool,
}

/// The best of the smallest sets of pnodes in which the vnodes fit: whole, or with `split` spread as one likes.
pub fn choose(problem: &Problem, split: bool) -> Result<Choice, Nowhere> {
    let mut search = Search::new(problem, split);
    let most = if split { problem.bins.len() } else { problem.items.len() };
    for more in search.fewest()..=most.min(search.others.len()) {
        search.choose(more);
        if let Some(best) = search.best.take() {
            let (next, candidates) = (search.next.take(), search.fitting.len() as u64);
            return Ok(Choice { best, next, candidates, complete: search.complete });
        }
    }
    Err(Nowhere { complete: search.complete })
}

struct Search<'a> {
    problem: &'a Problem,
    split: bool,
    need: Amounts,
    /// Usable room by position.
    rooms: Vec<Amounts>,
    /// Pnodes that could be added, the better first where distances are the same.
    others: Vec<usize>,
    /// For each of `others` those before it that are as near to everything and better: without them it is no use.
    better: Vec<Vec<usize>>,
    /// For each of `others` the rest of them, the nearest first.
    near: Vec<Vec<usize>>,
    best: Option<Key>,
    next: Option<Key>,
    fitting: BTreeSet<Vec<usize>>,
    packed: BTreeMap<Vec<Amounts>, bool>,
    work: u64,
    complete: bool,
}

/// A set being put together, and what it comes to so far.
#[derive(Clone)]
struct Part {
    /// By position in `others`.
    taken: Vec<bool>,
    set: Vec<usize>,
    have: Amounts,
    distance: u64,
    claimed: u64,
    free: u64,
    /// Distance of each of `others` to all of the set.
    away: Vec<u64>,
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem, split: bool) -> Self {
        let rooms = problem.usable_rooms(split);
        let helps = |bin: &usize| match split {
            true => rooms[*bin] != [0; KINDS],
            false => problem.items.iter().any(|item| fits(item, &rooms[*bin])),
        };
        let mut others: Vec<usize> =
            (0..problem.bins.len()).filter(|bin| !problem.given.contains(bin)).filter(helps).collect();
        let rank = |bin: usize| (problem.bins[bin].claimed, Reverse(problem.bins[bin].free), bin);
        others.sort_by_key(|bin| rank(*bin));
        let kinds = kinds(&problem.pairs, &others);
        let mut all_better = Vec::with_capacity(others.len());
        for kind in &kinds {
            let first = all_better.len();
            all_better.extend(better(&rooms, kind, first));
        }
        let others: Vec<usize> = kinds.into_iter().flatten().collect();
        let near = |at: usize| {
            let mut row: Vec<usize> = (0..others.len()).filter(|other| *other != at).collect();
            row.sort_by_key(|other| problem.pairs[others[at]][others[*other]]);
            row
        };
        Self {
            problem,
            split,
            need: problem.need(),
            better: all_better,
            near: (0..others.len()).map(near).collect(),
            rooms,
            others,
            best: None,
            next: None,
            fitting: BTreeSet::new(),
            packed: BTreeMap::new(),
            work: 0,
            complete: true,
        }
    }

    /// The given pnodes alone.
    fn start(&self) -> Part {
        let given = &self.problem.given;
        let between =
            |a: &usize| given.iter().filter(|b| *b != a).map(|b| self.problem.pairs[*a][*b]).sum::<u64>();
        Part {
            taken: vec![false; self.others.len()],
            set: given.clone(),
            have: sum(given.iter().map(|bin| &self.rooms[*bin])),
            distance: given.iter().map(between).sum::<u64>() / 2,
            claimed: given.iter().map(|bin| self.problem.bins[*bin].claimed).sum(),
            free: given.iter().map(|bin| self.problem.bins[*bin].free).fold(0, u64::saturating_add),
            away: self
                .others
                .iter()
                .map(|other| given.iter().map(|bin| self.problem.pairs[*other][*bin]).sum())
                .collect(),
        }
    }

    fn with(&self, part: &Part, at: usize) -> Part {
        let bin = self.others[at];
        let mut part = part.clone();
        part.taken[at] = true;
        part.set.push(bin);
        part.have = sum([&part.have, &self.rooms[bin]]);
        part.distance += part.away[at];
        part.claimed = part.claimed.saturating_add(self.problem.bins[bin].claimed);
        part.free = part.free.saturating_add(self.problem.bins[bin].free);
        let row = &self.problem.pairs[bin];
        part.away.iter_mut().zip(&self.others).for_each(|(away, other)| *away += row[*other]);
        part
    }

    /// Fewer pnodes than this beside the given ones have too little of some kind, however large.
    fn fewest(&self) -> usize {
        let short = missing(&self.need, &self.start().have);
        let of = |kind: usize| {
            let mut rooms: Vec<u64> = self.others.iter().map(|bin| self.rooms[*bin][kind]).collect();
            rooms.sort_unstable_by_key(|room| Reverse(*room));
            let sums = rooms.iter().scan(0u64, |have, room| {
                *have = have.saturating_add(*room);
                Some(*have)
            });
            // Of the sums of the largest 0, 1, 2 ... the first that is enough.
            std::iter::once(0).chain(sums).position(|have| have >= short[kind]).unwrap_or(usize::MAX)
        };
        (0..KINDS).map(of).max().unwrap_or(0)
    }

    /// Looks for the best set of the given pnodes and `more` others.
    fn choose(&mut self, more: usize) {
        let start = self.start();
        self.seed(&start, more);
        self.extend(&start, 0, more);
        self.look_around();
    }

    fn extend(&mut self, part: &Part, mut from: usize, more: usize) {
        if more == 0 {
            return self.consider(part);
        }
        loop {
            if self.work > MAX_WORK {
                self.complete = false;
                return;
            }
            let pool = self.pool(part, from);
            self.work += (pool.len() * more.max(4)) as u64 + 1;
            if pool.len() < more || !self.may_fit(part, &pool, more) || !self.may_win(part, &pool, more) {
                return;
            }
            // The first of the pool has no better one undecided before it: it is in the set, or it is not.
            let at = pool[0];
            self.extend(&self.with(part, at), at + 1, more - 1);
            from = at + 1;
        }
    }

    /// Which of those from `from` on can still be added: none whose better one was left out.
    fn pool(&self, part: &Part, from: usize) -> Vec<usize> {
        let mut open = part.taken.clone();
        for at in from..open.len() {
            open[at] = self.better[at].iter().all(|p| open[*p]);
        }
        (from..open.len()).filter(|at| open[*at]).collect()
    }

    /// Whether the largest of the pool are enough.
    fn may_fit(&self, part: &Part, pool: &[usize], more: usize) -> bool {
        let short = missing(&self.need, &part.have);
        (0..KINDS).filter(|kind| short[*kind] > 0).all(|kind| {
            let rooms = pool.iter().map(|at| Reverse(self.rooms[self.others[*at]][kind]));
            least(rooms, more).iter().fold(0, |sum: u64, room| sum.saturating_add(room.0)) >= short[kind]
        })
    }

    /// Whether any completion could be better than the best so far.
    fn may_win(&self, part: &Part, pool: &[usize], more: usize) -> bool {
        let Some(best) = &self.best else { return true };
        // A pnode that is added is as far from the set as it is, and has at best the nearest of the pool for company;
        // each pair among the added ones is counted from both sides.
        let mut open = vec![false; self.others.len()];
        pool.iter().for_each(|at| open[*at] = true);
        let company = |at: usize| {
            let nearest = self.near[at].iter().filter(|other| open[**other]).take(more - 1);
            let row = &self.problem.pairs[self.others[at]];
            nearest.map(|other| row[self.others[*other]]).sum::<u64>()
        };
        let added: u64 = least(pool.iter().map(|at| 2 * part.away[*at] + company(*at)), more).iter().sum();
        let distance = part.distance + added.div_ceil(2);
        if distance != best.distance {
            return distance < best.distance;
        }
        let bins = &self.problem.bins;
        let claimed = least(pool.iter().map(|at| bins[self.others[*at]].claimed), more);
        let claimed = claimed.iter().fold(part.claimed, |sum, more| sum.saturating_add(*more));
        if claimed != best.claimed {
            return claimed < best.claimed;
        }
        let free = least(pool.iter().map(|at| Reverse(bins[self.others[*at]].free)), more);
        let free = free.iter().fold(part.free, |sum, more| sum.saturating_add(more.0));
        if free != best.free.0 {
            return free > best.free.0;
        }
        let mut set = least(pool.iter().map(|at| self.others[*at]), more);
        set.extend(&part.set);
        set.sort_unstable();
        set < best.set
    }

    /// What a whole set comes to.
    fn key(&self, mut set: Vec<usize>) -> Key {
        set.sort_unstable();
        let pairs = set.iter().enumerate().flat_map(|(i, a)| set[..i].iter().map(move |b| (*a, *b)));
        let bins = || set.iter().map(|bin| &self.problem.bins[*bin]);
        Key {
            distance: pairs.map(|(a, b)| self.problem.pairs[a][b]).sum(),
            claimed: bins().fold(0, |sum, bin| sum.saturating_add(bin.claimed)),
            free: Reverse(bins().fold(0, |sum, bin| sum.saturating_add(bin.free))),
            set,
        }
    }

    fn consider(&mut self, part: &Part) {
        let mut set = part.set.clone();
        set.sort_unstable();
        let (distance, claimed, free) = (part.distance, part.claimed, Reverse(part.free));
        self.consider_key(Key { distance, claimed, free, set });
    }

    /// A whole set: whether it is better than what was seen, and whether the VM fits.
    fn consider_key(&mut self, key: Key) {
        let seen = |known: &Option<Key>| known.as_ref() == Some(&key);
        if seen(&self.best) || seen(&self.next) || !self.fits(&key.set) {
            return;
        }
        self.fitting.insert(key.set.clone());
        if self.best.as_ref().is_none_or(|best| key < *best) {
            self.next = self.best.replace(key);
        } else if self.next.as_ref().is_none_or(|next| key < *next) {
            self.next = Some(key);
        }
    }

    fn fits(&mut self, set: &[usize]) -> bool {
        let mut rooms: Vec<Amounts> = set.iter().map(|bin| self.rooms[*bin]).collect();
        if missing(&self.need, &sum(&rooms)) != [0; KINDS] {
            return false;
        }
        if self.split {
            return true;
        }
        rooms.sort_unstable();
        if let Some(known) = self.packed.get(&rooms) {
            return *known;
        }
        self.work += PACKING_WORK;
        let fits = match pack(&rooms, &self.problem.items) {
            Packing::Fits(_) => true,
            Packing::Not => false,
            Packing::Unknown => {
                self.work += PACKING_WORK * 100;
                self.complete = false;
                false
            }
        };
        self.packed.insert(rooms, fits);
        fits
    }
}

/// The same pnodes grouped by kind: those of a kind have the same distances to all others. Kinds come in the order of
/// their first.
fn kinds(pairs: &[Vec<u64>], others: &[usize]) -> Vec<Vec<usize>> {
    let same = |a: usize, b: usize| {
        pairs[a].iter().zip(&pairs[b]).enumerate().all(|(x, (to_a, to_b))| x == a || x == b || to_a == to_b)
    };
    let mut kinds: Vec<Vec<usize>> = Vec::new();
    for bin in others {
        match kinds.iter_mut().find(|kind| same(kind[0], *bin)) {
            Some(kind) => kind.push(*bin),
            None => kinds.push(vec![*bin]),
        }
    }
    kinds
}

/// For each pnode of a kind those before it that have no less room: exchanged for one of them it only makes a set
/// better. Those that are better than one of these go without saying.
fn better(rooms: &[Amounts], kind: &[usize], first: usize) -> Vec<Vec<usize>> {
    let of = |at: usize| {
        let mut nearest: Vec<usize> = Vec::new();
        for before in (0..at).rev() {
            let room = &rooms[kind[before]];
            if fits(&rooms[kind[at]], room) && !nearest.iter().any(|n| fits(&rooms[kind[*n]], room)) {
                nearest.push(before);
            }
        }
        nearest.into_iter().map(|before| first + before).collect()
    };
    (0..kind.len()).map(of).collect()
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
