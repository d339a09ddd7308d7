//! Boot tests: natively one after the other, in the lab on several hosts at a time, where a test that fails of a known
//! fault of its host is tried once more on a new one. What a test does is left to `boot_tests`, the counts to `tally`.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

use super::artifacts::{Artifacts, cache};
use super::boot;
use super::tally::{FLAKY_MAX, Tally};
use crate::boot_tests::{self, BootTest};
use crate::lab::fault::Fault;
use crate::lab::job::{Event, Job, TestResult, Verdict};
use crate::lab::machine::{self, Images, Pace};
use crate::lab::shape::{HostShape, SHAPES};

/// So many lab hosts at a time, each of which may take all of its memory.
const LANES: usize = 2;
/// So many tests in one start of a lab host: when it ends in the middle, the others of them lose little.
const BATCH: usize = 25;
/// A lab host with its tests is stopped after this.
const HOST_LIMIT_SECONDS: u64 = 20 * 60;
/// Tests that failed of their hosts are tried again if they are at most so many: more than [`FLAKY_MAX`] fail the run anyway, and a
/// change that breaks everything must not take twice the time to say so.
const SECOND_TRIES_MAX: usize = 2 * FLAKY_MAX;

/// Names of tries, in names of files.
const FIRST: &str = "first";
const SECOND: &str = "second";

/// The first lab host that has what a test needs.
pub(super) fn place(test: &BootTest) -> Option<&'static HostShape> {
    SHAPES.iter().find(|shape| shape.facts().lacks(&test.needs).is_none())
}

/// The program under test.
#[derive(Clone, Copy)]
pub(super) enum Program {
    /// That of the unit tests: a change is soon built.
    OfTests,
    /// What people run: quicker, and there anyway in a run of all tests.
    Release,
}

/// Fetches and makes what boot tests need.
pub(super) fn prepare(tests: &[&BootTest], program: Program) -> Result<Artifacts> {
    let mut artifacts = match program {
        Program::OfTests => Artifacts::make()?,
        Program::Release => Artifacts::of_release()?,
    };
    if tests.iter().any(|test| boot_tests::wants_debian(test)) {
        // Its tests fail without and say so; everything else can still run.
        artifacts.add_debian().unwrap_or_else(|error| eprintln!("no Debian to boot: {error:#}"));
    }
    Ok(artifacts)
}

/// Runs boot tests wherever they can run.
pub(super) fn run(tests: &[&BootTest], program: Program, tally: &mut Tally) -> Result<()> {
    let artifacts = prepare(tests, program)?;
    let Some(reason) = boot::why_not_native()? else {
        println!("boot tests run natively on this machine");
        return native(&artifacts, tests, tally);
    };
    println!("boot tests run inside the emulated lab, since this machine cannot run them: {reason}");
    let images = artifacts.images()?;
    let (here, nowhere): (Vec<&BootTest>, Vec<_>) = tests.iter().partition(|test| place(test).is_some());
    for test in nowhere {
        println!("skipped {}: no lab host has what it needs", test.name);
        tally.count(Verdict::Skipped);
    }
    let _ = fs::remove_dir_all(failures());
    let first = in_lab(&images, batches(&here, FIRST, BATCH));
    let again = count_first(&first, tally);
    if again.len() > SECOND_TRIES_MAX {
        println!("{} tests failed of their hosts, too many to try each of them again", again.len());
        tally.add(Verdict::Failed, u64::try_from(again.len())?);
        return Ok(());
    }
    let is_due = |test: &&BootTest| again.iter().any(|(name, _)| *name == test.name);
    let due: Vec<&BootTest> = here.iter().copied().filter(is_due).collect();
    // A host each: what a test left behind in its host is no excuse for the next.
    let second = in_lab(&images, batches(&due, SECOND, 1));
    count_second(&again, &second, tally);
    Ok(())
}

/// How a test ended.
#[derive(Clone, Copy)]
struct Ended {
    test: &'static str,
    verdict: Verdict,
    fault: Option<Fault>,
}

