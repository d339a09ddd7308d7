//! Assignment of vnodes to the chosen pnodes: large guest distances on large host distances. This is a quadratic
//! assignment problem, NP-hard: the search is exact for common sizes and bounded for others; beyond the bound, the
//! result is the best that exchanges of two vnodes find.

use crate::placement::budget::{Allowance, Budget};
use crate::placement::problem::{Amounts, KINDS, fits, missing, sum, take};

/// Most work of branch and bound, in distances looked at; some 10 ms.
const SEARCH_WORK: u64 = 5_000_000;
/// Most work of exchanges before it.
const EXCHANGE_WORK: u64 = 3_000_000;
/// Distances in a row that are one unit of work.
const PER_WORK: u64 = 4;

/// What is to be laid.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What each vnode takes.
    pub items: Vec<Amounts>,
    /// Room of each chosen pnode.
    pub rooms: Vec<Amounts>,
    /// How much it counts that two vnodes are far apart, from row to column; nothing for the nearest.
    pub weights: Vec<Vec<u64>>,
    /// Distances of the pnodes, from row to column.
    pub distances: Vec<Vec<u64>>,
    /// What it counts that a vnode lies on a pnode, for the vnodes that lie elsewhere already.
    pub fixed: Vec<Vec<u64>>,
}

/// Where the vnodes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// The pnode of each vnode, as a position in `rooms`.
    pub at: Vec<usize>,
    /// Whether nothing better can exist.
    pub complete: bool,
}

impl Layout {
    /// What a layout comes to: the sum over pairs of vnodes of weight times distance.
    pub fn score(&self, at: &[usize]) -> u64 {
        let own: u64 = at.iter().enumerate().map(|(item, bin)| self.fixed[item][*bin]).sum();
        let pair = |a: usize, b: usize| self.weights[a][b] * self.distances[at[a]][at[b]];
        let pairs =
            (0..at.len()).flat_map(|a| (0..at.len()).filter(move |b| *b != a).map(move |b| pair(a, b)));
        own + pairs.sum::<u64>()
    }

    fn flat(&self) -> bool {
        self.weights.iter().chain(&self.fixed).flatten().all(|weight| *weight == 0)
    }

    /// The layout with the highest score; of equals the one whose first vnode lies lowest, then the second, and so
    /// on. `at` is one that fits; with `keep` it wins over its equals.
    pub fn lay(&self, at: Vec<usize>, keep: bool, budget: &Budget) -> Laid {
        let flat = self.flat();
        let (items, bins) = (self.items.len(), self.rooms.len());
        budget.spend((items * (items + bins)) as u64 / PER_WORK);
        if flat && keep {
            return Laid { at, complete: true };
        }
        let start = if flat { at } else { self.exchange(at, &budget.allow(EXCHANGE_WORK)) };
        let mut rest = vec![0; items + 1];
        for from in (0..items).rev() {
            let between = |other: usize| self.weights[from][other] + self.weights[other][from];
            rest[from] = rest[from + 1] + (from + 1..items).map(between).sum::<u64>();
        }
        let limit = budget.allow(SEARCH_WORK);
        let mut search = Search {
            layout: self,
            flat,
            keep,
            score: self.score(&start),
            best: start,
            most: self.distances.iter().flatten().copied().max().unwrap_or(0),
            rest,
            limit: &limit,
            complete: true,
            done: false,
        };
        search.place(&mut Vec::new(), 0, &mut self.rooms.clone(), &mut self.fixed.clone());
        Laid { at: search.best, complete: search.complete }
    }

    /// Exchanges two vnodes, or moves one, as long as that makes it better.
    fn exchange(&self, mut at: Vec<usize>, limit: &Allowance<'_>) -> Vec<usize> {
        let (count, bins) = (at.len(), self.rooms.len());
        let mut left = self.rooms.clone();
        at.iter().zip(&self.items).for_each(|(bin, item)| take(&mut left[*bin], item));
        // What each vnode adds on each pnode, all others where they are.
        let mut gains = self.fixed.clone();
        for (item, bin) in at.iter().enumerate() {
            if !self.come(&mut gains, item, *bin, 0, limit) {
                return at;
            }
        }
        let mut better = true;
        while better {
            better = false;
            for a in 0..count {
                if !limit.spend((bins + count) as u64) {
                    return at;
                }
                for bin in 0..bins {
                    if bin != at[a] && fits(&self.items[a], &left[bin]) && gains[a][bin] > gains[a][at[a]] {
                        left[at[a]] = sum([&left[at[a]], &self.items[a]]);
                        take(&mut left[bin], &self.items[a]);
                        self.leave(&mut gains, a, at[a]);
                        at[a] = bin;
                        better = true;
                        if !self.come(&mut gains, a, bin, 0, limit) {
                            return at;
                        }
                    }
                }
                for b in a + 1..count {
                    let (here, there) = (at[a], at[b]);
                    if here == there || !self.may_exchange(&left, &at, a, b) {
                        continue;
                    }
                    let between = |at_a: usize, at_b: usize| {
                        self.weights[a][b] * self.distances[at_a][at_b]
                            + self.weights[b][a] * self.distances[at_b][at_a]
                    };
                    // On the other's pnode each one's gain counts the other as if it lay there still.
                    let wins = gains[a][there] + gains[b][here] + between(there, here) + between(here, there)
                        > gains[a][here] + gains[b][there] + between(there, there) + between(here, here);
                    if wins {
                        for (item, bin, other) in [(a, there, b), (b, here, a)] {
                            left[bin] = sum([&left[bin], &self.items[other]]);
                            take(&mut left[bin], &self.items[item]);
                        }
                        self.leave(&mut gains, a, here);
                        self.leave(&mut gains, b, there);
                        at.swap(a, b);
                        better = true;
                        let came = self.come(&mut gains, a, there, 0, limit);
                        if !came || !self.come(&mut gains, b, here, 0, limit) {
                            return at;
                        }
                    }
                }
            }
        }
        at
    }

