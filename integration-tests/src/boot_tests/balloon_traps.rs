//! What goes wrong around a balloon: interrupts on other vnodes' CPUs, drivers that come late or go, guests that need
//! their memory, targets past what is free, pools that run short. Each is noticed and said, and takes no other vnode's
//! page.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::balloon::{
    ALL, KEPT, LOOK, MIB, OTHER_MIB, PATIENCE, TAKEN_MIB, TWO, all_came, backed, booted, ctl,
    fixed_watermarks, kib, mem_set, settled, started,
};
use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::pools::{self, Pool, SIZE_1G, SIZE_2M};
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Start, Vm, note};

/// A pool for the second node.
const POOL: Needs =
    Needs { nodes: 2, mib: 700, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_asks_nothing_where_pages_would_be_another_vnodes", needs: TWO, run: off_node },
    BootTest {
        name: "balloon_of_a_driver_that_goes_in_mid_flight_and_comes_late",
        needs: TWO,
        run: unloaded,
    },
    BootTest { name: "balloon_all_at_once_past_free_memory", needs: TWO, run: all_at_once },
    BootTest {
        name: "balloon_all_at_once_past_free_memory_under_a_newer_kernel",
        needs: TWO,
        run: two_at_once,
    },
    BootTest { name: "balloon_of_a_guest_that_needs_its_memory", needs: TWO, run: pressure },
    BootTest { name: "balloon_of_a_pool_of_huge_pages", needs: POOL, run: pool },
    BootTest {
        name: "balloon_of_1g_pages_that_stay_taken",
        needs: Needs { mib: 2048, ..POOL },
        run: gigantic,
    },
];

/// Two vnodes with a vCPU each.
fn two(ctx: &Ctx) -> GuestSpec {
    GuestSpec::new(vec![Vnode::on(ctx.pnode(0), OTHER_MIB, &[0]), Vnode::on(ctx.pnode(1), MIB, &[1])])
}

/// Asks vnode 1 for half of its memory; its balloon afterwards.
fn asked(ctx: &Ctx, socket: &str) -> Result<Value> {
    mem_set(ctx, socket, "1", KEPT)?;
    Ok(ctl(ctx, socket, &["vnodes", "1"])?["balloon"].clone())
}

fn modprobe(vm: &mut Vm) -> Result<()> {
    vm.ask("modprobe virtio_pci virtio_balloon").map(|_| ())
}

/// The balloon took nothing and says why.
fn refused(balloon: &Value, stops: &[&str], why: &str) -> Result<()> {
    let stop = balloon["outcome"]["stop"].as_str().unwrap_or_default();
    let nothing = balloon["on_node"] == 0 && balloon["off_node"] == 0;
    ensure!(stops.contains(&stop) && nothing, "{why}: it ended as {balloon}");
    Ok(())
}

