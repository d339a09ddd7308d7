//! How a VM ends: by its guest, by signals, and without leaving anything behind.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;

use super::{BootTest, Ctx};
use crate::guest::READY;
use crate::runner::host::Needs;
use crate::runner::vm::{ERRORS, Start, untimed};

const ONE: Needs =
    Needs { nodes: 1, mib: 600, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

/// Exit status after a guest's reset, by `--on-reset exit`.
const RESET: i32 = 4;
/// Exit status after a triple fault.
const CRASH: i32 = 5;
/// Exit status after a second SIGTERM: 128 + SIGTERM, as shells say it.
const KILLED: i32 = 143;

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "life_scripted_guest_powers_off", needs: ONE, run: scripted },
    BootTest { name: "life_reset_ends_with_its_status", needs: ONE, run: reset_exits },
    BootTest { name: "life_reset_reboots_when_asked", needs: ONE, run: reset_reboots },
    BootTest { name: "life_triple_fault_has_a_status_of_its_own", needs: ONE, run: triple_fault },
    BootTest { name: "life_sigterm_presses_the_power_button", needs: ONE, run: power_button },
    BootTest { name: "life_second_sigterm_stops_the_vm", needs: ONE, run: second_sigterm },
    BootTest { name: "life_nothing_is_left_behind", needs: ONE, run: nothing_left },
];

fn scripted(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.start(&Start::default().cmdline("numavisor.do=alloc:8:0,report,poweroff"))?;
    vm.line("the answer to alloc", |line| line.starts_with("@@done alloc").then_some(()))?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(0), "ended with {status}, not with 0");
    Ok(())
}

fn reset_exits(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.boot(&Start::default())?;
    vm.tell("reboot")?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(RESET), "ended with {status}, not with {RESET}");
    Ok(())
}

fn reset_reboots(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.boot(&Start::default().flag(&["--on-reset", "reboot"]))?;
    let pid = vm.pid();
    for _ in 0..2 {
        vm.tell("reboot")?;
        vm.line("the guest's init after a reset", |line| (line == READY).then_some(()))?;
    }
    ensure!(vm.pid() == pid && vm.runs()?, "the process is not the same one");
    vm.power_off()
}

fn triple_fault(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.boot(&Start::default().cmdline("reboot=t"))?;
    vm.tell("reboot")?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(CRASH), "ended with {status}, not with {CRASH}");
    drop(vm);
    let transcript = ctx.transcript.borrow();
    let said: Vec<&str> = transcript.lines().filter_map(|line| untimed(line).strip_prefix(ERRORS)).collect();
    let [line] = said[..] else { bail!("the crash is not one line: {said:?}") };
    for part in [" shut down after a triple fault; ", " rip 0x", " efer 0x", "; pending: ", "; last exits: "]
    {
        ensure!(line.contains(part), "no '{part}' in: {line}");
    }
    Ok(())
}

fn power_button(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.boot(&Start::default())?;
    vm.ask("powerbutton")?;
    vm.signal(Signal::SIGTERM)?;
    vm.line("the button", |line| (line == "@@powerbutton pressed").then_some(()))?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(0), "ended with {status}, not with 0");
    Ok(())
}

fn second_sigterm(ctx: &Ctx) -> Result<()> {
    // This guest has no driver for the button, so the first signal changes nothing.
    let mut vm = ctx.boot(&Start::default())?;
    vm.signal(Signal::SIGTERM)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    ensure!(vm.runs()?, "the first SIGTERM stopped a guest that had not powered off");
    vm.ask("sleep 0")?;
    vm.signal(Signal::SIGTERM)?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(KILLED), "ended with {status}, not with {KILLED}");
    Ok(())
}

/// Files a VM could forget, and processes.
fn surroundings() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for directory in ["/tmp", "/dev/shm", "/run", "/var/run"] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if ["numavisor", "vcpu", "socket-janitor"].iter().any(|ours| name.starts_with(ours)) {
            found.insert(format!("process {} {}", process.file_name().display(), name.trim()));
        }
    }
    found
}

fn nothing_left(ctx: &Ctx) -> Result<()> {
    let before = surroundings();
    ctx.boot(&Start::default())?.power_off()?;
    let after: Vec<_> = surroundings().into_iter().filter(|entry| !before.contains(entry)).collect();
    ensure!(after.is_empty(), "left behind after a power-off: {after:?}");
    let mut vm = ctx.boot(&Start::default())?;
    vm.signal(Signal::SIGKILL)?;
    vm.ended()?;
    let after: Vec<_> = surroundings().into_iter().filter(|entry| !before.contains(entry)).collect();
    ensure!(after.is_empty(), "left behind after a kill: {after:?}");
    Ok(())
}
