//! `cargo xtask test`: chooses and runs the levels of tests; the last line has the counts. How each level runs is left
//! to the modules beside it.

use std::env;
use std::process::ExitCode;

use anyhow::Result;

use super::lanes::Program;
use super::tally::Tally;
use super::{checks, lanes, setup, unit_tests};
use crate::boot_tests::{BootTest, all, is_long};

/// What to test.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// No guests: format, lints, licences and unit tests only
    #[arg(long)]
    quick: bool,
    /// Boot tests only
    #[arg(long, conflicts_with = "quick")]
    boot: bool,
    /// Boot tests with the release program, as in a run of all tests: quicker, but it takes minutes to build
    #[arg(long, conflicts_with = "quick")]
    release: bool,
    /// Also the boot tests that take long
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Name the boot tests and the lab hosts they would run on, and run nothing
    #[arg(long)]
    list: bool,
    /// Only tests whose names contain one of these
    filter: Vec<String>,
}

/// Runs what the options say.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let wanted =
        |name: &str| options.filter.is_empty() || options.filter.iter().any(|part| name.contains(part));
    let everything = options.long || !options.filter.is_empty();
    let (chosen, long): (Vec<&BootTest>, Vec<_>) =
        all().filter(|test| wanted(test.name)).partition(|test| everything || !is_long(test));
    if options.list {
        for test in chosen {
            println!("{:<10} {}", lanes::place(test).map_or("nowhere", |shape| shape.name), test.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    setup::install_all()?;
    if !options.boot {
        if options.filter.is_empty() {
            checks::quick(&mut tally)?;
        }
        if options.filter.is_empty() && !options.quick {
            unit_tests::build()?;
            checks::beside_release_build(&mut tally, |tally| {
                unit_tests::run(&[], tally)?;
                checks::slow(tally)?;
                lanes::prepare(&chosen, Program::OfTests).map(drop)
            })?;
        } else {
            unit_tests::run(&options.filter, &mut tally)?;
        }
    }
    if !options.quick && !chosen.is_empty() {
        if !long.is_empty() {
            let names: Vec<&str> = long.iter().map(|test| test.name).collect();
            println!("left to `cargo xtask test --long`: {}", names.join(", "));
        }
        let release = options.release || options.filter.is_empty();
        let program = if release { Program::Release } else { Program::OfTests };
        lanes::run(&chosen, program, &mut tally)?;
    }
    let no_skips = env::var_os(testing::NO_SKIPS).is_some_and(|value| value == "1");
    if no_skips {
        println!("{} is 1: a skipped test fails the run", testing::NO_SKIPS);
    }
    println!("{tally}");
    Ok(if tally.is_good(no_skips) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
