//! `cargo xtask bench`: start-up and memory beside a rival in the lab, planning time and binary size on this machine.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::artifacts::{Artifacts, cache};
use crate::lab::job::{Event, Job};
use crate::lab::machine::{self, Images, Pace};
use crate::lab::shape::{COUNTED, HostShape, SHAPES};
use crate::runner::device_bench::{self, Samples};

/// What to measure, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Starts of each side, after one that does not count; with --devices, guests of each side
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Count instructions of a lab host with one CPU instead of taking wall time: slower, repeatable
    #[arg(long)]
    counted: bool,
    /// Disk and network instead, beside QEMU's q35: about three minutes for each set of guests
    #[arg(long, conflicts_with_all = ["counted", "no_lab"])]
    devices: bool,
    /// Only what needs no lab: planning time and binary size
    #[arg(long)]
    no_lab: bool,
    /// Only moves of vnodes beside migratepages, on the lab host of two nodes; `--counted`: no stalls
    #[arg(long)]
    moves: bool,
    /// Only balloons beside QEMU's
    #[arg(long, conflicts_with = "counted")]
    balloons: bool,
    /// Only 50 starts at once, 20 times, on the lab host of eight nodes
    #[arg(long)]
    starts: bool,
}

/// Repetitions of the parallel starts.
const STORMS: u32 = 20;

impl Options {
    /// The lab host to measure in, and by which clock.
    fn host(&self) -> (&'static HostShape, Pace) {
        if self.counted { (&COUNTED, Pace::counted(3600)) } else { (&SHAPES[0], Pace::wall(3600)) }
    }
}

/// Nodes of the host that planning is timed for.
const NODES: u32 = 64;
/// Plans made; the median counts.
const PLANS: usize = 21;

