//! A guest that compacts its memory while its balloon is out: Linux moves pages of the balloon as it does others, and
//! what the host had back stays with it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::balloon::{ALL, LOOK, MIB, OTHER_MIB, PATIENCE, TWO, backed, ctl, kib, mem_set, started};
use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Vm, note};

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_of_a_guest_that_compacts", needs: TWO, run: stock },
    BootTest { name: "balloon_of_a_newer_guest_that_compacts", needs: TWO, run: newer },
    BootTest {
        name: "balloon_beside_a_kernel_that_makes_huge_pages_whole",
        needs: Needs { root: true, ..TWO },
        run: made_whole,
    },
];

/// Half of it becomes holes of 4 KiB, ...
const BOARD_MIB: u64 = 64;
/// ... which the balloon takes for the most part.
const TAKEN_MIB: u64 = 28;
/// Fewer moves would show little.
const LEAST_MOVES: u64 = 100;
/// Two huge pages made whole.
const WHOLE_KIB: u64 = 4 * 1024;
/// How often a guest is told to compact its memory.
const TRIES: usize = 3;
/// What guests may keep free of all when they are to touch it.
const UNTOUCHED_KIB: u64 = 48 * 1024;

fn stock(ctx: &Ctx) -> Result<()> {
    compacts(ctx, GuestKernel::Stock, "4K")
}

fn newer(ctx: &Ctx) -> Result<()> {
    compacts(ctx, GuestKernel::Newer, "thp")
}

/// A counter of the guest's.
fn counted(vm: &mut Vm, name: &str) -> Result<u64> {
    let line = vm.output(&format!("grep '^{name} ' /proc/vmstat"))?;
    line.split_whitespace()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("the guest does not count {name}: {line}"))
}

fn balloon(ctx: &Ctx, socket: &str) -> Result<Value> {
    Ok(ctl(ctx, socket, &["vnodes", "1"])?["balloon"].clone())
}

fn compacts(ctx: &Ctx, kernel: GuestKernel, pages: &str) -> Result<()> {
    let extra = format!("prefault=on,pages={pages}");
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), OTHER_MIB, &[0]).with(&extra),
        Vnode::on(ctx.pnode(1), MIB, &[1]).with(&extra),
    ]);
    let (mut vm, socket, _directory) = started(ctx, &spec, kernel)?;
    vm.ask(&format!("checkerboard {BOARD_MIB} 1"))?;
    ensure!(mem_set(ctx, &socket, "1", &format!("{}M", MIB - TAKEN_MIB))?, "the target was refused");
    vm.ask("free")?;
    let most = (MIB - TAKEN_MIB) * 1024;
    let slack = if pages == "thp" { TAKEN_MIB * 1024 / 50 } else { 0 };
    let stays = |vm: &Vm, when: &str| -> Result<Value> {
        let (out, began) = (TAKEN_MIB * 1024, Instant::now());
        // A page that moves is out twice for a moment, and kcompactd moves some whenever it likes.
        let balloon = loop {
            let balloon = balloon(ctx, &socket)?;
            ensure!(balloon["off_node"] == 0, "{when}: {balloon}");
            // khugepaged may have taken some again for a while.
            let had = backed(vm, &spec)?[1];
            if kib(&balloon["on_node"]) == out && kib(&balloon["returned"]) == out && had <= most + slack {
                break balloon;
            }
            ensure!(began.elapsed() < PATIENCE, "{when}: the host has {had} KiB of {most}: {balloon}");
            std::thread::sleep(LOOK);
        };
        let had = backed(vm, &spec)?[1];
        note(&ctx.transcript, &format!("{when}: the host has {had} KiB of at most {most}; {balloon}"));
        check::bound(vm, &spec).map(|_| balloon)
    };
    stays(&vm, "before")?;

    // kcompactd may have moved them already.
    let mut moved = counted(&mut vm, "balloon_migrate")?;
    for _ in 0..TRIES {
        vm.output("echo 1 > /proc/sys/vm/compact_memory")?;
        moved = counted(&mut vm, "balloon_migrate")?;
        if moved >= LEAST_MOVES {
            break;
        }
    }
    if moved < LEAST_MOVES {
        return Err(Skip(format!("the guest's kernel moved only {moved} pages of its balloon")).into());
    }
    let now = stays(&vm, "compacted")?;
    ensure!(kib(&now["migrated"]) >= moved * 4, "the guest moved {moved} pages: {now}");

    // The guest uses all that it has: what the balloon held before is there again, what it holds now is not.
    vm.ask("fill 1")?;
    stays(&vm, "filled")?;
    let began = Instant::now();
    loop {
        let (all, now) = (counted(&mut vm, "balloon_migrate")?, balloon(ctx, &socket)?);
        if kib(&now["migrated"]) == all * 4 {
            break;
        }
        // kcompactd goes on between the two looks.
        ensure!(began.elapsed() < PATIENCE, "the guest moved {all} pages: {now}");
    }
    let had = backed(&vm, &spec)?[1];
    ensure!(had + UNTOUCHED_KIB >= most, "the host has only {had} KiB of {most}");
    vm.ask("free")?;

    // The driver's list is still as the device has it, and each request ends once, however soon the next one comes.
    for keep in ["176M", "192M", "168M", "216M"] {
        ctl(ctx, &socket, &["mem-set", "1", keep, "--detach"])?;
    }
    ensure!(mem_set(ctx, &socket, "1", &format!("{}M", MIB / 2))?, "more was refused");
    let more = balloon(ctx, &socket)?;
    ensure!(kib(&more["on_node"]) == MIB / 2 * 1024 && more["off_node"] == 0, "more: {more}");
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    let none = balloon(ctx, &socket)?;
    ensure!(none["on_node"] == 0 && none["returned"] == 0, "given back: {none}");
    let told = ctx.numavisor(&["ctl", "--api-socket", &socket, "--json", "events", "--no-follow"])?;
    let told = String::from_utf8(told.stdout)?;
    let told: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ends = told.iter().filter(|event| !event["balloon"]["outcome"].is_null());
    let ends: Vec<(&Value, &Value)> =
        ends.map(|event| (&event["balloon"]["request"], &event["balloon"]["outcome"]["stop"])).collect();
    note(&ctx.transcript, &format!("requests ended as {ends:?}"));
    let numbers: Vec<u64> = ends.iter().filter_map(|(request, _)| request.as_u64()).collect();
    ensure!(numbers == [1, 2, 3, 4, 5, 6, 7], "requests ended as {ends:?}");
    let last = [ends[0].1, ends[5].1, ends[6].1];
    ensure!(last.iter().all(|stop| *stop == "reached"), "requests ended as {ends:?}");
    vm.power_off()
}

