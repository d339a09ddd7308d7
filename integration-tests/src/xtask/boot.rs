//! Where jobs run: natively on a NUMA host with KVM, else in a lab host.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::artifacts::{Artifacts, cache};
use crate::lab::job::{Event, Job};
use crate::lab::machine::{self, Pace};
use crate::lab::shape::{HostShape, SHAPES};
use crate::runner::host::{HostFacts, Needs};
use crate::sys;

/// Why this machine cannot run guests on several nodes by itself, if so.
pub(crate) fn why_not_native() -> Result<Option<String>> {
    Ok(HostFacts::look()?.lacks(&Needs { nodes: 2, mib: 512, ..Needs::default() }))
}

/// The lab host of that name, or the first with so many nodes, or the first.
pub(crate) fn shape(name: Option<&str>, nodes: Option<usize>) -> Result<&'static HostShape> {
    let found = match (name, nodes) {
        (Some(name), _) => HostShape::called(name),
        (None, Some(nodes)) => SHAPES.iter().find(|shape| shape.nodes.len() == nodes),
        (None, None) => SHAPES.first(),
    };
    let Some(found) = found else {
        let all: Vec<String> = SHAPES
            .iter()
            .map(|shape| format!("  {:<8} {} ({} nodes)", shape.name, shape.about, shape.nodes.len()))
            .collect();
        bail!("there is no such lab host; there are\n{}", all.join("\n"));
    };
    Ok(found)
}

/// Runs a job in a lab host, its output on ours.
pub(crate) fn lab(shape: &HostShape, job: &Job, limit: u64, rival: bool) -> Result<ExitCode> {
    let artifacts = Artifacts::make()?;
    let images = if rival { artifacts.with_rival()? } else { artifacts }.images()?;
    let mut ready = false;
    let code = machine::run(&images, shape, job, &job.label(shape), Pace::allowing_silence(limit), |line| {
        match Event::parse(line) {
            Some(Event::Ready) => ready = true,
            Some(_) => {}
            None if ready => println!("{line}"),
            // Before that only firmware and kernel speak.
            None => eprintln!("{line}"),
        }
    })?;
    Ok(exit_code(code))
}

/// The demo, wherever it can run.
pub(crate) fn demo() -> Result<ExitCode> {
    let artifacts = Artifacts::make()?;
    let show = |line: &str| {
        if Event::parse(line).is_none() {
            println!("{line}");
        }
    };
    let code = match why_not_native()? {
        None => {
            println!("this machine has NUMA nodes and KVM: the guest runs natively");
            native(&artifacts, &Job::Demo, show)?
        }
        Some(reason) => {
            println!("the guest runs inside the emulated lab, since this machine cannot: {reason}");
            machine::run(&artifacts.images()?, &SHAPES[0], &Job::Demo, "demo", Pace::wall(300), show)?
        }
    };
    Ok(exit_code(code))
}

/// Runs a job on this machine and calls `hear` with each line it says.
pub(crate) fn native(artifacts: &Artifacts, job: &Job, mut hear: impl FnMut(&str)) -> Result<i32> {
    let scratch = cache().join("native");
    std::fs::create_dir_all(&scratch)?;
    let mut command = Command::new(&artifacts.runner);
    command.arg("--payload").arg(&artifacts.payload).arg("--scratch").arg(&scratch);
    if let Some(disk) = &artifacts.debian {
        // Guests write to theirs.
        let own = scratch.join("debian.img");
        std::fs::copy(disk, &own).with_context(|| format!("copying {}", disk.display()))?;
        command.arg("--debian").arg(own);
    }
    command.arg("--job").arg(serde_json::to_string(job)?).stdout(Stdio::piped());
    let mut runner = sys::die_with_parent(&mut command).spawn().context("starting the runner")?;
    let output = runner.stdout.take().context("no output")?;
    let mut code = None;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(Event::Exit { code: exit }) = Event::parse(&line) {
            code = Some(exit);
        }
        hear(&line);
    }
    let status = runner.wait()?;
    code.with_context(|| format!("the runner ended ({status}) before its job did"))
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