/// Measures, prints a table and the same as JSON.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    if options.moves || options.starts {
        let images = Artifacts::make()?.images()?;
        if options.moves {
            lab_figures(&images, options.host(), &Job::Moves { rounds: options.rounds })?;
        }
        if options.starts {
            let eight = HostShape::called("eight").context("no such lab host")?;
            lab_figures(&images, (eight, Pace::wall(3600)), &Job::Starts { rounds: STORMS })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let artifacts = Artifacts::make()?.with_rival()?;
    if options.balloons {
        lab_figures(&artifacts.images()?, options.host(), &Job::Balloons { rounds: options.rounds })?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.devices {
        return devices(&artifacts, options);
    }
    let release = artifacts.payload.join("numavisor-release");
    let mut figures = json!({
        "plan_64_milliseconds": plan_milliseconds(&release)?,
        "binary_bytes": fs::metadata(&release)?.len(),
    });
    if !options.no_lab {
        let (shape, pace) = options.host();
        let job = Job::Bench { rounds: options.rounds };
        machine::run(&artifacts.images()?, shape, &job, &job.label(shape), pace, |line| match Event::parse(
            line,
        ) {
            Some(Event::Bench(more)) => figures["lab"] = more,
            Some(_) => {}
            None => println!("{line}"),
        })?;
    }
    table(&figures);
    println!("{figures}");
    Ok(ExitCode::SUCCESS)
}

/// How often a round of devices is tried.
const TRIES: u32 = 4;

/// Measures the devices, in a new lab host each round.
fn devices(artifacts: &Artifacts, options: &Options) -> Result<ExitCode> {
    let (images, host) = (artifacts.images()?, options.host());
    let (mut all, mut dropped) = (Samples::new(), Vec::new());
    for number in 0..options.rounds {
        println!("round {number}");
        let mut done = round(&images, host);
        // Emulated hosts hang now and then. Nothing of a round that did not come to its end counts.
        for _ in 1..TRIES {
            let Err(error) = &done else { break };
            println!("round {number} once more: {error:#}");
            dropped.push(json!({ "round": number, "why": error.root_cause().to_string() }));
            done = round(&images, host);
        }
        let done = done?;
        for (task, sides) in done {
            let all = all.entry(task).or_default();
            sides.into_iter().for_each(|(side, samples)| all.entry(side).or_default().extend(samples));
        }
    }
    let mut figures: Value =
        all.iter().map(|(task, sides)| (task.clone(), device_bench::figures(sides))).collect();
    println!("rates are those of an emulated host: only exits and calls would be the same on another");
    println!(
        "{:<39}{:>10}{:>10}{:>7}{:>10}{:>7}{:>10}{:>7}   exits each     calls each",
        "per second", "numavisor", "qemu", "ratio", "on a node", "ratio", "iothread", "ratio"
    );
    for (name, sides) in figures.as_object().into_iter().flatten() {
        let number = |path: &str| sides.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let [our, their, bound, threaded] = ["numavisor", "qemu", "qemu_on_a_node", "qemu_iothread"]
            .map(|side| number(&format!("/{side}/per_second")));
        println!(
            "{name:<39}{our:>10.1}{their:>10.1}{:>7.2}{bound:>10.1}{:>7.2}{threaded:>10.1}{:>7.2}{:>7.2}{:>7.2}{:>7.2}{:>7.2}",
            number("/qemu/ratio"),
            number("/qemu_on_a_node/ratio"),
            number("/qemu_iothread/ratio"),
            number("/numavisor/exits_each"),
            number("/qemu/exits_each"),
            number("/numavisor/calls_each"),
            number("/qemu/calls_each"),
        );
    }
    println!("rounds: {} done, {} dropped", options.rounds, dropped.len());
    figures["rounds"] = json!({ "done": options.rounds, "dropped": dropped });
    println!("{figures}");
    Ok(ExitCode::SUCCESS)
}

fn round(images: &Images, (shape, pace): (&HostShape, Pace)) -> Result<Samples> {
    let job = Job::DeviceBench;
    let mut samples = None;
    let code = machine::run(images, shape, &job, &job.label(shape), pace, |line| match Event::parse(line) {
        Some(Event::Bench(said)) => samples = Some(said),
        Some(_) => {}
        None => println!("{line}"),
    })?;
    let samples = samples.with_context(|| format!("the runner ended with {code} and no samples"))?;
    serde_json::from_value(samples).context("samples")
}

/// Runs a job on a lab host and prints its figures.
fn lab_figures(images: &Images, (shape, pace): (&HostShape, Pace), job: &Job) -> Result<()> {
    machine::run(images, shape, job, &job.label(shape), pace, |line| match Event::parse(line) {
        Some(Event::Bench(figures)) => println!("{}: {figures}", job.name()),
        Some(_) => {}
        None => println!("{line}"),
    })?;
    Ok(())
}

fn table(figures: &Value) {
    let number = |path: &str| figures.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let (our, their) = (number("/lab/start_seconds/numavisor"), number("/lab/start_seconds/qemu"));
    println!(
        "start to the init's first line   numavisor {our:.2} s, qemu microvm {their:.2} s, ratio {:.2}",
        our / their
    );
    println!(
        "memory beside guest RAM          1 vnode {:.1} MiB, 2 vnodes {:.1} MiB, qemu {:.1} MiB",
        number("/lab/own_kib/numavisor_1_vnode") / 1024.0,
        number("/lab/own_kib/numavisor_2_vnodes") / 1024.0,
        number("/lab/own_kib/qemu") / 1024.0
    );
    let (our, their) = (number("/lab/balloon/seconds/numavisor"), number("/lab/balloon/seconds/qemu"));
    println!(
        "75 % of 512 MiB from the guest   numavisor {our:.3} s, qemu {their:.3} s, ratio {:.2}, {:.2} calls a MiB",
        their / our,
        number("/lab/balloon/calls_per_mib")
    );
    println!("plan for 64 vnodes on 64 nodes   {:.2} ms", number("/plan_64_milliseconds"));
    println!("release binary, static           {:.2} MiB", number("/binary_bytes") / 1_048_576.0);
}

/// The median time of `numavisor plan` for a vnode on each node of a big host.
fn plan_milliseconds(numavisor: &Path) -> Result<f64> {
    let sysfs = cache().join("sysfs-64");
    write_sysfs(&sysfs)?;
    let mut command = Command::new(numavisor);
    command.arg("plan").arg("--sysfs").arg(&sysfs).stdout(Stdio::null());
    for id in 0..NODES {
        command.args(["--numa", &format!("id={id},memory=1G,vcpus=[{}-{}],pnode={id}", id * 4, id * 4 + 3)]);
    }
    let mut times = Vec::new();
    for _ in 0..PLANS {
        let began = Instant::now();
        let status = command.status().context("numavisor plan")?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        ensure!(status.success(), "numavisor plan for {NODES} vnodes: {status}");
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// A host of 64 nodes with eight CPUs and 16 GiB each, in the shape of sysfs.
fn write_sysfs(root: &Path) -> Result<()> {
    let (nodes, cpus) = (root.join("devices/system/node"), root.join("devices/system/cpu"));
    fs::create_dir_all(&nodes)?;
    fs::create_dir_all(&cpus)?;
    let all = format!("0-{}\n", NODES - 1);
    for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
        fs::write(nodes.join(name), &all)?;
    }
    for name in ["online", "possible", "present"] {
        fs::write(cpus.join(name), format!("0-{}\n", NODES * 8 - 1))?;
    }
    for node in 0..NODES {
        let at = nodes.join(format!("node{node}"));
        let pool = at.join("hugepages/hugepages-2048kB");
        fs::create_dir_all(&pool)?;
        for name in ["nr_hugepages", "free_hugepages", "surplus_hugepages"] {
            fs::write(pool.join(name), "0\n")?;
        }
        let distances: Vec<String> = (0..NODES)
            .map(|to| {
                if to == node {
                    "10"
                } else if to / 8 == node / 8 {
                    "16"
                } else {
                    "28"
                }
                .to_owned()
            })
            .collect();
        fs::write(at.join("distance"), format!("{}\n", distances.join(" ")))?;
        fs::write(at.join("cpulist"), format!("{}-{}\n", node * 8, node * 8 + 7))?;
        fs::write(
            at.join("meminfo"),
            format!(
                "Node {node} MemTotal:       16777216 kB\nNode {node} MemFree:        15728640 kB\nNode {node} MemUsed:         1048576 kB\n"
            ),
        )?;
    }
    Ok(())
}