/// The host's khugepaged in a hurry, as long as it lives.
struct Hurry(Vec<(String, String)>);

impl Hurry {
    fn up() -> Result<Self> {
        let mut before = Self(Vec::new());
        for (name, value) in [("scan_sleep_millisecs", "10"), ("pages_to_scan", "100000")] {
            let path = format!("/sys/kernel/mm/transparent_hugepage/khugepaged/{name}");
            let was = std::fs::read_to_string(&path).context(path.clone())?;
            std::fs::write(&path, value)?;
            before.0.push((path, was));
        }
        Ok(before)
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        for (path, was) in &self.0 {
            let _ = std::fs::write(path, was.trim());
        }
    }
}

/// The host's kernel fills the gaps of torn huge pages, pages of the balloon among them; they are let go again.
fn made_whole(ctx: &Ctx) -> Result<()> {
    let vnode =
        |index: u32, mib| Vnode::on(ctx.pnode(index as usize), mib, &[index]).with("prefault=on,pages=thp");
    let spec = GuestSpec::new(vec![vnode(0, OTHER_MIB), vnode(1, MIB)]);
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Newer)?;
    vm.ask(&format!("checkerboard {BOARD_MIB} 1"))?;
    ensure!(mem_set(ctx, &socket, "1", &format!("{}M", MIB - TAKEN_MIB))?, "the target was refused");
    let most = (MIB - TAKEN_MIB) * 1024;
    let until = |right: &dyn Fn(u64) -> bool, what: &str| -> Result<()> {
        let began = Instant::now();
        loop {
            let had = backed(&vm, &spec)?[1];
            if right(had) {
                note(&ctx.transcript, &format!("{what}: {had} KiB of {most} after {:?}", began.elapsed()));
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "{what}: {had} KiB of {most} after {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
    };
    let hurry = Hurry::up()?;
    until(&|had| had >= most + WHOLE_KIB, "khugepaged takes memory for what is out")
        .map_err(|error| Skip(error.to_string()))?;
    drop(hurry);
    // It goes on at its own pace.
    until(&|had| had <= most + TAKEN_MIB * 1024 / 50, "the host has it back")?;
    let balloon = balloon(ctx, &socket)?;
    ensure!(kib(&balloon["returned"]) == TAKEN_MIB * 1024 && balloon["off_node"] == 0, "{balloon}");
    check::bound(&vm, &spec)?;
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    vm.ask("free")?;
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}
