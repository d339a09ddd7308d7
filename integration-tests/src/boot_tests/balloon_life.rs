//! What a balloon's guest lives through: it clears or poisons its free pages, needs memory that it gave, rests, is paused,
//! and reboots. Which pages come is left to the other balloon tests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::balloon::{
    ALL, KEPT, LOOK, MIB, OTHER_MIB, PATIENCE, TAKEN_MIB, TWO, backed, booted, ctl, kib, mem_set, settled,
};
use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::payload::GuestKernel;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Start, Vm, note};

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_of_a_guest_that_clears_free_pages", needs: TWO, run: clears },
    BootTest { name: "balloon_of_a_guest_that_poisons_free_pages", needs: TWO, run: poisons },
    BootTest { name: "balloon_rests_drains_and_holds_over_a_reboot", needs: TWO, run: lives },
];

fn two(ctx: &Ctx) -> GuestSpec {
    GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), OTHER_MIB, &[0]),
        Vnode::on(ctx.pnode(1), MIB, &[1]).with("pages=4K"),
    ])
}

/// Waits until `what` is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so()? {
        ensure!(began.elapsed() < PATIENCE, "{what}: not so within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// `init_on_free=1` clears all memory as the guest boots, so the host has all of it; reports of free pages bring it back.
fn clears(ctx: &Ctx) -> Result<()> {
    let (mut vm, guest) = touched_at_boot(ctx, "init_on_free=1")?;
    ensure!(guest.had > 150 * 1024, "the guest has touched {} KiB of vnode 1 only", guest.had);
    guest.reports(&mut vm)?;
    until("what is reported comes back", || Ok(guest.backed(&vm)? < 90 * 1024))?;
    guest.gives_and_takes(vm)
}

/// `page_poison=1` writes a pattern that must still be there later: reports are counted alone.
fn poisons(ctx: &Ctx) -> Result<()> {
    let (mut vm, guest) = touched_at_boot(ctx, "page_poison=1")?;
    if guest.had <= 150 * 1024 {
        let why = format!("the guest's kernel poisons nothing: it has touched {} KiB", guest.had);
        return Err(Skip(why).into());
    }
    guest.reports(&mut vm)?;
    let now = guest.backed(&vm)?;
    ensure!(now >= guest.had, "of {} KiB that are to keep their content the host has {now} KiB", guest.had);
    guest.gives_and_takes(vm)
}

/// A guest that touched memory as it booted.
struct Touched<'a> {
    ctx: &'a Ctx<'a>,
    spec: GuestSpec,
    socket: String,
    _directory: tempfile::TempDir,
    /// KiB of vnode 1 that the host had then.
    had: u64,
}

fn touched_at_boot<'a>(ctx: &'a Ctx<'a>, words: &str) -> Result<(Vm, Touched<'a>)> {
    let spec = two(ctx);
    let start = Start::of(&spec).kernel(GuestKernel::Newer).cmdline(words);
    let (vm, socket, directory) = booted(ctx, start.flag(&["--free-page-reporting"]))?;
    let had = backed(&vm, &spec)?[1];
    Ok((vm, Touched { ctx, spec, socket, _directory: directory, had }))
}

