//! Memory that one guest gives back is room for another VM, and is claimed again before the first guest has it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::balloon::{LOOK, PATIENCE, backed, ctl, kib};
use super::moves::claimed;
use super::{BootTest, Ctx};
use crate::guest::READY;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{Start, Vm};

const ONE: Needs =
    Needs { nodes: 1, mib: 700, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_release_makes_room_for_a_second_vm", needs: ONE, run: room_for_another },
    BootTest {
        name: "balloon_release_over_a_driver_that_goes_and_a_reset",
        needs: ONE,
        run: unload_and_reset,
    },
    BootTest { name: "balloon_of_a_guest_that_starts_another_kernel_stands_still", needs: ONE, run: kexec },
];

/// The first VM's vnode that gives memory.
const MIB: u64 = 288;
/// The second VM, and what the first one gives for it.
const SECOND_MIB: u64 = 144;
/// Left of the pnode beside the first VM: too little for the second.
const LEFT_MIB: u64 = 72;
/// A VM's own memory, its guest's page tables, and what the host does meanwhile.
const NOISE_KIB: u64 = 64 * 1024;
/// Claimed beside the first VM at most: what was left, and what the host has more of by then. Less than the second VM.
const ROOM_KIB: u64 = LEFT_MIB * 1024 + NOISE_KIB;

/// The vnode that gives and takes; to fill the other one takes time and says nothing.
const FILL: &str = "fill 0";

struct Place<'a> {
    ctx: &'a Ctx<'a>,
    directory: &'a Path,
    pnode: u32,
}

impl Place<'_> {
    fn socket(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn start(&self, name: &str, spec: &GuestSpec) -> Start {
        let (socket, claims) = (self.socket(name), self.socket("claims"));
        Start::of(spec).flag(&["--api-socket", &socket, "--claims-dir", &claims, "--on-reset", "reboot"])
    }

    fn second(&self) -> Start {
        self.start("second", &GuestSpec::new(vec![Vnode::on(self.pnode, SECOND_MIB, &[0])]))
    }

    fn ctl(&self, words: &[&str]) -> Result<Value> {
        ctl(self.ctx, &self.socket("first"), words)
    }

    /// What all VMs together claim of the pnode, in KiB.
    fn claimed(&self) -> Result<u64> {
        let all = claimed(self.ctx, &self.directory.join("claims"))?;
        Ok(all.get(&self.pnode).copied().unwrap_or(0) / 1024)
    }

    fn reclaim(&self) -> Result<()> {
        let (pnode, size) = (self.pnode.to_string(), format!("{SECOND_MIB}M"));
        let before = self.claimed()?;
        let done = self.ctl(&["reclaim", "--pnode", &pnode, "--exact", &size])?;
        // Of memory that was never touched nothing comes back, and it is room all the same.
        ensure!(kib(&done["released"]) == SECOND_MIB * 1024, "it ended as {done}");
        let claimed = self.claimed()?;
        ensure!(before - claimed == SECOND_MIB * 1024, "{claimed} KiB are claimed, {before} KiB before");
        ensure!(self.released()? == SECOND_MIB * 1024, "{}", self.ctl(&["vnodes"])?);
        Ok(())
    }

    fn sum(&self, of: impl Fn(&Value) -> u64) -> Result<u64> {
        let vnodes = self.ctl(&["vnodes"])?;
        Ok(vnodes["vnodes"].as_array().context("no vnodes")?.iter().map(of).sum())
    }

    fn released(&self) -> Result<u64> {
        self.sum(|vnode| kib(&vnode["released"]))
    }

    fn short(&self) -> Result<u64> {
        self.sum(|vnode| kib(&vnode["balloon"]["short"]))
    }

    /// Events of a kind that the first VM told.
    fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let words = ["ctl", "--api-socket", &self.socket("first"), "--json", "events", "--no-follow"];
        let told = self.ctx.numavisor(&words)?;
        let events = String::from_utf8_lossy(&told.stdout).into_owned();
        let events = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.filter(|event| event["type"] == kind).collect())
    }
}