fn off_node(ctx: &Ctx) -> Result<()> {
    // Kernel parameters by which the interrupt of vnode 1's balloon lands elsewhere, or nowhere.
    let guests: [(&str, &[&str]); 3] =
        [("irqaffinity=0", &["off_node"]), ("maxcpus=1", &["off_node"]), ("pci=nomsi", &["no_driver"])];
    for (parameters, stops) in guests {
        let (mut vm, socket, _directory) = booted(ctx, Start::of(&two(ctx)).cmdline(parameters))?;
        let _ = modprobe(&mut vm);
        refused(&asked(ctx, &socket)?, stops, parameters)?;
        vm.power_off()?;
    }
    // The guest knows no nodes, so its pages may be anybody's: those of others go back.
    let (mut vm, socket, _directory) = booted(ctx, Start::of(&two(ctx)).cmdline("numa=off"))?;
    modprobe(&mut vm)?;
    let balloon = asked(ctx, &socket)?;
    note(&ctx.transcript, &format!("numa=off ended as {balloon}"));
    ensure!(balloon["off_node"] == 0, "numa=off: it ended as {balloon}");
    vm.power_off()?;

    // A vnode without vCPUs; CPUs kept from the scheduler do their interrupts all the same.
    let mut spec = two(ctx);
    spec.vnodes.push(Vnode::on(ctx.pnode(1), 128, &[]));
    let start = Start::of(&spec).cmdline("isolcpus=1").flag(&["--free-page-reporting"]);
    let (mut vm, socket, _directory) = booted(ctx, start)?;
    modprobe(&mut vm)?;
    let output = ctx.numavisor(&["ctl", "--api-socket", &socket, "mem-set", "2", "64M"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("vnode 2: off_node (it has no vCPUs"), "ctl says {said}");
    // What the guest frees by itself comes back all the same.
    vm.ask("alloc 64 2")?;
    let had = backed(&vm, &spec)?[2];
    vm.ask("free")?;
    let began = Instant::now();
    while backed(&vm, &spec)?[2] + 40 * 1024 > had {
        ensure!(began.elapsed() < PATIENCE, "the host still has {:?} KiB of {had}", backed(&vm, &spec)?);
        std::thread::sleep(LOOK);
    }
    refused(&ctl(ctx, &socket, &["vnodes", "2"])?["balloon"], &["off_node"], "no vCPUs")?;
    ensure!(mem_set(ctx, &socket, "1", "160M")?, "isolcpus: it did not come");
    // With its last CPU gone the interrupt moves, and stays away when the CPU is back.
    for online in [0, 1] {
        vm.output(&format!("echo {online} > /sys/devices/system/cpu/cpu1/online"))?;
        let balloon = asked(ctx, &socket)?;
        let right = balloon["outcome"]["stop"] == "off_node" && balloon["off_node"] == 0;
        ensure!(right && kib(&balloon["on_node"]) == 64 * 1024, "online={online}: {balloon}");
    }
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    vm.power_off()
}

/// The target is there before the driver, and the driver starts on a CPU of the other vnode; then its module goes while
/// it gives pages, and comes again.
fn unloaded(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx);
    let (mut vm, socket, _directory) = booted(ctx, Start::of(&spec))?;
    refused(&asked(ctx, &socket)?, &["no_driver"], "before the driver")?;
    vm.output("taskset -p 1 1")?;
    modprobe(&mut vm)?;
    let reached = |what: &str| -> Result<()> {
        let began = Instant::now();
        loop {
            let balloon = &ctl(ctx, &socket, &["vnodes", "1"])?["balloon"];
            if balloon["outcome"]["stop"] == "reached" && kib(&balloon["on_node"]) == TAKEN_MIB * 1024 {
                ensure!(balloon["off_node"] == 0, "{what}: {balloon}");
                return Ok(());
            }
            let given_up = balloon["phase"] == "exhausted";
            ensure!(began.elapsed() < PATIENCE && !given_up, "{what}: after {:?} {balloon}", began.elapsed());
            std::thread::sleep(LOOK);
        }
    };
    reached("the driver that came late")?;

    let free = |vm: &mut Vm| -> Result<u64> { Ok(vm.report()?.nodes[1].free_kib) };
    let before = free(&mut vm)?;
    for round in 0..2 {
        ctl(ctx, &socket, &["mem-set", "1", "64M", "--detach"])?;
        vm.output("rmmod virtio_balloon")?;
        let balloon = ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone();
        note(&ctx.transcript, &format!("round {round}: when the module was gone: {balloon}"));
        ensure!(balloon["on_node"] == 0 && balloon["returned"] == 0, "without a driver: {balloon}");
        let gained = free(&mut vm)?.saturating_sub(before);
        // What its CPU keeps on its lists is not counted.
        ensure!(gained >= 72 * 1024, "the guest has {gained} KiB more on vnode 1");
        let ended = settled(ctx, &socket)?[1]["balloon"].clone();
        refused(&ended, &["no_driver"], "the module is gone")?;
        // It comes while somebody looks for it all the time, and would take pages where it starts.
        ctl(ctx, &socket, &["mem-set", "1", KEPT, "--detach"])?;
        modprobe(&mut vm)?;
        reached("the module that came again")?;
    }
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}

