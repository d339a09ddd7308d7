//! Boot tests: natively one after the other, in the lab on several hosts at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;

use super::artifacts::Artifacts;
use super::boot;
use super::test::Tally;
use crate::boot_tests::{self, BootTest};
use crate::lab::job::{Event, Job, TestResult, Verdict};
use crate::lab::machine::{self, Images, Pace};
use crate::lab::shape::{HostShape, SHAPES};

/// So many lab hosts at a time, each of which may take all of its memory.
const LANES: usize = 2;
/// So many tests in one start of a lab host: when it ends in the middle, the others of them lose little.
const BATCH: usize = 10;
/// A lab host with its tests is stopped after this.
const HOST_LIMIT_SECONDS: u64 = 10 * 60;

/// The first lab host that has what a test needs.
pub(super) fn place(test: &BootTest) -> Option<&'static HostShape> {
    SHAPES.iter().find(|shape| shape.facts().lacks(&test.needs).is_none())
}

/// Runs boot tests wherever they can run.
pub(super) fn run(tests: &[&BootTest], tally: &mut Tally) -> Result<()> {
    let mut artifacts = Artifacts::make()?;
    if tests.iter().any(|test| boot_tests::wants_debian(test)) {
        // Its tests fail without and say so; everything else can still run.
        artifacts.add_debian().unwrap_or_else(|error| eprintln!("no Debian to boot: {error:#}"));
    }
    let tally = Mutex::new(tally);
    let Some(reason) = boot::why_not_native()? else {
        println!("boot tests run natively on this machine");
        let job = Job::Tests(tests.iter().map(|test| test.name.to_owned()).collect());
        let mut listener = Listener::new(tests, &tally);
        let ended = boot::native(&artifacts, &job, |line| listener.hear(line));
        let reason =
            ended.map_or_else(|error| format!("{error:#}"), |code| format!("the runner ended with {code}"));
        while let Some(&test) = listener.waiting.first() {
            listener.give_up(test, &reason);
        }
        return Ok(());
    };
    println!("boot tests run inside the emulated lab, since this machine cannot run them: {reason}");
    let images = artifacts.images()?;
    let batches = Mutex::new(batches(tests, &tally));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(batch) = next(&batches) {
                    batch.run(&images, &tally);
                }
            });
        }
    });
    Ok(())
}

/// Tests for one start of a lab host.
struct Batch<'a> {
    shape: &'static HostShape,
    /// Names the host's files.
    label: String,
    tests: Vec<&'a BootTest>,
}

/// All that can run; the hosts with the slowest guests come first, so that no lane is left with one at the end.
fn batches<'a>(tests: &[&'a BootTest], tally: &Mutex<&mut Tally>) -> VecDeque<Batch<'a>> {
    for test in tests.iter().filter(|test| place(test).is_none()) {
        println!("skipped {}: no lab host has what it needs", test.name);
        lock(tally).count(Verdict::Skipped);
    }
    let mut all = VecDeque::new();
    for shape in SHAPES.iter().rev() {
        let here = |test: &&&BootTest| place(test).is_some_and(|place| place.name == shape.name);
        let tests: Vec<&BootTest> = tests.iter().filter(here).copied().collect();
        for (tests, number) in tests.chunks(BATCH).zip(1..) {
            let label = format!("{}-tests-{number}", shape.name);
            println!("lab host '{label}': {}, {} tests", shape.about, tests.len());
            all.push_back(Batch { shape, label, tests: tests.to_vec() });
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
    /// Where the host itself ends in the middle of a test, which an emulated processor is at times the cause of, that
    /// test gets one more try on a new host.
    fn run(&self, images: &Images, tally: &Mutex<&mut Tally>) {
        let mut listener = Listener::new(&self.tests, tally);
        let mut tried: Option<&str> = None;
        while !listener.waiting.is_empty() {
            let job = Job::Tests(listener.waiting.iter().map(|&name| name.to_owned()).collect());
            let pace = Pace::wall(HOST_LIMIT_SECONDS);
            let ended = machine::run(images, self.shape, &job, &self.label, pace, |line| listener.hear(line));
            let Some(&current) = listener.waiting.first() else { return };
            let reason = ended
                .map_or_else(|error| format!("{error:#}"), |code| format!("the runner ended with {code}"));
            if tried == Some(current) {
                listener.give_up(current, &reason);
            } else {
                println!("again   {current}: {reason}");
                tried = Some(current);
            }
        }
    }
}

/// Counts the results of one host, and the tests it never came to.
struct Listener<'a, 'b> {
    waiting: Vec<&'static str>,
    tally: &'a Mutex<&'b mut Tally>,
}

impl<'a, 'b> Listener<'a, 'b> {
    fn new(tests: &[&BootTest], tally: &'a Mutex<&'b mut Tally>) -> Self {
        Self { waiting: tests.iter().map(|test| test.name).collect(), tally }
    }

    fn hear(&mut self, line: &str) {
        let Some(Event::Test(TestResult { test, verdict, seconds, detail })) = Event::parse(line) else {
            return;
        };
        self.waiting.retain(|name| *name != test);
        lock(self.tally).count(verdict);
        // One call: another host may speak between two.
        match verdict {
            Verdict::Passed => {
                let again: String = detail.lines().map(|why| format!("again   {test}: {why}\n")).collect();
                println!("{again}ok      {test} ({seconds:.1} s)");
            }
            Verdict::Skipped => println!("skipped {test}: {detail}"),
            Verdict::Failed => {
                let detail: String = detail.lines().map(|line| format!("\n        | {line}")).collect();
                println!("FAILED  {test} ({seconds:.1} s){detail}");
            }
        }
    }

    fn give_up(&mut self, test: &'static str, reason: &str) {
        self.waiting.retain(|name| *name != test);
        println!("FAILED  {test}: {reason}");
        lock(self.tally).count(Verdict::Failed);
    }
}
