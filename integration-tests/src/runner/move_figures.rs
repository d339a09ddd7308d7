//! Figures of moves: throughput beside `migratepages` on a plain process of the same size and page size, and how long
//! the guest stands still, beside the same vnode moved in one call and beside no move at all.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::one_call;
use super::payload::Payload;
use super::residency;
use super::spec::{GuestSpec, Vnode};
use super::vm::{Start, Vm};
use crate::lab::job::Event;
use crate::sys::BoundMemory;

/// Memory of the vnode, and of the plain process.
const MIB: usize = 256;
const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// How long the guest watches its clock for each way.
const WATCH: Duration = Duration::from_secs(20);
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Measures both page sizes, `rounds` there and back each after a pair that does not count, and says the figures.
pub(super) fn run(payload: &Payload, rounds: u32) -> Result<i32> {
    let mut figures = json!({ "mib": MIB });
    for pages in ["4K", "thp"] {
        figures[pages] = measure(payload, pages, rounds)?;
        println!("{pages}: {}", figures[pages]);
    }
    Event::Bench(figures).say();
    Ok(0)
}

fn measure(payload: &Payload, pages: &str, rounds: u32) -> Result<Value> {
    let transcript = Rc::new(RefCell::new(String::new()));
    measure_all(payload, pages, rounds, &transcript).with_context(|| transcript.borrow().clone())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn migratepages(pid: u32, from: &str, to: &str) -> Result<Duration> {
    let began = Instant::now();
    let status = Command::new("/usr/bin/migratepages").args([&pid.to_string(), from, to]).status()?;
    ensure!(status.success(), "migratepages ended with {status}");
    Ok(began.elapsed())
}

/// MiB a second of `ctl move`, of `migratepages` on this process, which has nothing else of that size, and of
/// `migratepages` on the VM itself, one after the other in each round; then the guest's stalls.
fn measure_all(
    payload: &Payload,
    pages: &str,
    rounds: u32,
    transcript: &Rc<RefCell<String>>,
) -> Result<Value> {
    // A plain process has no advice of its own, so the host is told.
    fs::write(THP, if pages == "4K" { "never" } else { "always" }).context(THP)?;
    let mut memory = BoundMemory::map(MIB << 20, 0)?;
    ensure!(memory.touch(MIB << 20) == MIB << 20, "not all of {MIB} MiB was touched");
    fs::write(THP, "madvise").context(THP)?;

    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let vnode = Vnode::on(0, MIB as u64, &[0]).with(&format!("pages={pages},prefault=on,affinity=none"));
    let spec = GuestSpec::new(vec![vnode]);
    let mut vm = Vm::start(payload, &Start::of(&spec).flag(&["--api-socket", &flag]), transcript)?;
    vm.ready()?;
    let (mut ours, mut plain, mut one_call) = (Vec::new(), Vec::new(), Vec::new());
    let speed = |took: Duration| MIB as f64 / took.as_secs_f64();
    for round in 0..=rounds {
        for (from, to) in [("0", "1"), ("1", "0")] {
            let (moved, seconds) = move_once(payload, &socket, to)?;
            let process = speed(migratepages(std::process::id(), from, to)?);
            if round > 0 {
                ours.push(moved / seconds);
                plain.push(process);
            }
        }
        for (from, to) in [("0", "1"), ("1", "0")] {
            let vm = speed(migratepages(vm.pid(), from, to)?);
            if round > 0 {
                one_call.push(vm);
            }
        }
        println!(
            "{pages}: MiB a second: numavisor {ours:.0?}, a plain process {plain:.0?}, the VM {one_call:.0?}"
        );
    }
    drop(memory);
    let (ours, plain, one_call) = (median(ours), median(plain), median(one_call));
    let mut figures = json!({
        "numavisor_mib_per_second": ours,
        "migratepages_mib_per_second": plain,
        "migratepages_of_the_vm_mib_per_second": one_call,
        "ratio": ours / plain,
        "ratio_to_the_vm": ours / one_call,
    });
    // On one CPU the guest stands still whenever anything else runs.
    if fs::read_to_string(ONLINE).context(ONLINE)?.trim() != "0" {
        figures["stalls"] = stalls(&mut vm, payload, &socket, &spec, rounds)?;
    }
    vm.power_off()?;
    Ok(figures)
}

/// How the guest stands still while nothing happens, while its vnode moves in chunks, by `migratepages`, and in one call of
/// `mbind(2)`, in turns: medians of the longest stall, of all stalls over 1 ms together, and of how long the move took.
fn stalls(vm: &mut Vm, payload: &Payload, socket: &Path, spec: &GuestSpec, rounds: u32) -> Result<Value> {
    let ram = residency::guest_ram(vm.pid(), spec)?.remove(0);
    let in_one_call = |pid, node| -> Result<()> {
        ram.iter().try_for_each(|area| one_call::bind_and_move(pid, area.start, area.end - area.start, node))
    };
    type Act<'a> = &'a dyn Fn(u32, u32) -> Result<()>;
    let ways: [(&str, Act); 4] = [
        ("none", &|_, _| Ok(())),
        ("numavisor", &|_, to| move_once(payload, socket, &to.to_string()).map(drop)),
        ("migratepages", &|pid, to| migratepages(pid, &(1 - to).to_string(), &to.to_string()).map(drop)),
        ("one_call", &in_one_call),
    ];
    let mut found = vec![Vec::new(); ways.len()];
    for _ in 0..rounds.max(1) {
        for ((name, act), found) in ways.iter().zip(&mut found) {
            let stall = watched(vm, |pid| act(pid, 1))?;
            println!("{name}: {stall:.1?}");
            let on = residency::pages_by_node(vm.pid(), &ram)?.get(&1).copied().unwrap_or(0) * 4096;
            ensure!(
                (on > (MIB as u64) << 19) != (*name == "none"),
                "{name}: {on} bytes are on the other pnode"
            );
            act(vm.pid(), 0)?;
            found.push(stall);
        }
    }
    let of = |found: &[Stall], pick: fn(&Stall) -> f64| median(found.iter().map(pick).collect());
    let mut figures = json!({});
    for ((name, _), found) in ways.iter().zip(&found) {
        figures[name] = json!({
            "longest_ms": of(found, |stall| stall.longest_ms),
            "stalled_ms": of(found, |stall| stall.stalled_ms),
            "move_ms": of(found, |stall| stall.move_ms),
        });
    }
    Ok(figures)
}

/// MiB that were moved, and the job's seconds.
fn move_once(payload: &Payload, socket: &Path, to: &str) -> Result<(f64, f64)> {
    let socket = socket.to_string_lossy();
    let arguments = ["ctl", "--api-socket", &*socket, "--json", "move", "0", "--pnode", to];
    let output = Command::new(payload.numavisor()).args(arguments).output()?;
    let job: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(job["state"] == "done" && job["left"].as_array().is_some_and(Vec::is_empty), "{job}");
    let number = |key: &str| job[key].as_f64().context("a number");
    Ok((number("moved")? / 1_048_576.0, number("elapsed_ms")? / 1000.0))
}

/// How a guest stood still.
#[derive(Clone, Debug)]
struct Stall {
    /// The longest time between two of its timestamps.
    longest_ms: f64,
    /// All stalls together.
    stalled_ms: f64,
    /// What was done meanwhile took so long.
    move_ms: f64,
}

/// How the guest stands still while `act` goes on.
fn watched(vm: &mut Vm, act: impl FnOnce(u32) -> Result<()>) -> Result<Stall> {
    vm.tell(&format!("timestamps {}", WATCH.as_secs()))?;
    thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    act(vm.pid())?;
    let took = began.elapsed();
    // A move may take longer on a busy machine; what came later was not watched.
    let answer = vm.line("the guest's timestamps", |line| {
        line.strip_prefix(crate::guest::DONE)?.strip_prefix("timestamps ").map(str::to_owned)
    })?;
    let answer: Value = serde_json::from_str(&answer)?;
    let number = |key: &str| answer[key].as_f64().with_context(|| format!("no {key}"));
    let (longest_ms, stalled_ms) = (number("longest_gap_ms")?, number("stalled_ms")?);
    Ok(Stall { longest_ms, stalled_ms, move_ms: took.as_secs_f64() * 1000.0 })
}