    fn may_exchange(&self, left: &[Amounts], at: &[usize], a: usize, b: usize) -> bool {
        let without = |item: usize| sum([&left[at[item]], &self.items[item]]);
        fits(&self.items[b], &without(a)) && fits(&self.items[a], &without(b))
    }

    /// Adds to the gains of the vnodes from `from` on what comes of `item` lying on `bin`; false when out of work.
    fn come(
        &self,
        gains: &mut [Vec<u64>],
        item: usize,
        bin: usize,
        from: usize,
        limit: &Allowance<'_>,
    ) -> bool {
        let changed = self.for_each_gain(gains, item, bin, from, |gain, part| *gain += part);
        limit.spend((gains.len() + changed * self.rooms.len()) as u64 / PER_WORK)
    }

    /// The contrary.
    fn leave(&self, gains: &mut [Vec<u64>], item: usize, bin: usize) {
        self.for_each_gain(gains, item, bin, 0, |gain, part| *gain -= part);
    }

    /// How many vnodes it concerns.
    fn for_each_gain(
        &self,
        gains: &mut [Vec<u64>],
        item: usize,
        bin: usize,
        from: usize,
        change: impl Fn(&mut u64, u64),
    ) -> usize {
        let mut changed = 0;
        for (other, row) in gains.iter_mut().enumerate().skip(from).filter(|(other, _)| *other != item) {
            let (there, back) = (self.weights[item][other], self.weights[other][item]);
            if there == 0 && back == 0 {
                continue;
            }
            changed += 1;
            for (place, gain) in row.iter_mut().enumerate() {
                change(gain, there * self.distances[bin][place] + back * self.distances[place][bin]);
            }
        }
        changed
    }
}

struct Search<'a> {
    layout: &'a Layout,
    flat: bool,
    keep: bool,
    best: Vec<usize>,
    score: u64,
    /// The largest distance.
    most: u64,
    /// All weights between the vnodes from each on.
    rest: Vec<u64>,
    limit: &'a Allowance<'a>,
    complete: bool,
    done: bool,
}

impl Search<'_> {
    /// Lays the vnodes after those in `at`, which come to `score`; `gains` is what each of the rest would add on each
    /// pnode to what lies already.
    fn place(&mut self, at: &mut Vec<usize>, score: u64, left: &mut [Amounts], gains: &mut [Vec<u64>]) {
        let item = at.len();
        if item == self.layout.items.len() {
            let wins = score > self.score || (score == self.score && !self.keep && *at < self.best);
            if wins {
                (self.best, self.score) = (at.clone(), score);
            }
            // Without weights the first that fits is the lowest.
            self.done = self.flat;
            return;
        }
        let ahead = self.layout.items.len() - item;
        let work = if self.flat { ahead } else { ahead * left.len() } + left.len();
        if !self.limit.spend(work as u64) {
            self.complete = false;
            return;
        }
        let rest = sum(&self.layout.items[item..]);
        if missing(&rest, &sum(left.iter())) != [0; KINDS] || !self.may_win(at, score, gains) {
            return;
        }
        let need = self.layout.items[item];
        for bin in 0..left.len() {
            if self.done || !self.complete {
                return;
            }
            if !fits(&need, &left[bin]) {
                continue;
            }
            let room = left[bin];
            take(&mut left[bin], &need);
            at.push(bin);
            let added = gains[item][bin];
            if !self.flat {
                self.layout.for_each_gain(gains, item, bin, item + 1, |gain, part| *gain += part);
            }
            self.place(at, score + added, left, gains);
            if !self.flat {
                self.layout.for_each_gain(gains, item, bin, item + 1, |gain, part| *gain -= part);
            }
            at.pop();
            left[bin] = room;
        }
    }

    /// Whether any completion could be better than the best so far: each vnode where it adds most to those that lie,
    /// and all others as far apart as any pnodes are.
    fn may_win(&self, at: &[usize], score: u64, gains: &[Vec<u64>]) -> bool {
        if self.flat {
            return score > self.score || (!self.keep && *at <= self.best[..at.len()]);
        }
        let own: u64 = gains[at.len()..].iter().map(|row| row.iter().copied().max().unwrap_or(0)).sum();
        let most = score + own + self.rest[at.len()] * self.most;
        most > self.score || (most == self.score && !self.keep && *at <= self.best[..at.len()])
    }
}

#[cfg(test)]
mod tests;
