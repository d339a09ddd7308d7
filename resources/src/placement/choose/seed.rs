//! Good initial sets, so that the search can prune early, and local improvements of the best set at its end.

use crate::placement::budget::Allowance;
use crate::placement::choose::Search;
use crate::placement::choose::part::Part;
use crate::placement::choose::stock::Totals;
use crate::placement::problem::missing;
use std::cmp::Reverse;

/// Most times that the best set is exchanged for one that differs in one pnode before the search begins.
const MAX_EXCHANGES: usize = 64;

impl Search<'_> {
    /// Looks at greedy sets and what exchanges make of them: from each pnode on, the nearest one after another; and the
    /// largest. Pnodes that have others near come first. Then at the neighbours of the best. `part` is as it was after.
    pub(super) fn seed(
        &mut self,
        part: &mut Part,
        more: usize,
        seeds: &Allowance<'_>,
        around: &Allowance<'_>,
    ) {
        if more == 0 {
            return;
        }
        self.largest(part, more, seeds);
        let company = |at: usize| {
            let row = self.problem.pairs.row(self.others[at]);
            let near = self.near.of(at).iter().take(more - 1);
            near.map(|other| u64::from(row[self.others[usize::from(*other)]])).sum::<u64>()
        };
        let mut order: Vec<usize> = (0..self.others.len()).collect();
        order.sort_by_cached_key(|at| company(*at));
        seeds.spend((order.len() * more) as u64 / 2);
        for first in order {
            if !seeds.spend(2 * (more * part.away.len()) as u64) {
                break;
            }
            self.add(part, first);
            for _ in 1..more {
                let free = (0..self.others.len()).filter(|at| !part.taken[*at]);
                if let Some(at) = free.min_by_key(|at| (part.away[*at], *at)) {
                    self.add(part, at);
                }
            }
            self.consider_part(part, seeds);
            self.descend(part, seeds);
            while !part.added.is_empty() {
                self.remove(part);
            }
        }
        // The best may be one that was known before.
        if let Some(best) = &self.best {
            let members: Vec<usize> = (0..self.others.len())
                .filter(|at| best.set.binary_search(&self.others[*at]).is_ok())
                .collect();
            members.into_iter().for_each(|at| self.add(part, at));
            self.descend(part, around);
            while !part.added.is_empty() {
                self.remove(part);
            }
        }
        for _ in 0..MAX_EXCHANGES {
            let before = self.best.clone();
            self.look_around(around);
            if self.best == before || around.is_spent() {
                break;
            }
        }
    }

    /// Looks at the set that is put together of what adds most of what is missing.
    fn largest(&mut self, part: &mut Part, more: usize, limit: &Allowance<'_>) {
        for _ in 0..more {
            limit.spend(3 * self.others.len() as u64);
            let short = missing(&self.stock.need, &part.totals.have);
            let gain = |at: usize| self.stock.gain(self.others[at], &short);
            let free = (0..self.others.len()).filter(|at| !part.taken[*at]);
            if let Some(at) = free.max_by_key(|at| (gain(*at), Reverse(*at))) {
                self.add(part, at);
            }
        }
        self.consider_part(part, limit);
        while !part.added.is_empty() {
            self.remove(part);
        }
    }

    pub(super) fn consider_part(&mut self, part: &Part, limit: &Allowance<'_>) {
        let (problem, others) = (self.problem, self.others.clone());
        let set = || problem.given.iter().copied().chain(part.added.iter().map(|at| others[*at])).collect();
        self.consider(&part.totals, &set, limit);
    }

    /// Exchanges one pnode after the other for the one that makes the set best, as long as that makes it better.
    fn descend(&mut self, part: &mut Part, limit: &Allowance<'_>) {
        let (mut place, mut unchanged) = (0, 0);
        while unchanged < part.added.len() {
            if !limit.spend(self.others.len() as u64) {
                return;
            }
            // The first of those added: what comes instead is put last, so each has its turn.
            unchanged += 1;
            match self.better_than(part, place, limit) {
                Some(comes) => {
                    self.leave(part, place);
                    self.add(part, comes);
                    limit.spend(self.others.len() as u64);
                    self.consider_part(part, limit);
                    unchanged = 0;
                }
                None => place += 1,
            }
            place %= part.added.len();
        }
    }

    /// The pnode that makes the set best in the place of the one at `place`, if any makes it better.
    fn better_than(&mut self, part: &Part, place: usize, limit: &Allowance<'_>) -> Option<usize> {
        let (rest, bin) = self.without(part, place);
        let (problem, others) = (self.problem, self.others.clone());
        let (mut best, mut found) = (part.totals.figures(), None);
        for comes in 0..self.others.len() {
            let away = u64::from(part.away[comes]) - self.problem.pairs.get(bin, self.others[comes]);
            if part.taken[comes] || rest.distance + away > best.0 {
                continue;
            }
            let totals = rest.with(&self.stock.each[self.others[comes]], away);
            let set = || exchanged((&problem.given, &others), part, place, comes);
            if totals.figures() < best && self.fits(&totals, &set, limit) {
                (best, found) = (totals.figures(), Some(comes));
            }
        }
        found
    }

    /// Looks at all sets that differ from the best in one pnode.
    pub(super) fn look_around(&mut self, limit: &Allowance<'_>) {
        let Some(best) = self.best.clone() else { return };
        let (problem, others) = (self.problem, self.others.clone());
        let mut part = self.start();
        for at in (0..self.others.len()).filter(|at| best.set.binary_search(&self.others[*at]).is_ok()) {
            self.add(&mut part, at);
        }
        limit.spend((part.added.len() * self.others.len()) as u64 / 2);
        for place in 0..part.added.len() {
            if !limit.spend(3 * self.others.len() as u64) {
                return;
            }
            let (rest, bin) = self.without(&part, place);
            for comes in (0..self.others.len()).filter(|comes| !part.taken[*comes]) {
                let away = u64::from(part.away[comes]) - self.problem.pairs.get(bin, self.others[comes]);
                let totals = rest.with(&self.stock.each[self.others[comes]], away);
                let set = || exchanged((&problem.given, &others), &part, place, comes);
                self.consider(&totals, &set, limit);
            }
        }
    }

    /// A set without the pnode at `place`, and which that is.
    fn without(&self, part: &Part, place: usize) -> (Totals, usize) {
        let leaves = part.added[place];
        let bin = self.others[leaves];
        (part.totals.without(&self.stock.each[bin], u64::from(part.away[leaves])), bin)
    }
}

/// A set with another pnode in the place of one; in order, if the set is.
fn exchanged((given, others): (&[usize], &[usize]), part: &Part, place: usize, comes: usize) -> Vec<usize> {
    let mut set = Vec::with_capacity(given.len() + part.added.len());
    set.extend_from_slice(given);
    set.extend(part.added[..place].iter().map(|kept| others[*kept]));
    set.extend(part.added[place + 1..].iter().map(|kept| others[*kept]));
    let comes = others[comes];
    let after = set.iter().rposition(|bin| *bin < comes).map_or(0, |before| before + 1);
    set.insert(after, comes);
    set
}
