//! Which vnode lies on which of the chosen pnodes: big guest distances on big host distances. That is a quadratic
//! assignment, NP-hard: the search below is exact for what people type, and bounded ([`MAX_WORK`]) for what they do
//! not; past the bound the answer is the best that exchanges of two vnodes could find.

use crate::placement::problem::{Amounts, KINDS, fits, missing, sum, take};

/// Most work of one search, in distances looked at; some 10 ms.
const MAX_WORK: u64 = 5_000_000;

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
    pub fn lay(&self, at: Vec<usize>, keep: bool) -> Laid {
        let flat = self.flat();
        if flat && keep {
            return Laid { at, complete: true };
        }
        let start = if flat { at } else { self.exchange(at) };
        let score = self.score(&start);
        let most = self.distances.iter().flatten().copied().max().unwrap_or(0);
        let rest = (0..=self.items.len())
            .map(|from| self.weights.iter().skip(from).flat_map(|row| row.iter().skip(from)).sum());
        let rest = rest.collect();
        let mut search = Search {
            layout: self,
            flat,
            keep,
            best: start,
            score,
            most,
            rest,
            work: 0,
            complete: true,
            done: false,
        };
        let gains = self.fixed.clone();
        search.place(&mut Vec::new(), 0, &mut self.rooms.clone(), &gains);
        Laid { at: search.best, complete: search.complete }
    }

    /// Exchanges two vnodes, or moves one, as long as that makes it better.
    fn exchange(&self, mut at: Vec<usize>) -> Vec<usize> {
        let count = at.len();
        let mut left = self.rooms.clone();
        at.iter().zip(&self.items).for_each(|(bin, item)| take(&mut left[*bin], item));
        let (mut better, mut work) = (true, 0);
        while better && work < MAX_WORK / 4 {
            better = false;
            for a in 0..count {
                for bin in 0..self.rooms.len() {
                    work += count as u64;
                    if bin != at[a]
                        && fits(&self.items[a], &left[bin])
                        && self.gain(&at, a, bin) > self.gain(&at, a, at[a])
                    {
                        left[at[a]] = sum([&left[at[a]], &self.items[a]]);
                        take(&mut left[bin], &self.items[a]);
                        at[a] = bin;
                        better = true;
                    }
                }
                for b in a + 1..count {
                    work += 4 * count as u64;
                    if at[a] == at[b] || !self.may_exchange(&left, &at, a, b) {
                        continue;
                    }
                    let before =
                        self.gain(&at, a, at[a]) + self.gain(&at, b, at[b]) - self.between(&at, a, b);
                    at.swap(a, b);
                    let after = self.gain(&at, a, at[a]) + self.gain(&at, b, at[b]) - self.between(&at, a, b);
                    if after > before {
                        for (item, bin, other) in [(a, at[a], b), (b, at[b], a)] {
                            left[bin] = sum([&left[bin], &self.items[other]]);
                            take(&mut left[bin], &self.items[item]);
                        }
                        better = true;
                    } else {
                        at.swap(a, b);
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

    fn between(&self, at: &[usize], a: usize, b: usize) -> u64 {
        self.weights[a][b] * self.distances[at[a]][at[b]] + self.weights[b][a] * self.distances[at[b]][at[a]]
    }

    /// What a vnode adds to the score on a pnode, all others where they are.
    fn gain(&self, at: &[usize], item: usize, bin: usize) -> u64 {
        let others = at.iter().enumerate().filter(|(other, _)| *other != item);
        self.fixed[item][bin]
            + others
                .map(|(other, there)| {
                    self.weights[item][other] * self.distances[bin][*there]
                        + self.weights[other][item] * self.distances[*there][bin]
                })
                .sum::<u64>()
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
    work: u64,
    complete: bool,
    done: bool,
}

impl Search<'_> {
    /// Lays the vnodes after those in `at`, which come to `score`; `gains` is what each of the rest would add on each
    /// pnode to what lies already.
    fn place(&mut self, at: &mut Vec<usize>, score: u64, left: &mut [Amounts], gains: &[Vec<u64>]) {
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
        self.work += if self.flat { 1 } else { ((self.layout.items.len() - item) * left.len()) as u64 }
            + left.len() as u64;
        if self.work > MAX_WORK {
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
            if self.flat {
                self.place(at, score, left, gains);
            } else {
                let added = gains[item][bin];
                let gains = self.after(gains, item, bin);
                self.place(at, score + added, left, &gains);
            }
            at.pop();
            left[bin] = room;
        }
    }

    /// The gains once `item` lies on `bin`.
    fn after(&self, gains: &[Vec<u64>], item: usize, bin: usize) -> Vec<Vec<u64>> {
        let layout = self.layout;
        let mut gains = gains.to_vec();
        for (other, row) in gains.iter_mut().enumerate().skip(item + 1) {
            for (there, gain) in row.iter_mut().enumerate() {
                *gain += layout.weights[item][other] * layout.distances[bin][there]
                    + layout.weights[other][item] * layout.distances[there][bin];
            }
        }
        gains
    }

    /// Whether any completion could be better than the best so far: each vnode where it adds most to those that lie,
    /// and all others as far apart as any pnodes are.
    fn may_win(&self, at: &[usize], score: u64, gains: &[Vec<u64>]) -> bool {
        let own: u64 = gains[at.len()..].iter().map(|row| row.iter().copied().max().unwrap_or(0)).sum();
        let most = score + own + self.rest[at.len()] * self.most;
        most > self.score || (most == self.score && !self.keep && *at <= self.best[..at.len()])
    }
}

#[cfg(test)]
mod tests;
