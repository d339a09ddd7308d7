//! `cargo xtask test`: every level of tests, one line per boot test, one last line with the counts.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::cargo::cargo;
use super::{lanes, setup};
use crate::boot_tests::{BootTest, all};
use crate::lab::job::Verdict;

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

/// How many tests ended how.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    pub(super) fn count(&mut self, verdict: Verdict) {
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
            println!("{:<10} {}", lanes::place(test).map_or("nowhere", |shape| shape.name), test.name);
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
        lanes::run(&chosen, &mut tally)?;
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