fn within(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !done()? {
        ensure!(began.elapsed() < PATIENCE, "{what} did not come within {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The first VM: as much of the pnode as there is, but for a little, of which one vnode has its memory from the start.
fn first(ctx: &Ctx, pnode: u32) -> Result<GuestSpec> {
    let host: Value = serde_json::from_slice(&ctx.numavisor(&["host", "--json"])?.stdout)?;
    let all = host["pnodes"].as_array().context("no pnodes")?;
    let here = all.iter().find(|one| one["id"] == pnode).context("no such pnode")?;
    let available = kib(&here["memory_available"]) / 1024;
    let rest = available.saturating_sub(LEFT_MIB + MIB) / 2 * 2;
    let mut vnodes = vec![Vnode::on(pnode, MIB, &[0]).with("prefault=on")];
    if rest >= 64 {
        vnodes.push(Vnode::on(pnode, rest, &[1]));
    } else {
        vnodes[0] = Vnode::on(pnode, MIB + rest, &[0]).with("prefault=on");
    }
    Ok(GuestSpec::new(vnodes))
}

fn room_for_another(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = Place { ctx, directory: directory.path(), pnode: ctx.pnode(0) };
    let spec = first(ctx, place.pnode)?;
    let mut vm = ctx.boot(&place.start("first", &spec))?;
    vm.ask("modprobe virtio_pci virtio_balloon")?;
    let all = spec.vnodes.iter().map(|vnode| vnode.mib * 1024).sum::<u64>();
    ensure!(place.claimed()? == all, "{} KiB are claimed, not {all}", place.claimed()?);

    // The pnode is full, and then it is not.
    ctx.refused(&place.second(), 3)?;
    place.reclaim()?;
    let second = ctx.boot(&place.second())?;
    ensure!(place.claimed()? == all, "{} KiB are claimed, not {all}", place.claimed()?);

    // Now the first guest has to wait for what it gave.
    let pnode = place.pnode.to_string();
    let before = backed(&vm, &spec)?.iter().sum::<u64>();
    let done = place.ctl(&["give", "--pnode", &pnode, &format!("{SECOND_MIB}M")])?;
    ensure!(done["stop"] == "short", "it ended as {done}");
    ensure!(place.short()? > 0, "the guest does not wait: {}", place.ctl(&["vnodes"])?);
    let told = place.events("host_short")?;
    ensure!(
        !told.is_empty() && told.iter().all(|event| event["at_boot"] == false),
        "events tell of {told:?}"
    );
    vm.ask(FILL)?;
    vm.ask("free")?;
    ensure!(place.claimed()? <= all + ROOM_KIB, "the pnode is overbooked");
    let now = backed(&vm, &spec)?;
    let vnodes = place.ctl(&["vnodes"])?;
    for (at, vnode) in spec.vnodes.iter().enumerate() {
        let released = kib(&vnodes["vnodes"][at]["released"]);
        ensure!(
            now[at] + released <= vnode.mib * 1024,
            "the first VM has {now:?} KiB, {before} before, and released {released} of vnode {at}"
        );
    }

    // Another driver would wait too, and what does not start cannot go on.
    second.power_off()?;
    for (id, vnode) in spec.vnodes.iter().enumerate() {
        place.ctl(&["mem-set", &id.to_string(), &format!("{}M", vnode.mib)])?;
    }
    within("what the first guest gave", || Ok(place.released()? == 0 && place.short()? == 0))?;
    within("the end of the balloon", || Ok(place.sum(|vnode| kib(&vnode["balloon"]["on_node"]))? == 0))?;
    ensure!(place.claimed()? == all, "{} KiB are claimed, not {all}", place.claimed()?);
    vm.ask(FILL)?;
    vm.ask("free")?;
    check::bound(&vm, &spec)?;

    // A VM that ends leaves all of it to others.
    place.reclaim()?;
    let second = ctx.boot(&place.second())?;
    // A guest that powers off resets its balloon, though there is no room for what it gave.
    vm.power_off()?;
    ensure!(place.claimed()? == SECOND_MIB * 1024, "{} KiB are claimed", place.claimed()?);
    let mut vm = ctx.boot(&place.start("first", &GuestSpec::new(vec![Vnode::on(place.pnode, MIB, &[0])])))?;
    ensure!(vm.runs()?, "the third VM does not run");
    vm.power_off()?;
    second.power_off()?;
    ensure!(place.claimed()? == 0, "{} KiB are claimed", place.claimed()?);
    Ok(())
}

/// A kernel that starts another leaves its balloon with pages out. The other one runs until it uses them, and stands still
/// until there is room.
fn kexec(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = Place { ctx, directory: directory.path(), pnode: ctx.pnode(0) };
    let spec = first(ctx, place.pnode)?;
    let mut start = place.start("first", &spec);
    let kernel = GuestKernel::StockBzImage;
    for file in [ctx.payload.kernel(kernel), ctx.payload.initramfs(kernel)] {
        let disk = format!("path={},readonly=on,format=raw", file.display());
        start = start.flag(&["--disk", &disk]);
    }
    let mut vm = ctx.boot(&start)?;
    vm.ask("modprobe virtio_pci virtio_blk virtio_balloon")?;
    let all = spec.vnodes.iter().map(|vnode| vnode.mib * 1024).sum::<u64>();
    place.reclaim()?;
    let second = ctx.boot(&place.second())?;

    vm.tell("kexec /dev/vda /dev/vdb")?;
    within("the guest that waits for memory", || Ok(place.short()? > 0))?;
    let told = "guest stopped until";
    vm.line(told, |line| line.contains(told).then_some(()))?;
    let had = backed(&vm, &spec)?.iter().sum::<u64>();
    std::thread::sleep(4 * LOOK);
    let has = backed(&vm, &spec)?.iter().sum::<u64>();
    ensure!(has == had, "it stood still, and went from {had} to {has} KiB");
    ensure!(has <= all - SECOND_MIB * 1024 + NOISE_KIB / 8, "the first VM has {has} KiB of {all}");
    // What is asked of it meanwhile does not make it go on, and it can be asked.
    place.ctl(&["pause"])?;
    place.ctl(&["resume"])?;
    std::thread::sleep(LOOK);
    ensure!(backed(&vm, &spec)?.iter().sum::<u64>() == had, "it went on without memory");

    second.power_off()?;
    vm.line("the other kernel's init", |line| (line == READY).then_some(()))?;
    ensure!(place.short()? == 0 && place.released()? == 0, "{}", place.ctl(&["vnodes"])?);
    ensure!(place.claimed()? == all, "{} KiB are claimed, not {all}", place.claimed()?);
    vm.ask(FILL)?;
    vm.ask("free")?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}

/// A driver that is unloaded gives all back first, and waits with that; a guest that resets meanwhile boots with what is
/// claimed, and with all of it as soon as there is room.
fn unload_and_reset(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let place = &Place { ctx, directory: directory.path(), pnode: ctx.pnode(0) };
    let spec = &first(ctx, place.pnode)?;
    let mut started = ctx.boot(&place.start("first", spec))?;
    let vm = &mut started;
    vm.ask("modprobe virtio_pci virtio_balloon")?;
    let all = spec.vnodes.iter().map(|vnode| vnode.mib * 1024).sum::<u64>();
    place.reclaim()?;
    let second = place.ctx.boot(&place.second())?;
    let told = place.events("host_short")?.len();
    vm.output("rmmod virtio_balloon </dev/null >/dev/null 2>&1 &")?;
    within("the driver that goes", || Ok(place.short()? > 0))?;
    within("the event", || Ok(place.events("host_short")?.len() > told))?;
    ensure!(place.claimed()? <= all + ROOM_KIB, "the pnode is overbooked");

    let memory = |place: &Place| place.sum(|vnode| kib(&vnode["memory"]));
    ensure!(memory(place)? == all, "{}", place.ctl(&["vnodes"])?);
    let reset = |vm: &mut Vm| -> Result<()> {
        place.ctl(&["reset"])?;
        vm.line("the guest's init after a reset", |line| (line == READY).then_some(()))?;
        Ok(())
    };
    let total =
        |vm: &mut Vm| -> Result<u64> { Ok(vm.report()?.nodes.iter().map(|node| node.total_kib).sum()) };
    reset(vm)?;
    let (smaller, released, booted) = (total(vm)?, place.released()?, memory(place)?);
    ensure!(released > 0 && released <= SECOND_MIB * 1024, "{released} KiB are released");
    // In units of 2 MiB.
    ensure!(all - booted >= released && all - booted < released + 4096, "{booted} KiB booted of {all}");
    let told = place.events("host_short")?;
    ensure!(told.iter().any(|event| event["at_boot"] == true), "events tell of {told:?}");
    vm.ask(FILL)?;
    let vnodes = place.ctl(&["vnodes"])?;
    let small = |(at, vnode): (usize, &Vnode)| {
        let mib = kib(&vnodes["vnodes"][at]["memory"]) / 1024;
        Vnode { mib, ..vnode.clone() }
    };
    let small = GuestSpec::new(spec.vnodes.iter().enumerate().map(small).collect());
    let now = backed(vm, &small)?.iter().sum::<u64>();
    ensure!(now <= booted && place.claimed()? <= all + ROOM_KIB, "the VM has {now} KiB");

    second.power_off()?;
    reset(vm)?;
    ensure!(place.released()? == 0 && memory(place)? == all, "{}", place.ctl(&["vnodes"])?);
    let bigger = total(vm)?;
    ensure!(
        bigger.abs_diff(smaller + released) <= NOISE_KIB,
        "{smaller} KiB, then {bigger} KiB in the guest"
    );
    ensure!(place.claimed()? == all, "{} KiB are claimed, not {all}", place.claimed()?);
    started.power_off()
}
