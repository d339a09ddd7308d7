//! The developer's commands: set-up, demo, tests, lab and benchmarks.

pub(crate) mod artifacts;
mod bench;
mod boot;
mod cargo;
mod checks;
mod dist;
mod lanes;
mod setup;
mod soak;
mod tally;
mod test;
mod unit_tests;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::lab::job::Job;

/// Set-up, demo, tests, lab and benchmarks of numavisor.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages that the other commands need, saying which and why
    Setup,
    /// Boot a guest of two vnodes and show its view of them beside the host's
    Demo,
    /// Run all tests: format, lints, unit tests, and boot tests with stock Linux guests
    ///
    /// The boot tests run natively where this machine has two NUMA nodes and hardware KVM, else inside the lab. A test
    /// that cannot run here is counted as skipped; NUMAVISOR_NO_SKIPS=1 makes that a failure. In the lab a boot test that
    /// fails of a known fault of its host gets one second try; `flaky: N: NAMES` before the last line names those that
    /// passed only then, and more than 3 of them fail the run.
    Test(test::Options),
    /// Run a command, or a shell, in a lab host: a Linux with several NUMA nodes and KVM inside an emulator
    Lab(LabOptions),
    /// Build what a package holds into `target/dist`: the static release program, manual pages, completions
    Dist,
    /// Measure start-up time, memory and size, and a rival beside it
    Bench(bench::Options),
    /// Take, give back and move the memory of guests that look at it, for as long as you like; count what goes wrong
    Soak(soak::Options),
}

#[derive(Debug, clap::Args)]
struct LabOptions {
    /// The lab host with this many nodes
    #[arg(long, conflicts_with = "host")]
    nodes: Option<usize>,
    /// The lab host of this name: two, uneven, cpuless, four, eight
    #[arg(long, alias = "hosts")]
    host: Option<String>,
    /// Stop it after so many seconds
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Also take the release build as `numavisor-release`, and QEMU in `qemu/`
    #[arg(long)]
    rival: bool,
    /// The command; `numavisor`, `vmlinuz` and `initramfs.cpio` are in its path and directory. None: a shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// The whole of `cargo xtask`.
pub fn xtask_main() -> ExitCode {
    match perform(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Setup => setup::install_all().map(|()| ExitCode::SUCCESS),
        Command::Demo => boot::demo(),
        Command::Test(options) => test::run(&options),
        Command::Lab(options) => {
            let shape = boot::shape(options.host.as_deref(), options.nodes)?;
            let job = if options.command.is_empty() { Job::Shell } else { Job::Command(options.command) };
            boot::lab(shape, &job, options.limit, options.rival)
        }
        Command::Dist => dist::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
    }
}
