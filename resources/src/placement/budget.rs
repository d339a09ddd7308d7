//! The budget of one plan, in work and in bytes. Both are counted, not measured, so that the same input gives the
//! same result on any machine. The sibling modules search within it.

use std::cell::Cell;

/// Most work of one plan, in pnodes, distances or pairs looked at: a few nanoseconds each. Past it, searches end with
/// the best that they have seen. What has to be done in any case is counted too and can exceed it by a little.
pub const MAX_WORK: u64 = 20_000_000;

/// Most bytes that searches hold at a time: four tables of distances of 1,024 nodes, and what they remember.
pub const MAX_BYTES: u64 = 24 << 20;

/// What a plan did cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Work, in the unit of [`MAX_WORK`].
    pub work: u64,
    /// The most bytes that were held at a time.
    pub bytes: u64,
}

/// The work and the bytes of one plan, for all its searches together.
#[derive(Debug, Default)]
pub struct Budget {
    work: Cell<u64>,
    bytes: Cell<u64>,
    peak: Cell<u64>,
}

impl Budget {
    /// A part of what is left, for one search.
    pub fn allow(&self, work: u64) -> Allowance<'_> {
        Allowance { budget: self, left: Cell::new(work) }
    }

    /// Counts work that is done in any case.
    pub fn spend(&self, work: u64) {
        self.work.set(self.work.get().saturating_add(work));
    }

    /// Whether all of the work is done.
    pub fn is_spent(&self) -> bool {
        self.work.get() > MAX_WORK
    }

    /// Counts bytes that are held in any case, until they are [released](Self::release).
    pub fn hold(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        self.peak.set(self.peak.get().max(self.bytes.get()));
    }

    /// Counts bytes, if there are as many left.
    pub fn try_hold(&self, bytes: u64) -> bool {
        let fits = self.bytes.get().saturating_add(bytes) <= MAX_BYTES;
        if fits {
            self.hold(bytes);
        }
        fits
    }

    /// These bytes are free again.
    pub fn release(&self, bytes: u64) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
    }

    /// What was used so far.
    pub fn effort(&self) -> Effort {
        Effort { work: self.work.get(), bytes: self.peak.get() }
    }
}

/// The work that one search may do.
#[derive(Debug)]
pub struct Allowance<'a> {
    budget: &'a Budget,
    left: Cell<u64>,
}

impl Allowance<'_> {
    /// Counts work; false once there is none left.
    pub fn spend(&self, work: u64) -> bool {
        self.budget.spend(work);
        self.left.set(self.left.get().saturating_sub(work));
        !self.is_spent()
    }

    /// Whether there is none left.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0 || self.budget.is_spent()
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Effort, MAX_BYTES, MAX_WORK};

    #[test]
    fn all_searches_together_have_one_budget() {
        let budget = Budget::default();
        let (first, second) = (budget.allow(10), budget.allow(u64::MAX));
        assert!(first.spend(9) && !first.spend(1) && first.is_spent());
        assert!(second.spend(MAX_WORK - 10) && !second.spend(1));
        assert!(budget.allow(5).is_spent());
        assert_eq!(budget.effort().work, MAX_WORK + 1);
    }

    #[test]
    fn bytes_are_refused_past_the_limit_and_come_back() {
        let budget = Budget::default();
        assert!(budget.try_hold(MAX_BYTES) && !budget.try_hold(1));
        budget.release(2);
        assert!(budget.try_hold(1));
        assert_eq!(budget.effort(), Effort { work: 0, bytes: MAX_BYTES });
    }
}
