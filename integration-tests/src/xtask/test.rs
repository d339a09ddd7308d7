//! `cargo xtask test`: every level of tests, one line per boot test, one last line with the counts.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::artifacts::Artifacts;
use super::boot;
use super::cargo::cargo;
use super::setup;
use crate::boot_tests::{self, BootTest, all};
use crate::lab::job::{Event, Job, TestResult, Verdict};
use crate::lab::machine::{self, Images, Pace};
use crate::lab::shape::{HostShape, SHAPES};

/// What to test.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// No guests: format, lints and unit tests only
    #[arg(long)]
    quick: bool,
    /// Boot tests only
    #[arg(long, conflicts_with = "quick")]
    boot: bool,
    /// Name the boot tests and the lab hosts they would run on, and run nothing
    #[arg(long)]
    list: bool,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// A lab host with all its tests is stopped after this.
const HOST_LIMIT_SECONDS: u64 = 15 * 60;

#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Skipped => self.skipped += 1,
        }
    }

    fn step(&mut self, ok: bool) {
        self.count(if ok { Verdict::Passed } else { Verdict::Failed });
    }
}

/// Runs what the options say.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let chosen: Vec<&BootTest> =
        all().filter(|test| options.filter.as_deref().is_none_or(|part| test.name.contains(part))).collect();
    if options.list {
        for test in chosen {
            println!("{:<10} {}", place(test).map_or("nowhere", |shape| shape.name), test.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    setup::install_all()?;
    if !options.boot {
        if options.filter.is_none() {
            checks(&mut tally)?;
        }
        unit_tests(options.filter.as_deref(), &mut tally)?;
    }
    if !options.quick && !chosen.is_empty() {
        boot_tests(&chosen, &mut tally)?;
    }
    let no_skips = env::var_os("NUMAVISOR_NO_SKIPS").is_some_and(|value| value == "1");
    if no_skips && tally.skipped > 0 {
        println!("NUMAVISOR_NO_SKIPS is set: the skipped tests are failures");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    let good = tally.failed == 0 && !(no_skips && tally.skipped > 0);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Format and lints, where the toolchain has the components.
fn checks(tally: &mut Tally) -> Result<()> {
    for (tool, arguments) in [
        ("fmt", ["fmt", "--all", "--check"].as_slice()),
        ("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ] {
        let there = cargo(&[tool, "--version"]).output().is_ok_and(|output| output.status.success());
        let began = Instant::now();
        if there {
            let ok = cargo(arguments).status().context("cargo")?.success();
            println!(
                "{} cargo {tool} ({:.0} s)",
                if ok { "ok     " } else { "FAILED " },
                began.elapsed().as_secs_f64()
            );
            tally.step(ok);
        } else {
            println!("skipped cargo {tool}: the toolchain does not have it");
            tally.count(Verdict::Skipped);
        }
    }
    Ok(())
}

/// `cargo test`, its counts added to ours.
fn unit_tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]);
    command.args(filter).stdout(Stdio::piped());
    match setup::schemathesis() {
        Ok(program) => drop(command.env("SCHEMATHESIS", program)),
        // Its test says that it is skipped; everything else can still run.
        Err(error) => eprintln!("no schemathesis: {error:#}"),
    }
    let mut child = command.spawn().context("cargo test")?;
    let output = child.stdout.take().context("no output")?;
    let failed_before = tally.failed;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        let Some(counts) = line.strip_prefix("test result: ") else { continue };
        let count = |what: &str| {
            let words: Vec<&str> = counts.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            words
                .windows(2)
                .find(|pair| pair[1] == what)
                .and_then(|pair| pair[0].parse::<u64>().ok())
                .unwrap_or(0)
        };
        tally.passed += count("passed");
        tally.failed += count("failed");
        tally.skipped += count("ignored");
    }
    // A crate that does not compile has no counts.
    if !child.wait()?.success() && tally.failed == failed_before {
        println!("FAILED  cargo test");
        tally.failed += 1;
    }
    Ok(())
}

/// The first lab host that has what a test needs.
fn place(test: &BootTest) -> Option<&'static HostShape> {
    SHAPES.iter().find(|shape| shape.facts().lacks(&test.needs).is_none())
}