/// Counts tests that need no second try. Those that do failed of a known fault of their host, which is named; others
/// have failed, whatever a second try would say.
fn count_first(first: &[Ended], tally: &mut Tally) -> Vec<(&'static str, Fault)> {
    let mut again = Vec::new();
    for Ended { test, verdict, fault } in first {
        match (verdict, fault) {
            (Verdict::Failed, Some(fault)) => again.push((*test, *fault)),
            (verdict, _) => tally.count(*verdict),
        }
    }
    again
}

/// A test that failed must pass at its second try: one that is skipped then, or never came to run, has failed.
fn count_second(again: &[(&'static str, Fault)], second: &[Ended], tally: &mut Tally) {
    for (test, fault) in again {
        println!("first try of {test}: {fault}");
        if second.iter().any(|ended| ended.test == *test && ended.verdict == Verdict::Passed) {
            tally.flaky(test, *fault);
        } else {
            tally.count(Verdict::Failed);
        }
    }
}

/// One try each, on this machine.
fn native(artifacts: &Artifacts, tests: &[&BootTest], tally: &mut Tally) -> Result<()> {
    let job = Job::Tests(tests.iter().map(|test| test.name.to_owned()).collect());
    let mut listener = Listener::new(tests, FIRST);
    let ended = boot::native(artifacts, &job, |line| listener.take(line));
    let reason =
        ended.map_or_else(|error| format!("{error:#}"), |code| format!("the runner ended with {code}"));
    while let Some(&test) = listener.waiting.first() {
        listener.give_up(test, &reason, None);
    }
    listener.done.iter().for_each(|ended| tally.count(ended.verdict));
    Ok(())
}

/// Runs batches on several lab hosts at a time.
fn in_lab(images: &Images, batches: VecDeque<Batch<'_>>) -> Vec<Ended> {
    let (batches, done) = (Mutex::new(batches), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(batch) = next(&batches) {
                    let of_batch = batch.run(images);
                    lock(&done).extend(of_batch);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Tests for one start of a lab host.
struct Batch<'a> {
    shape: &'static HostShape,
    /// Names the host's files.
    label: String,
    which_try: &'static str,
    tests: Vec<&'a BootTest>,
}

/// The hosts with the slowest guests come first, so that no lane is left with one at the end.
fn batches<'a>(tests: &[&'a BootTest], which_try: &'static str, size: usize) -> VecDeque<Batch<'a>> {
    let mut all = VecDeque::new();
    for shape in SHAPES.iter().rev() {
        let here = |test: &&&BootTest| place(test).is_some_and(|place| place.name == shape.name);
        let tests: Vec<&BootTest> = tests.iter().filter(here).copied().collect();
        for (tests, number) in tests.chunks(size).zip(1..) {
            let label = format!("{}-{which_try}-{number}", shape.name);
            println!("lab host '{label}': {}, {} tests", shape.about, tests.len());
            all.push_back(Batch { shape, label, which_try, tests: tests.to_vec() });
        }
    }
    all
}

fn next<'a>(batches: &Mutex<VecDeque<Batch<'a>>>) -> Option<Batch<'a>> {
    lock(batches).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batch<'_> {
    /// How each test ended. A host that ends in the middle of a test has failed that test; those after it run on a new
    /// one.
    fn run(&self, images: &Images) -> Vec<Ended> {
        let mut listener = Listener::new(&self.tests, self.which_try);
        let results = images.work.join("results").join(&self.label);
        while !listener.waiting.is_empty() {
            let _ = fs::remove_dir_all(&results);
            let job = Job::Tests(listener.waiting.iter().map(|&name| name.to_owned()).collect());
            let pace = Pace::wall(HOST_LIMIT_SECONDS);
            let ended = machine::run(images, self.shape, &job, &self.label, pace, |line| listener.take(line));
            if let Some(&current) = listener.waiting.first() {
                let (reason, fault) = ended.map_or_else(
                    |error| (format!("{error:#}"), machine::fault(&error)),
                    |code| (format!("the runner ended with {code}"), None),
                );
                listener.give_up(current, &reason, fault);
            }
            listener.keep_transcripts(&results.join("logs"));
        }
        listener.done
    }
}

/// Where failures are kept, whatever the second try says.
fn failures() -> PathBuf {
    cache().join("failures")
}

/// Takes the results of one host.
struct Listener {
    waiting: Vec<&'static str>,
    done: Vec<Ended>,
    /// Part of the names of files about failures.
    which_try: &'static str,
}

impl Listener {
    fn new(tests: &[&BootTest], which_try: &'static str) -> Self {
        Self { waiting: tests.iter().map(|test| test.name).collect(), done: Vec::new(), which_try }
    }

    fn take(&mut self, line: &str) {
        let Some(Event::Test(TestResult { test, verdict, seconds, detail, fault })) = Event::parse(line)
        else {
            return;
        };
        let Some(at) = self.waiting.iter().position(|name| *name == test) else { return };
        let test = self.waiting.remove(at);
        self.done.push(Ended { test, verdict, fault });
        // One call: another host may print between two.
        match verdict {
            Verdict::Passed => println!("ok      {test} ({seconds:.1} s)"),
            Verdict::Skipped => println!("skipped {test}: {detail}"),
            Verdict::Failed => self.failed(test, &format!(" ({seconds:.1} s)"), &detail),
        }
    }

    /// A test that did not come to its end.
    fn give_up(&mut self, test: &'static str, reason: &str, fault: Option<Fault>) {
        self.waiting.retain(|name| *name != test);
        self.done.push(Ended { test, verdict: Verdict::Failed, fault });
        self.failed(test, "", reason);
    }

    fn failed(&self, test: &str, time: &str, detail: &str) {
        let indented: String = detail.lines().map(|line| format!("\n        | {line}")).collect();
        println!("FAILED  {test}, {} try{time}{indented}", self.which_try);
        let file = failures().join(format!("{test}.{}.log", self.which_try));
        let kept = fs::create_dir_all(failures()).and_then(|()| fs::write(&file, format!("{detail}\n")));
        kept.unwrap_or_else(|error| eprintln!("{}: {error}", file.display()));
    }

    /// All that the guests of failed tests printed, where it came back from their host.
    fn keep_transcripts(&self, logs: &Path) {
        for Ended { test, .. } in self.done.iter().filter(|ended| ended.verdict == Verdict::Failed) {
            let to = failures().join(format!("{test}.{}.guest.log", self.which_try));
            let _ = fs::copy(logs.join(format!("{test}.log")), to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, count_first, count_second};
    use crate::lab::fault::Fault;
    use crate::lab::job::Verdict;
    use crate::xtask::tally::Tally;

    fn ended(test: &'static str, verdict: Verdict, fault: Option<Fault>) -> Ended {
        Ended { test, verdict, fault }
    }

    #[test]
    fn only_a_second_try_that_passes_counts() {
        let mut tally = Tally::default();
        let again = ["a", "b", "c", "d"].map(|test| (test, Fault::HostSilent));
        let second = [("a", Verdict::Passed), ("b", Verdict::Failed), ("c", Verdict::Skipped)];
        count_second(&again, &second.map(|(test, verdict)| ended(test, verdict, None)), &mut tally);
        assert!(tally.to_string().ends_with("\nflaky: 1: a\n1 passed, 3 failed, 0 skipped"), "{tally}");
    }

    #[test]
    fn a_failure_that_is_not_of_its_host_gets_no_second_try() {
        let first = [
            ended("passed", Verdict::Passed, None),
            ended("failed", Verdict::Failed, None),
            ended("crashed", Verdict::Failed, Some(Fault::GuestCrashed)),
            ended("lost", Verdict::Failed, Some(Fault::HostEnded)),
        ];
        let mut tally = Tally::default();
        let again = [("crashed", Fault::GuestCrashed), ("lost", Fault::HostEnded)];
        assert_eq!(count_first(&first, &mut tally), again);
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 0 skipped");
    }
}
