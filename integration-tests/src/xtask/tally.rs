//! How many tests ended how, and the lines at the end of a run that say so. Deciding how one test ended is left to
//! whoever ran it.

use std::collections::BTreeMap;
use std::fmt;

use crate::lab::fault::Fault;
use crate::lab::job::Verdict;

/// More tests than this that passed only at their second try make a run fail.
pub(super) const FLAKY_MAX: usize = 3;

/// The counts of a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that passed at their second try, with what the first one failed of.
    flaky: Vec<(String, Fault)>,
}

impl Tally {
    pub(super) fn count(&mut self, verdict: Verdict) {
        self.add(verdict, 1);
    }

    pub(super) fn add(&mut self, verdict: Verdict, tests: u64) {
        match verdict {
            Verdict::Passed => self.passed += tests,
            Verdict::Failed => self.failed += tests,
            Verdict::Skipped => self.skipped += tests,
        }
    }

    pub(super) fn step(&mut self, ok: bool) {
        self.count(if ok { Verdict::Passed } else { Verdict::Failed });
    }

    /// Counts a test that passed at its second try, after a first one that failed of a known fault of its host.
    pub(super) fn flaky(&mut self, test: &str, fault: Fault) {
        self.count(Verdict::Passed);
        self.flaky.push((test.to_owned(), fault));
    }

    /// Whether the run is good.
    pub(super) fn is_good(&self, no_skips: bool) -> bool {
        self.failed == 0 && self.flaky.len() <= FLAKY_MAX && !(no_skips && self.skipped > 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flaky.len() > FLAKY_MAX {
            writeln!(to, "more than {FLAKY_MAX} tests passed only at their second try: the run fails")?;
        }
        if !self.flaky.is_empty() {
            let mut by_fault = BTreeMap::<Fault, usize>::new();
            self.flaky.iter().for_each(|(_, fault)| *by_fault.entry(*fault).or_default() += 1);
            let faults: Vec<String> =
                by_fault.iter().map(|(fault, count)| format!("{fault}: {count}")).collect();
            writeln!(to, "first tries that failed of faults of their host: {}", faults.join(", "))?;
            let mut names: Vec<&str> = self.flaky.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            writeln!(to, "flaky: {}: {}", names.len(), names.join(", "))?;
        }
        write!(to, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::{FLAKY_MAX, Tally};
    use crate::lab::fault::Fault;
    use crate::lab::job::Verdict;

    #[test]
    fn tests_that_needed_a_second_try_are_named_before_the_last_line() {
        let mut tally = Tally::default();
        tally.add(Verdict::Passed, 7);
        assert_eq!(tally.to_string(), "7 passed, 0 failed, 0 skipped");
        tally.flaky("b", Fault::HostSilent);
        tally.flaky("a", Fault::GuestBusy);
        tally.flaky("c", Fault::HostSilent);
        assert_eq!(
            tally.to_string(),
            "first tries that failed of faults of their host: guest busy and silent: 1, lab host silent: 2\n\
             flaky: 3: a, b, c\n10 passed, 0 failed, 0 skipped"
        );
        assert!(tally.is_good(true));
    }

    #[test]
    fn a_run_with_too_many_of_them_fails() {
        let mut tally = Tally::default();
        (0..FLAKY_MAX).for_each(|_| tally.flaky("a", Fault::HostEnded));
        assert!(tally.is_good(false));
        tally.flaky("b", Fault::HostEnded);
        assert!(!tally.is_good(false));
    }

    #[test]
    fn a_skip_fails_a_run_only_where_none_is_allowed() {
        let mut tally = Tally::default();
        tally.count(Verdict::Skipped);
        assert!(tally.is_good(false) && !tally.is_good(true));
        tally.count(Verdict::Failed);
        assert!(!tally.is_good(false));
    }
}
