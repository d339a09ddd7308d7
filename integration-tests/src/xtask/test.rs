//! `cargo xtask test`: chooses and runs the levels of tests; the last line has the counts. How each level runs is left
//! to the modules beside it.

use std::env;
use std::process::ExitCode;

use anyhow::Result;

use super::tally::Tally;
use super::{checks, lanes, setup, unit_tests};
use crate::boot_tests::{BootTest, all};

/// What to test.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// No guests: format, lints, licences and unit tests only
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
            checks::quick(&mut tally)?;
        }
        if options.filter.is_none() && !options.quick {
            unit_tests::build()?;
            checks::beside_release_build(&mut tally, |tally| {
                unit_tests::run(None, tally)?;
                checks::slow(tally)?;
                lanes::prepare(&chosen).map(drop)
            })?;
        } else {
            unit_tests::run(options.filter.as_deref(), &mut tally)?;
        }
    }
    if !options.quick && !chosen.is_empty() {
        lanes::run(&chosen, &mut tally)?;
    }
    let no_skips = env::var_os(testing::NO_SKIPS).is_some_and(|value| value == "1");
    if no_skips {
        println!("{} is 1: a skipped test fails the run", testing::NO_SKIPS);
    }
    println!("{tally}");
    Ok(if tally.is_good(no_skips) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