impl Touched<'_> {
    fn backed(&self, vm: &Vm) -> Result<u64> {
        Ok(backed(vm, &self.spec)?[1])
    }

    /// The driver comes and reports what is free.
    fn reports(&self, vm: &mut Vm) -> Result<()> {
        vm.ask("modprobe virtio_pci virtio_balloon").context("the guest's balloon driver")?;
        until("free pages are reported", || {
            Ok(kib(&ctl(self.ctx, &self.socket, &["vnodes", "1"])?["balloon"]["reported"]) > 120 * 1024)
        })
    }

    /// A balloon brings memory back, and what the guest takes again is as it expects it.
    fn gives_and_takes(&self, mut vm: Vm) -> Result<()> {
        let before = self.backed(&vm)?;
        ensure!(mem_set(self.ctx, &self.socket, "1", KEPT)?, "it did not come");
        let after = self.backed(&vm)?;
        note(
            &self.ctx.transcript,
            &format!("the host had {} KiB, {before} after reports, {after}", self.had),
        );
        ensure!(after <= 136 * 1024, "the host still has {after} KiB");
        ensure!(mem_set(self.ctx, &self.socket, "1", ALL)?, "giving back was refused");
        vm.ask("alloc 64 1")?;
        vm.ask("free")?;
        ensure!(
            vm.output("dmesg | grep -ciE 'corruption|pagealloc' || true")? == "0",
            "the guest found its free pages changed: {}",
            vm.output("dmesg | tail -n 5")?
        );
        check::bound(&vm, &self.spec)?;
        vm.power_off()
    }
}

/// How often the balloons' thread has slept.
fn sleeps(vm: &Vm) -> Result<u64> {
    for task in std::fs::read_dir(format!("/proc/{}/task", vm.pid()))?.flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() == "balloons" {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return line.context("no such count")?.trim().parse().context("a count");
        }
    }
    anyhow::bail!("there is no thread for balloons")
}

fn lives(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx);
    let start = Start::of(&spec).flag(&["--on-reset", "reboot"]);
    let (mut vm, socket, _directory) = booted(ctx, start)?;
    vm.ask("modprobe virtio_pci virtio_balloon")?;
    let balloon = || -> Result<_> { Ok(ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone()) };
    ensure!(mem_set(ctx, &socket, "1", KEPT)?, "it did not come: {}", balloon()?);

    // Nothing is wanted any more.
    let before = sleeps(&vm)?;
    std::thread::sleep(Duration::from_secs(5));
    ensure!(sleeps(&vm)? == before, "the balloons' thread woke {} times in 5 s", sleeps(&vm)? - before);

    // The guest needs it more.
    vm.ask("alloc 116 1")?;
    let drained = settled(ctx, &socket)?[1]["balloon"].clone();
    note(&ctx.transcript, &format!("with 116 MiB in use: {drained}"));
    // Asked again after a rest, it may have ended once more since, with nothing that is free.
    let told = ctx.numavisor(&["ctl", "--api-socket", &socket, "--json", "events", "--no-follow"])?;
    let told = String::from_utf8(told.stdout)?;
    let events = told.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    ensure!(
        events.iter().any(|event| event["balloon"]["outcome"]["stop"] == "drained"),
        "it ended as {drained}: {told}"
    );
    ensure!(kib(&drained["on_node"]) < (TAKEN_MIB - 6) * 1024, "it still has {drained}");
    vm.ask("free")?;
    // It rests for half a minute and more, unless somebody asks.
    ensure!(mem_set(ctx, &socket, "1", KEPT)?, "it did not come again: {}", balloon()?);

    // A pause does not end a request.
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    ctl(ctx, &socket, &["mem-set", "1", KEPT, "--detach"])?;
    ctl(ctx, &socket, &["pause"])?;
    std::thread::sleep(Duration::from_secs(7));
    let paused = balloon()?;
    ctl(ctx, &socket, &["resume"])?;
    note(&ctx.transcript, &format!("paused: {paused}"));
    until("a request that was paused is met", || Ok(balloon()?["outcome"]["stop"] == "reached"))?;

    // The next guest gives as much.
    vm.tell("reboot")?;
    vm.ready()?;
    let vnode = ctl(ctx, &socket, &["vnodes", "1"])?;
    ensure!(
        kib(&vnode["target"]) == (MIB - TAKEN_MIB) * 1024 && vnode["balloon"]["on_node"] == 0,
        "rebooted: {vnode}"
    );
    vm.ask("modprobe virtio_pci virtio_balloon")?;
    until("the next guest's balloon", || Ok(kib(&balloon()?["on_node"]) == TAKEN_MIB * 1024))?;
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}
