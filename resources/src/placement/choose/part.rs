//! A partial set of pnodes, to which pnodes are added and from which they are removed one at a time.

use crate::placement::choose::Search;
use crate::placement::choose::stock::Totals;

/// A set being put together, and what it comes to so far.
pub struct Part {
    /// By position in `others`.
    pub taken: Vec<bool>,
    /// What was added to the given pnodes, by position in `others`, in the order in which it was.
    pub added: Vec<usize>,
    /// What the set comes to.
    pub totals: Totals,
    /// Distance of each of `others` to all of the set.
    pub away: Vec<u32>,
}

impl Search<'_> {
    /// The given pnodes alone.
    pub(super) fn start(&self) -> Part {
        let given = &self.problem.given;
        let away = |other: &usize| {
            let row = self.problem.pairs.row(*other);
            given.iter().map(|bin| u32::from(row[*bin])).sum()
        };
        Part {
            taken: vec![false; self.others.len()],
            added: Vec::new(),
            totals: self.totals(given),
            away: self.others.iter().map(away).collect(),
        }
    }

    /// What a set comes to.
    pub(super) fn totals(&self, set: &[usize]) -> Totals {
        let sum = set.iter().fold(Totals::NONE, |sum, bin| sum.with(&self.stock.each[*bin], 0));
        Totals { distance: self.problem.pairs.within(set), ..sum }
    }

    /// The bins of a set.
    pub(super) fn set(&self, part: &Part) -> Vec<usize> {
        let added = part.added.iter().map(|at| self.others[*at]);
        self.problem.given.iter().copied().chain(added).collect()
    }

    /// Adds one of `others`.
    pub(super) fn add(&self, part: &mut Part, at: usize) {
        let bin = self.others[at];
        part.totals = part.totals.with(&self.stock.each[bin], u64::from(part.away[at]));
        part.taken[at] = true;
        part.added.push(at);
        let row = self.problem.pairs.row(bin);
        part.away
            .iter_mut()
            .zip(self.others.iter())
            .for_each(|(away, other)| *away += u32::from(row[*other]));
    }

    /// Takes away what was added last.
    pub(super) fn remove(&self, part: &mut Part) {
        if let Some(last) = part.added.len().checked_sub(1) {
            self.leave(part, last);
        }
    }

    /// Takes away one of what was added, by its place there.
    pub(super) fn leave(&self, part: &mut Part, place: usize) {
        let at = part.added.remove(place);
        let bin = self.others[at];
        part.taken[at] = false;
        let row = self.problem.pairs.row(bin);
        part.away
            .iter_mut()
            .zip(self.others.iter())
            .for_each(|(away, other)| *away -= u32::from(row[*other]));
        part.totals = part.totals.without(&self.stock.each[bin], u64::from(part.away[at]));
    }
}