/// Asks each vnode for all that it may give, at once; none has as much.
fn past_free_memory(ctx: &Ctx, spec: &GuestSpec, kernel: GuestKernel) -> Result<()> {
    let (mut vm, socket, _directory) = started(ctx, spec, kernel)?;
    fixed_watermarks(&mut vm)?;
    let vnodes = 0..spec.vnodes.len();
    // Less is free than what is above the floor.
    vnodes.clone().try_for_each(|vnode| vm.ask(&format!("alloc 72 {vnode}")).map(|_| ()))?;
    for vnode in vnodes.clone() {
        ctl(ctx, &socket, &["mem-set", &vnode.to_string(), "64M", "--detach"])?;
    }
    let ended = settled(ctx, &socket)?;
    for vnode in vnodes {
        let balloon = &ended[vnode]["balloon"];
        let stop = balloon["outcome"]["stop"].as_str().unwrap_or_default();
        // The last one finds no page of another vnode either.
        let right = ["dry", "exhausted"].contains(&stop) && balloon["off_node"] == 0;
        ensure!(right, "vnode {vnode}: it ended as {ended}");
        all_came(ctx, &mut vm, vnode, kib(&balloon["on_node"]))?;
    }
    check::bound(&vm, spec)?;
    ensure!(vm.output("echo alive")? == "alive", "the guest does not answer");
    vm.power_off()
}

fn all_at_once(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32, mib| Vnode::on(ctx.pnode(index as usize / 2), mib, &[index]);
    let spec = GuestSpec::new(vec![vnode(0, 208), vnode(1, 144), vnode(2, 160), vnode(3, 128)]);
    past_free_memory(ctx, &spec, GuestKernel::Stock)
}

fn two_at_once(ctx: &Ctx) -> Result<()> {
    past_free_memory(ctx, &two(ctx), GuestKernel::Newer)
}

/// A program takes memory of the vnode while the balloon does, and more than the balloon leaves.
fn pressure(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx);
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Stock)?;
    ctl(ctx, &socket, &["mem-set", "1", "64M", "--detach"])?;
    vm.ask("alloc 72 1")?;
    let ended = settled(ctx, &socket)?[1]["balloon"].clone();
    note(&ctx.transcript, &format!("beside a program: {ended}"));
    let words = ["dry", "drained", "exhausted"];
    let stop = ended["outcome"]["stop"].as_str().unwrap_or_default();
    ensure!(words.contains(&stop) && ended["off_node"] == 0, "beside a program: {ended}");
    // More than is free: Linux takes pages back from balloons before it kills.
    vm.ask("alloc 48 1")?;
    let after = ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone();
    note(&ctx.transcript, &format!("with more: {after}"));
    ensure!(kib(&after["on_node"]) < kib(&ended["on_node"]) && after["off_node"] == 0, "with more: {after}");
    ensure!(vm.output("dmesg | grep -c 'Killed process' || true")? == "0", "the guest killed for it");
    vm.ask("free")?;
    ensure!(mem_set(ctx, &socket, "1", KEPT)?, "what was free again did not come");
    check::bound(&vm, &spec)?;
    vm.power_off()
}

/// A page of 1 GiB that the guest gives a half of stays taken, and everybody says so.
fn gigantic(ctx: &Ctx) -> Result<()> {
    let second = ctx.pnode(1);
    let pool = Pool::reserve(second, SIZE_1G, 1)
        .map_err(|error| anyhow::Error::new(Skip(format!("needs a free page of 1 GiB: {error:#}"))))?;
    let before = pools::free(second, SIZE_1G)?;
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 1024, &[0]),
        Vnode::on(second, 1024, &[1]).with("pages=1G"),
    ]);
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Stock)?;
    let taken = |vm: &Vm, out: u64, when: &str| -> Result<()> {
        let balloon = ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone();
        note(&ctx.transcript, &format!("{when}: {balloon}"));
        let said = [&balloon["on_node"], &balloon["partial"], &balloon["returned"]].map(kib);
        ensure!(said == [out * 1024, out * 1024, 0] && balloon["off_node"] == 0, "{when}: {balloon}");
        let (free, had) = (pools::free(second, SIZE_1G)?, backed(vm, &spec)?[1]);
        ensure!(free + 1 == before && had == SIZE_1G, "{when}: {free} pages are free, {had} KiB the vnode's");
        Ok(())
    };
    let words = ["ctl", "--api-socket", &socket, "mem-set", "1", "512M"];
    let output = ctx.numavisor(&words)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "the target was refused");
    let line = "vnode 1: 512M in its balloon cannot be freed: the host frees pages of 1G as a whole";
    ensure!(text.contains(line), "ctl says {text}");
    taken(&vm, 512, "with half of it out")?;

    // By pnode, as the host counts: nothing can be had, so nobody is asked.
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &second.to_string(), "--exact", "64M"])?;
    ensure!(done["stop"] == "whole_pages" && done["reached"] == 0, "by pnode: {done}");
    ensure!(
        done["parts"][0]["stop"] == "whole_pages" && done["parts"][0]["requested"] == 0,
        "by pnode: {done}"
    );
    taken(&vm, 512, "by pnode")?;

    ensure!(mem_set(ctx, &socket, "1", "1024M")?, "giving back was refused");
    taken(&vm, 0, "given back")?;
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;
    vm.power_off()?;
    drop(pool);
    Ok(())
}

