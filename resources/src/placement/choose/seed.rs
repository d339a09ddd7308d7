//! Good sets to begin with, so that the search can cut early, and the neighbours of the best at its end.

use crate::placement::choose::{Part, Search};
use crate::placement::problem::missing;
use std::cmp::Reverse;

/// Most times that the best set is exchanged for one that differs in one pnode before the search begins.
const MAX_EXCHANGES: usize = 64;

/// Most pnodes that a greedy set is begun with.
const MAX_SEEDS: usize = 128;

impl Search<'_> {
    /// Looks at greedy sets: from each pnode on, the nearest one after another; and the largest.
    pub(super) fn seed(&mut self, start: &Part, more: usize) {
        if more == 0 {
            return;
        }
        for first in 0..self.others.len().min(MAX_SEEDS) {
            let part = (1..more).fold(self.with(start, first), |part, _| {
                let free = (0..self.others.len()).filter(|at| !part.taken[*at]);
                match free.min_by_key(|at| (part.away[*at], *at)) {
                    Some(at) => self.with(&part, at),
                    None => part,
                }
            });
            self.consider(&part);
        }
        let largest = (0..more).fold(start.clone(), |part, _| {
            let short = missing(&self.need, &part.have);
            let gain = |at: &usize| {
                let room = &self.rooms[self.others[*at]];
                let part = |kind: usize| {
                    (u128::from(room[kind].min(short[kind])) << 20) / u128::from(self.need[kind].max(1))
                };
                (0..room.len()).map(part).sum::<u128>()
            };
            let free = (0..self.others.len()).filter(|at| !part.taken[*at]);
            match free.max_by_key(|at| (gain(at), Reverse(*at))) {
                Some(at) => self.with(&part, at),
                None => part,
            }
        });
        self.consider(&largest);
        for _ in 0..MAX_EXCHANGES {
            let before = self.best.clone();
            self.look_around();
            if self.best == before {
                break;
            }
        }
    }

    /// Looks at all sets that differ from the best in one pnode.
    pub(super) fn look_around(&mut self) {
        let Some(best) = self.best.clone() else { return };
        let outside: Vec<usize> = self.others.iter().copied().filter(|bin| !best.set.contains(bin)).collect();
        for leaves in best.set.iter().filter(|bin| !self.problem.given.contains(bin)) {
            let kept: Vec<usize> = best.set.iter().copied().filter(|bin| bin != leaves).collect();
            for comes in &outside {
                self.work += best.set.len() as u64;
                let key = self.key(kept.iter().copied().chain([*comes]).collect());
                self.consider_key(key);
            }
        }
    }
}
