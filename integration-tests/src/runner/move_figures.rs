//! Figures of moves: throughput beside `migratepages` on a plain process of the same size and page size, and how long
//! the guest stands still at a time, beside the same vnode moved in one call.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::payload::Payload;
use super::residency;
use super::spec::{GuestSpec, Vnode};
use super::vm::{Start, Vm};
use crate::lab::job::Event;
use crate::sys::BoundMemory;

/// Memory of the vnode, and of the plain process.
const MIB: usize = 256;
const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// How long the guest watches its clock for each side.
const WATCH: &str = "6";

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
/// `migratepages` on the VM itself, one after the other in each round; the longest stalls in milliseconds, of our moves
/// and of the same in one call.
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
    // What else makes the clock jump is in both.
    let (mut chunked, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        chunked.push(watched(&mut vm, |_| move_once(payload, &socket, "1").map(drop))?);
        move_once(payload, &socket, "0")?;
        whole.push(watched(&mut vm, |pid| migratepages(pid, "0", "1").map(drop))?);
        let on = residency::pages_by_node(vm.pid(), &residency::guest_ram(vm.pid(), &spec)?[0])?;
        println!("longest stalls: {chunked:?} ms, in one call {whole:?} ms");
        ensure!(on.get(&1).copied().unwrap_or(0) * 4096 > (MIB as u64) << 19, "it did not move: {on:?}");
        migratepages(vm.pid(), "1", "0")?;
    }
    vm.power_off()?;
    let (ours, plain, one_call) = (median(ours), median(plain), median(one_call));
    let (chunked, whole) = (median(chunked), median(whole));
    Ok(json!({
        "numavisor_mib_per_second": ours,
        "migratepages_mib_per_second": plain,
        "migratepages_of_the_vm_mib_per_second": one_call,
        "ratio": ours / plain,
        "ratio_to_the_vm": ours / one_call,
        "stall_milliseconds": chunked,
        "stall_in_one_call_milliseconds": whole,
        "stall_ratio": chunked / whole,
    }))
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

/// The longest time in milliseconds between two timestamps of the guest while `act` goes on.
fn watched(vm: &mut Vm, act: impl FnOnce(u32) -> Result<()>) -> Result<f64> {
    vm.tell(&format!("timestamps {WATCH}"))?;
    thread::sleep(Duration::from_secs(2));
    act(vm.pid())?;
    let answer = vm.line("the guest's timestamps", |line| {
        line.strip_prefix(crate::guest::DONE)?.strip_prefix("timestamps ").map(str::to_owned)
    })?;
    let answer: Value = serde_json::from_str(&answer)?;
    answer["longest_gap_ms"].as_f64().context("no gap")
}
