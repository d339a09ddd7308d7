//! Runs boot tests one after the other and says how each ended.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::host::HostFacts;
use super::payload::Payload;
use crate::boot_tests::{BootTest, Ctx, all};
use crate::lab::job::{Event, TestResult, Verdict};

/// Lines of a failed guest's output that are shown.
const SHOWN: usize = 30;

/// How often a test is tried on an emulated host, where hosts and guests lock up by themselves now and then ...
const TRIES: usize = 2;
/// ... and how often while its guest ends in a triple fault, to which the emulator's SVM brings guests of any monitor.
const TRIES_OF_CRASHES: usize = 4;

/// What numavisor says of such an end.
const TRIPLE_FAULT: &str = "shut down after a triple fault";

/// The error of a test that finds, by trying, that its host does not have what it needs.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl Error for Skip {}

/// Runs the tests called `names`; 1 if any failed.
pub(super) fn run(payload: &Payload, names: &[String]) -> Result<i32> {
    let host = HostFacts::look()?;
    let logs = payload.scratch.join("logs");
    fs::create_dir_all(&logs)?;
    let mut failed = 0;
    for test in all().filter(|test| names.iter().any(|name| name == test.name)) {
        Event::Start { test: test.name.to_owned() }.say();
        let began = Instant::now();
        let transcript = Rc::new(RefCell::new(String::new()));
        let (verdict, detail) = match host.lacks(&test.needs) {
            Some(lack) => (Verdict::Skipped, lack),
            None => tried(|| outcome(test, payload, &host, &transcript), in_lab()),
        };
        let _ = fs::write(logs.join(format!("{}.log", test.name)), &*transcript.borrow());
        failed += i32::from(verdict == Verdict::Failed);
        let seconds = began.elapsed().as_secs_f64();
        Event::Test(TestResult { test: test.name.to_owned(), verdict, seconds, detail }).say();
    }
    Ok(i32::from(failed > 0))
}

/// The last try's verdict, and why it failed; if it did not, why those before it did, a line each.
fn tried(once: impl Fn() -> (Verdict, String), in_lab: bool) -> (Verdict, String) {
    let mut failed: Vec<String> = Vec::new();
    loop {
        let (verdict, detail) = once();
        let why = detail.lines().next().unwrap_or_default();
        let tries = if detail.contains(TRIPLE_FAULT) { TRIES_OF_CRASHES } else { TRIES };
        match verdict {
            Verdict::Failed if in_lab && failed.len() + 1 < tries => failed.push(why.to_owned()),
            Verdict::Passed => return (verdict, failed.join("\n")),
            Verdict::Failed | Verdict::Skipped => return (verdict, detail),
        }
    }
}

/// A lab host's first process is this one.
fn in_lab() -> bool {
    std::process::id() == 1
}

fn outcome(
    test: &BootTest,
    payload: &Payload,
    host: &HostFacts,
    transcript: &Rc<RefCell<String>>,
) -> (Verdict, String) {
    let ctx = Ctx { payload, host, needs: test.needs, transcript: Rc::clone(transcript) };
    let result = catch_unwind(AssertUnwindSafe(|| (test.run)(&ctx)))
        .unwrap_or_else(|_| Err(anyhow!("the test panicked")));
    match result {
        Ok(()) => (Verdict::Passed, String::new()),
        Err(error) if error.is::<Skip>() => (Verdict::Skipped, error.to_string()),
        Err(error) => {
            let transcript = transcript.borrow();
            let lines: Vec<&str> = transcript.lines().collect();
            let tail = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            (Verdict::Failed, format!("{error:#}\n{tail}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TRIPLE_FAULT, tried};
    use crate::lab::job::Verdict;
    use std::cell::Cell;

    /// The end of a test that fails so many times before it passes, and how often it was tried.
    fn after(failures: usize, why: &str, in_lab: bool) -> (Verdict, String, usize) {
        let tries = Cell::new(0);
        let once = || {
            tries.set(tries.get() + 1);
            let failed = (Verdict::Failed, format!("no {}\n{why}", tries.get()));
            if tries.get() > failures { (Verdict::Passed, String::new()) } else { failed }
        };
        let (verdict, detail) = tried(once, in_lab);
        (verdict, detail, tries.get())
    }

    #[test]
    fn a_test_gets_one_more_try_in_the_lab_and_more_where_its_guest_crashed() {
        assert_eq!(after(1, "other", true), (Verdict::Passed, "no 1".to_owned(), 2));
        assert_eq!(after(2, "other", true), (Verdict::Failed, "no 2\nother".to_owned(), 2));
        assert_eq!(after(3, TRIPLE_FAULT, true), (Verdict::Passed, "no 1\nno 2\nno 3".to_owned(), 4));
        assert_eq!(after(4, TRIPLE_FAULT, true).0, Verdict::Failed);
    }

    #[test]
    fn on_a_real_host_the_first_try_counts() {
        assert_eq!(after(1, TRIPLE_FAULT, false).2, 1);
        assert_eq!(after(0, "", false), (Verdict::Passed, String::new(), 1));
    }
}