/// Pages of a pool come back as a whole and are there before the guest has them again, or it waits.
fn pool(ctx: &Ctx) -> Result<()> {
    let second = ctx.pnode(1);
    let pages = MIB / 2;
    let own = Pool::reserve(second, SIZE_2M, pages)?;
    let before = pools::free(second, SIZE_2M)?;
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), OTHER_MIB, &[0]),
        Vnode::on(second, MIB, &[1]).with("pages=2M,prefault=on"),
    ]);
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Stock)?;
    ensure!(pools::free(second, SIZE_2M)? == before - pages, "the pool did not give all of the vnode");
    ensure!(mem_set(ctx, &socket, "1", KEPT)?, "the target was refused");
    let came = |ctx: &Ctx| -> Result<(u64, Value)> {
        let balloon = ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone();
        let free = pools::free(second, SIZE_2M)? * SIZE_2M;
        Ok((free - (before - pages) * SIZE_2M, balloon))
    };
    let (free, balloon) = came(ctx)?;
    note(&ctx.transcript, &format!("{free} KiB are in the pool: {balloon}"));
    let asked = TAKEN_MIB * 1024;
    ensure!(kib(&balloon["on_node"]) == asked && kib(&balloon["returned"]) == free, "{free} KiB: {balloon}");
    // Pages of which the guest keeps a part do not come.
    ensure!(free.abs_diff(asked) <= asked / 10, "{free} KiB are in the pool again, of {asked}");
    check::bound(&vm, &spec)?;

    // Somebody else takes them all; the guest that wants some back waits, and goes on when it can.
    let size = own.size()?;
    own.resize(size - pools::free(second, SIZE_2M)?)?;
    let begun = backed(&vm, &spec)?[1];
    ensure!(!mem_set(ctx, &socket, "1", ALL)?, "pages came from nowhere");
    let (_, balloon) = came(ctx)?;
    ensure!(balloon["outcome"]["stop"] == "host_short", "it ended as {balloon}");
    ensure!(backed(&vm, &spec)?[1] == begun && vm.output("echo alive")? == "alive", "the guest is not well");
    own.resize(size)?;
    let began = Instant::now();
    while kib(&came(ctx)?.1["on_node"]) > 0 {
        ensure!(began.elapsed() < PATIENCE, "after {PATIENCE:?}: {}", came(ctx)?.1);
        std::thread::sleep(LOOK);
    }
    ensure!(pools::free(second, SIZE_2M)? == before - pages, "not all of it came back: {:?}", came(ctx)?);
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;

    // By pnode, as the kernel counts it.
    vm.ask("free")?;
    let to = second.to_string();
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "--exact", "64M"])?;
    note(&ctx.transcript, &format!("by pnode: {done}"));
    let rise = kib(&done["after"]["in_pools"]).saturating_sub(kib(&done["before"]["in_pools"]));
    ensure!(done["stop"] == "reached" && rise == kib(&done["reached"]), "by pnode: {done}");
    vm.power_off()?;
    drop(own);
    Ok(())
}