fn boot_tests(tests: &[&BootTest], tally: &mut Tally) -> Result<()> {
    let mut artifacts = Artifacts::make()?;
    if tests.iter().any(|test| boot_tests::wants_debian(test)) {
        // Its tests fail without and say so; everything else can still run.
        artifacts.add_debian().unwrap_or_else(|error| eprintln!("no Debian to boot: {error:#}"));
    }
    let Some(reason) = boot::why_not_native()? else {
        println!("boot tests run natively on this machine");
        let job = Job::Tests(tests.iter().map(|test| test.name.to_owned()).collect());
        let mut listener = Listener::new(tests, tally);
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
    let mut by_host: BTreeMap<usize, Vec<&BootTest>> = BTreeMap::new();
    for &test in tests {
        match SHAPES.iter().position(|shape| place(test).is_some_and(|place| place.name == shape.name)) {
            Some(index) => by_host.entry(index).or_default().push(test),
            None => {
                println!("skipped {}: no lab host has what it needs", test.name);
                tally.count(Verdict::Skipped);
            }
        }
    }
    for (index, tests) in by_host {
        let shape = &SHAPES[index];
        println!("lab host '{}': {}, {} tests", shape.name, shape.about, tests.len());
        in_lab(&images, shape, &mut Listener::new(&tests, tally));
    }
    Ok(())
}

/// Runs the tests a listener waits for. Where the host itself ends in the middle of a test, which an emulated
/// processor is at times the cause of, that test gets one more try on a new host.
fn in_lab(images: &Images, shape: &HostShape, listener: &mut Listener) {
    let mut tried: Option<&str> = None;
    while !listener.waiting.is_empty() {
        let job = Job::Tests(listener.waiting.iter().map(|&name| name.to_owned()).collect());
        let ended =
            machine::run(images, shape, &job, Pace::wall(HOST_LIMIT_SECONDS), |line| listener.hear(line));
        let Some(&current) = listener.waiting.first() else { return };
        let reason =
            ended.map_or_else(|error| format!("{error:#}"), |code| format!("the runner ended with {code}"));
        if tried == Some(current) {
            listener.give_up(current, &reason);
        } else {
            println!("again   {current}: {reason}");
            tried = Some(current);
        }
    }
}

/// Counts the results of one host, and the tests it never came to.
struct Listener<'a> {
    waiting: Vec<&'static str>,
    tally: &'a mut Tally,
}

impl<'a> Listener<'a> {
    fn new(tests: &[&BootTest], tally: &'a mut Tally) -> Self {
        Self { waiting: tests.iter().map(|test| test.name).collect(), tally }
    }

    fn hear(&mut self, line: &str) {
        let Some(Event::Test(TestResult { test, verdict, seconds, detail })) = Event::parse(line) else {
            return;
        };
        self.waiting.retain(|name| *name != test);
        self.tally.count(verdict);
        match verdict {
            Verdict::Passed => {
                if let Some(why) = detail.lines().next() {
                    println!("again   {test}: {why}");
                }
                println!("ok      {test} ({seconds:.1} s)");
            }
            Verdict::Skipped => println!("skipped {test}: {detail}"),
            Verdict::Failed => {
                println!("FAILED  {test} ({seconds:.1} s)");
                detail.lines().for_each(|line| println!("        | {line}"));
            }
        }
    }

    fn give_up(&mut self, test: &'static str, reason: &str) {
        self.waiting.retain(|name| *name != test);
        println!("FAILED  {test}: {reason}");
        self.tally.count(Verdict::Failed);
    }
}
