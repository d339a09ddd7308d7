//! Figures: numavisor and its rival, QEMU's microvm, started in turn with the same guest.
//!
//! Start-up is the time from the start of the process to the first line of the guest's init.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::payload::{GuestKernel, Payload};
use super::residency;
use super::vm::Vm;
use crate::guest::{HELLO, READY};
use crate::lab::job::Event;

/// Memory of the guest whose start-up is timed, on both sides.
const MIB: u64 = 512;
/// The rival is started on its own loader and libraries, wherever the payload is.
pub(super) const RIVAL: &str = "qemu";
pub(super) const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// One start: seconds to the init's first line, and KiB resident beside guest memory.
struct Sample {
    seconds: f64,
    own_kib: u64,
}

/// Balloons alone.
pub(super) fn balloons(payload: &Payload, rounds: u32) -> Result<i32> {
    Event::Bench(super::bench_balloon::run(payload, rounds)?).say();
    Ok(0)
}

/// Starts each side in turn, `rounds` times after one that does not count, and says the medians.
pub(super) fn run(payload: &Payload, rounds: u32) -> Result<i32> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let our = sample(payload, numavisor(payload, &["--vcpus", "2", "--memory", "512M"]), &[MIB])?;
        let their = sample(payload, rival(payload), &[MIB])?;
        println!(
            "round {round}: numavisor {:.2} s, {} KiB; qemu {:.2} s, {} KiB",
            our.seconds, our.own_kib, their.seconds, their.own_kib
        );
        // The first pair also reads everything from disk.
        if round > 0 {
            ours.push(our);
            theirs.push(their);
        }
    }
    let nodes = super::host::HostFacts::look()?.nodes;
    let pnode = |index: usize| nodes.get(index).or(nodes.first()).map_or(0, |node| node.node);
    let (first, second) = (
        format!("id=0,memory=256M,vcpus=[0],pnode={}", pnode(0)),
        format!("id=1,memory=240M,vcpus=[1],pnode={},affinity=none", pnode(1)),
    );
    let two = sample(payload, numavisor(payload, &["--numa", &first, "--numa", &second]), &[256, 240])?;
    let balloon = super::bench_balloon::run(payload, rounds)?;
    let figures = json!({
        "balloon": balloon,
        "start_seconds": { "numavisor": median(&ours, |s| s.seconds), "qemu": median(&theirs, |s| s.seconds) },
        "own_kib": {
            "numavisor_1_vnode": median(&ours, |s| s.own_kib as f64),
            "numavisor_2_vnodes": two.own_kib,
            "qemu": median(&theirs, |s| s.own_kib as f64),
        },
    });
    Event::Bench(figures).say();
    Ok(0)
}

pub(super) fn median<T>(samples: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

pub(super) fn numavisor(payload: &Payload, flags: &[&str]) -> Command {
    let mut command = Command::new(payload.numavisor_release());
    command.arg("run").arg("--kernel").arg(payload.kernel(GuestKernel::StockBzImage));
    command
        .arg("--initramfs")
        .arg(payload.initramfs(GuestKernel::StockBzImage))
        .args(["--cmdline", CMDLINE])
        .args(flags);
    command
}

/// QEMU without a screen, of 512 MiB and two processors, with our guest.
pub(super) fn qemu(payload: &Payload, machine: &str, vcpus: &str) -> Command {
    let at = payload.directory.join(RIVAL);
    let mut command = Command::new(at.join("ld.so"));
    command.arg("--library-path").arg(at.join("lib")).arg(at.join("qemu-system-x86_64"));
    command.arg("-L").arg(at.join("firmware"));
    command.args(["-M", machine, "-enable-kvm", "-cpu", "host", "-smp", vcpus, "-m", "512M"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.arg("-kernel").arg(payload.kernel(GuestKernel::StockBzImage));
    command.arg("-initrd").arg(payload.initramfs(GuestKernel::StockBzImage));
    command
}

pub(super) fn rival(payload: &Payload) -> Command {
    let mut command = qemu(payload, "microvm,acpi=on", "2");
    command.args(["-append", CMDLINE]);
    command
}

/// Starts a guest, times its first line, measures the process and ends it.
fn sample(payload: &Payload, mut command: Command, ram_mib: &[u64]) -> Result<Sample> {
    let transcript = Rc::new(RefCell::new(String::new()));
    command.current_dir(&payload.directory);
    let began = Instant::now();
    let mut vm = Vm::spawn(command, &transcript)?;
    let timed =
        vm.line("the first line of the guest's init", |line| line.contains(HELLO).then(|| began.elapsed()));
    let seconds = timed.with_context(|| transcript.borrow().clone())?.as_secs_f64();
    vm.line("the guest's init", |line| line.contains(READY).then_some(()))?;
    let areas = residency::areas(vm.pid())?;
    let ram: Vec<u64> = areas
        .iter()
        .filter(|area| ram_mib.iter().any(|mib| area.end - area.start == mib << 20))
        .map(|area| area.start)
        .collect();
    Ok(Sample { seconds, own_kib: residency::own_resident_kib(vm.pid(), &ram)? })
}
