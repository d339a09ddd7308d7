//! Runs a job on the NUMA host it finds itself on: boot tests, a command, the demo or a benchmark.
//!
//! The same static binary is process 1 of an L1 and an ordinary process on a real NUMA host. `first` is the only
//! part that knows the difference; the tests must not.

pub(crate) mod bench;
mod bench_balloon;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod device_bench;
mod first;
pub(crate) mod host;
mod kvm_trace;
mod move_figures;
mod one_call;
pub(crate) mod payload;
pub(crate) mod pools;
pub(crate) mod residency;
pub(crate) mod soak;
pub(crate) mod spec;
mod start_figures;
pub(crate) mod suite;
pub(crate) mod syscall_trace;
pub(crate) mod vm;
pub(crate) mod withheld;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::lab::job::{Event, Job};
use payload::Payload;

/// Between two signs of life.
const PULSE: Duration = Duration::from_secs(10);

/// How the runner is called where it is not process 1.
#[derive(Debug, Parser)]
#[command(name = "lab-runner", about = "Runs numavisor's boot tests on this host")]
struct Arguments {
    /// Directory with the numavisor binary, kernels and images
    #[arg(long)]
    payload: PathBuf,
    /// Directory for files of the run
    #[arg(long)]
    scratch: PathBuf,
    /// A disk with a Debian on it, which may be written to
    #[arg(long)]
    debian: Option<PathBuf>,
    /// What to do, as JSON
    #[arg(long)]
    job: String,
}

/// The runner's whole life.
pub fn lab_runner_main() -> ExitCode {
    if std::process::id() == 1 {
        first::main();
    }
    let Arguments { payload: directory, scratch, debian, job } = Arguments::parse();
    let payload = Payload { directory, scratch, debian };
    let code = serde_json::from_str(&job).context("--job").and_then(|job| perform(&payload, &job));
    match code {
        Ok(code) => {
            Event::Exit { code }.say();
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does a job; the exit code it ended with.
fn perform(payload: &Payload, job: &Job) -> Result<i32> {
    Event::Ready.say();
    // A command's own output is not mixed with ours.
    if !matches!(job, Job::Command(_) | Job::Shell) {
        thread::spawn(|| {
            loop {
                thread::sleep(PULSE);
                Event::Alive.say();
            }
        });
    }
    match job {
        Job::Tests(names) => suite::run(payload, names),
        Job::Command(words) => command(payload, words),
        Job::Shell => command(payload, &["setsid", "-c", "/bin/sh", "-i"].map(str::to_owned)),
        Job::Demo => demo::run(payload),
        Job::Bench { rounds } => bench::run(payload, *rounds),
        Job::DeviceBench => device_bench::run(payload),
        Job::Moves { rounds } => move_figures::run(payload, *rounds),
        Job::Balloons { rounds } => bench::balloons(payload, *rounds),
        Job::Starts { rounds } => start_figures::run(payload, *rounds),
        Job::Soak(plan) => soak::run(payload, plan),
    }
}

fn command(payload: &Payload, words: &[String]) -> Result<i32> {
    let (program, arguments) = words.split_first().context("no command")?;
    let path = format!("{}:/usr/bin:/usr/sbin:/bin:/sbin", payload.directory.display());
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", &path)
        .current_dir(&payload.directory)
        .status()
        .with_context(|| format!("starting {program}"))?;
    Ok(status.code().unwrap_or(1))
}
