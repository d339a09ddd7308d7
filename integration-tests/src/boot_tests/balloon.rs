//! Memory taken back from one vnode of a running guest: from that vnode, as guest and host count it, and given again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{BootTest, Ctx};
use crate::guest::report;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{Start, Vm, note};

pub(super) const TWO: Needs =
    Needs { nodes: 2, mib: 320, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

const EIGHT: Needs =
    Needs { nodes: 8, mib: 320, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_takes_from_the_vnode_that_was_asked", needs: TWO, run: stock },
    BootTest { name: "balloon_takes_from_the_vnode_under_a_newer_kernel", needs: TWO, run: newer },
    BootTest { name: "balloon_beside_page_cache_and_reports_of_free_pages", needs: TWO, run: beside_cache },
    BootTest { name: "reclaim_of_a_vnode_on_two_pnodes", needs: TWO, run: one_to_many },
    BootTest { name: "reclaim_of_a_vnode_bound_to_two_pnodes_and_give", needs: TWO, run: of_one_part },
    BootTest { name: "reclaim_by_pnode_of_four_vnodes_on_three_of_eight", needs: EIGHT, run: four_vnodes },
];

/// Small: what an emulated guest touches of its memory for the first time takes it a fifth of a millisecond a page.
pub(super) const MIB: u64 = 224;
/// The other vnode has another size, so that their mappings can be told apart.
pub(super) const OTHER_MIB: u64 = 208;
/// What most tests take of the vnode, and what it keeps then.
pub(super) const TAKEN_MIB: u64 = 96;
pub(super) const KEPT: &str = "128M";
pub(super) const ALL: &str = "224M";
const TAKEN_KIB: u64 = TAKEN_MIB * 1024;
/// The guest does other things meanwhile, and what its CPUs keep on their lists is not counted as free: what they give
/// back before it is taken was not free either.
const NOISE_KIB: u64 = 20 * 1024;
/// What the host uses and frees on the node meanwhile, beside the VM's memory, which is counted page by page.
const HOST_NOISE_KIB: u64 = 8 * 1024;
/// What a guest has in use on a node one time more, one time less.
const GUEST_NOISE_KIB: u64 = 16 * 1024;
/// Between two looks: each is a program's start, which takes an emulated host a good part of that.
pub(super) const LOOK: Duration = Duration::from_millis(700);
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

fn stock(ctx: &Ctx) -> Result<()> {
    takes_and_gives(ctx, GuestKernel::Stock, "4K")
}

fn newer(ctx: &Ctx) -> Result<()> {
    takes_and_gives(ctx, GuestKernel::Newer, "thp")
}

/// What the host has of each vnode in memory.
pub(super) fn backed(vm: &Vm, spec: &GuestSpec) -> Result<Vec<u64>> {
    let ram = residency::guest_ram(vm.pid(), spec)?;
    Ok(ram.iter().map(|areas| areas.iter().flat_map(|area| area.kib.values()).sum()).collect())
}

/// KiB free on a node, and how many of them wait in the CPUs' own lists, which `MemFree` leaves out.
fn host_free(node: u32) -> (u64, u64) {
    let listed = report::node_per_cpu_kib(node);
    (report::node_memory(node).1 + listed, listed)
}

pub(super) fn mem_set(ctx: &Ctx, socket: &str, vnode: &str, size: &str) -> Result<bool> {
    Ok(ctx.numavisor(&["ctl", "--api-socket", socket, "mem-set", vnode, size])?.status.success())
}

fn takes_and_gives(ctx: &Ctx, kernel: GuestKernel, pages: &str) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let all =
        |pnode, mib, vcpu: u32| Vnode::on(pnode, mib, &[vcpu]).with(&format!("prefault=on,pages={pages}"));
    let spec = GuestSpec::new(vec![all(first, OTHER_MIB, 0), all(second, MIB, 1)]);
    let directory = std::env::temp_dir().join(format!("numavisor-balloon-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let socket = directory.join("api").to_string_lossy().into_owned();
    let _ = std::fs::remove_file(&socket);
    let mut vm = ctx.boot(&Start::of(&spec).kernel(kernel).flag(&["--api-socket", &socket]))?;
    vm.ask("modprobe virtio_pci virtio_balloon").context("the guest's balloon driver")?;
    check::bound(&vm, &spec)?;
    let (host, guest) = (host_free(second), vm.report()?);
    ensure!(backed(&vm, &spec)? == [OTHER_MIB * 1024, MIB * 1024], "not all of the guest's memory was there");
    ensure!(!mem_set(ctx, &socket, "1", "63M")?, "a target below the floor was taken");

    ensure!(mem_set(ctx, &socket, "1", KEPT)?, "the target was refused");
    let began = Instant::now();
    // A huge page of which a part is out may be made whole again by the host's kernel.
    let slack = if pages == "thp" { TAKEN_KIB / 50 } else { 0 };
    while backed(&vm, &spec)?[1] > MIB * 1024 - TAKEN_KIB + slack {
        if began.elapsed() > PATIENCE {
            bail!("after {PATIENCE:?} the host has {:?} KiB of the vnodes", backed(&vm, &spec)?);
        }
        std::thread::sleep(LOOK);
    }
    let left = backed(&vm, &spec)?;
    let right = left[0] == OTHER_MIB * 1024 && left[1].abs_diff(MIB * 1024 - TAKEN_KIB) <= slack;
    ensure!(right, "the host has {left:?} KiB of the vnodes");
    check::bound(&vm, &spec)?;
    let (free, listed) = host_free(second);
    let (rise, on_lists) = (free.saturating_sub(host.0), listed.saturating_sub(host.1));
    note(&ctx.transcript, &format!("pnode {second}: {rise} KiB more free, {on_lists} KiB of CPUs' lists"));
    ensure!(
        rise.abs_diff(TAKEN_KIB) <= TAKEN_KIB / 50 + HOST_NOISE_KIB,
        "pnode {second} has {rise} KiB more free, {on_lists} KiB of it on CPUs' lists"
    );
    let now = vm.report()?;
    let nodes = guest.nodes.iter().zip(&now.nodes);
    let lost: Vec<u64> = nodes.map(|(then, now)| then.free_kib.saturating_sub(now.free_kib)).collect();
    ensure!(
        lost[0] <= NOISE_KIB && lost[1].abs_diff(TAKEN_KIB) <= NOISE_KIB,
        "the guest's nodes have {lost:?} KiB less free"
    );

    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    // Linux takes first what was freed last.
    vm.ask("alloc 64 1")?;
    check::bound(&vm, &spec)?;
    let now = backed(&vm, &spec)?[1];
    ensure!(now >= left[1] + 48 * 1024, "the host had {} KiB of the vnode, and has {now} KiB", left[1]);
    vm.power_off()
}

/// `ctl` of these words, whatever its status; what it printed.
pub(super) fn ctl(ctx: &Ctx, socket: &str, words: &[&str]) -> Result<Value> {
    let arguments = [&["ctl", "--api-socket", socket, "--json"], words].concat();
    let output = ctx.numavisor(&arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).with_context(|| format!("ctl {words:?} answers {text}"))
}

/// KiB of each vnode on each pnode, as numa_maps has them.
fn by_node(vm: &Vm, spec: &GuestSpec) -> Result<Vec<std::collections::BTreeMap<u32, u64>>> {
    let mut all = Vec::new();
    for areas in residency::guest_ram(vm.pid(), spec)? {
        let mut sums = std::collections::BTreeMap::new();
        for (node, kib) in areas.iter().flat_map(|area| &area.kib) {
            *sums.entry(*node).or_default() += kib;
        }
        all.push(sums);
    }
    Ok(all)
}

/// A guest with its balloon driver; the socket lives as long as the directory.
pub(super) fn started(
    ctx: &Ctx,
    spec: &GuestSpec,
    kernel: GuestKernel,
) -> Result<(Vm, String, tempfile::TempDir)> {
    let (mut vm, socket, directory) = booted(ctx, Start::of(spec).kernel(kernel))?;
    vm.ask("modprobe virtio_pci virtio_balloon").context("the guest's balloon driver")?;
    Ok((vm, socket, directory))
}

/// All vnodes, when what their balloons were asked for has ended.
pub(super) fn settled(ctx: &Ctx, socket: &str) -> Result<Value> {
    let began = Instant::now();
    loop {
        let vnodes = ctl(ctx, socket, &["vnodes"])?["vnodes"].clone();
        let all = vnodes.as_array().context("no vnodes")?;
        let ended =
            |vnode: &Value| vnode["balloon"]["request"] == 0 || !vnode["balloon"]["outcome"].is_null();
        if all.iter().all(ended) {
            return Ok(vnodes);
        }
        ensure!(began.elapsed() < PATIENCE, "after {PATIENCE:?}: {vnodes}");
        std::thread::sleep(LOOK);
    }
}

/// A guest without a balloon driver.
pub(super) fn booted(ctx: &Ctx, start: Start) -> Result<(Vm, String, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api").to_string_lossy().into_owned();
    let vm = ctx.boot(&start.flag(&["--api-socket", &socket]))?;
    Ok((vm, socket, directory))
}

/// KiB of a field in bytes.
pub(super) fn kib(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0) / 1024
}

fn one_to_many(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let vnode = Vnode { pnodes: vec![first, second], ..Vnode::on(first, MIB, &[0, 1]) };
    let spec = GuestSpec::new(vec![vnode.with("policy=interleave,prefault=on,pages=4K")]);
    let (vm, socket, _directory) = started(ctx, &spec, GuestKernel::Newer)?;
    let (before, free) = (by_node(&vm, &spec)?, host_free(second).0);
    ensure!(before[0][&first] + before[0][&second] == MIB * 1024, "the vnode lies as {before:?} KiB");
    let asked = 48 * 1024;
    let to = second.to_string();
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "--exact", "48M"])?;
    ensure!(done["stop"] == "reached" && kib(&done["reached"]) == asked, "it ended as {done}");
    let moved = kib(&done["parts"][0]["moved"]);
    ensure!(moved > asked / 4, "only {moved} KiB were moved, half of what came was of the other pnode");
    let after = by_node(&vm, &spec)?;
    let lost = [first, second].map(|node| before[0][&node].saturating_sub(after[0][&node]));
    ensure!(lost == [0, asked], "the pnodes have {lost:?} KiB less of it: {before:?}, {after:?}");
    let rise = host_free(second).0.saturating_sub(free);
    ensure!(rise.abs_diff(asked) <= asked / 50 + HOST_NOISE_KIB, "pnode {second} has {rise} KiB more free");
    vm.power_off()
}

/// A vnode that is bound to two pnodes gives of the part on one of them, and has it back there.
fn of_one_part(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let vnode = Vnode { pnodes: vec![first, second], ..Vnode::on(first, MIB, &[0, 1]) };
    let spec = GuestSpec::new(vec![vnode.with("prefault=on,pages=4K")]);
    let (vm, socket, _directory) = started(ctx, &spec, GuestKernel::Newer)?;
    let before = by_node(&vm, &spec)?;
    let half = MIB * 1024 / 2;
    ensure!([first, second].map(|node| before[0][&node]) == [half; 2], "the vnode lies as {before:?} KiB");
    let (to, asked) = (second.to_string(), 48 * 1024);
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "--exact", "48M"])?;
    ensure!(done["stop"] == "reached" && kib(&done["reached"]) == asked, "it ended as {done}");
    let moved = kib(&done["parts"][0]["moved"]);
    let after = by_node(&vm, &spec)?;
    let lost = [first, second].map(|node| before[0][&node].saturating_sub(after[0][&node]));
    ensure!(lost == [0, asked], "the pnodes have {lost:?} KiB less of it: {before:?}, {after:?}");
    // What took the room on the other pnode in goes home before the guest has its pages again.
    let done = ctl(ctx, &socket, &["give", "--pnode", &to, "48M"])?;
    ensure!(
        done["stop"] == "reached" && kib(&done["parts"][0]["moved"]) == moved,
        "{moved} KiB moved: {done}"
    );
    let mut sorted = [first, second];
    sorted.sort_unstable();
    check::parts(&vm, &spec, 0, &sorted.map(|pnode| (pnode, MIB / 2)))?;
    vm.power_off()
}

/// Vnodes 0 to 3 on pnodes 1, 3, 3 and 5.
fn four_vnodes(ctx: &Ctx) -> Result<()> {
    let at = [1, 3, 3, 5].map(|index| ctx.pnode(index));
    let mib = [208, 112, 128, 160];
    let vnode = |index: usize| {
        let vcpu = u32::try_from(index).unwrap_or(0);
        Vnode::on(at[index], mib[index], &[vcpu]).with("prefault=on,pages=4K")
    };
    let spec = GuestSpec::new((0..4).map(vnode).collect());
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Stock)?;

    // Both ways round, measured.
    let vnodes = ctl(ctx, &socket, &["vnodes", "--fresh"])?;
    let of = |vnode: usize| json!({"vnode": vnode, "bytes": mib[vnode] << 20});
    let expected = json!([
        {"pnode": at[0], "vnodes": [of(0)]},
        {"pnode": at[1], "vnodes": [of(1), of(2)]},
        {"pnode": at[3], "vnodes": [of(3)]},
    ]);
    let pnodes = vnodes["pnodes"].as_array().context("no pnodes")?;
    let held: Value =
        pnodes.iter().map(|held| json!({"pnode": held["pnode"], "vnodes": held["vnodes"]})).collect();
    ensure!(held == expected, "the pnodes hold {held}");

    // One pnode, one vnode; then one pnode, two vnodes, in proportion to what they have there.
    for (pnode, mib_asked, shares) in [(at[0], 48_u64, vec![48]), (at[1], 60, vec![28, 32])] {
        let (before, free) = (backed(&vm, &spec)?, host_free(pnode).0);
        let (to, size) = (pnode.to_string(), format!("{mib_asked}M"));
        let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "--exact", &size])?;
        ensure!(done["stop"] == "reached" && done["elsewhere"] == 0, "it ended as {done}");
        let after = backed(&vm, &spec)?;
        let lost: Vec<u64> = before.iter().zip(&after).map(|(before, after)| before - after).collect();
        let there = (0..4).filter(|index| at[*index] == pnode);
        let mut expected = vec![0; 4];
        there.zip(&shares).for_each(|(index, mib)| expected[index] = mib * 1024);
        ensure!(lost == expected, "the vnodes gave {lost:?} KiB, not {expected:?}: {done}");
        let rise = host_free(pnode).0.saturating_sub(free);
        ensure!(
            rise.abs_diff(mib_asked * 1024) <= mib_asked * 1024 / 50 + HOST_NOISE_KIB,
            "{rise} KiB more free on {pnode}"
        );
    }

    // Down to the floor, and not past it; or nearly, where the guest itself has a little more than that in use there.
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &at[3].to_string(), "--exact", "120M"])?;
    let (room, reached) = ((mib[3] - 64) * 1024, kib(&done["reached"]));
    let near = done["parts"][0]["stop"] == "dry" && (room - GUEST_NOISE_KIB..room).contains(&reached);
    ensure!(done["stop"] == "floor" && reached == room || near, "it ended as {done}");
    let done = ctl(ctx, &socket, &["give", "--pnode", &at[3].to_string(), &format!("{reached}K")])?;
    ensure!(done["stop"] == "reached", "it ended as {done}");

    // More than its vnode has free: exact keeps what it had and touches nobody else; best effort goes on elsewhere.
    vm.ask("alloc 64 3")?;
    let before = backed(&vm, &spec)?;
    let to = at[3].to_string();
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "--exact", "120M"])?;
    let after = backed(&vm, &spec)?;
    ensure!(done["stop"] == "short" && done["parts"][0]["stop"] == "dry", "it ended as {done}");
    // The guest itself may touch some that it had back.
    let lost = before[3].saturating_sub(after[3]);
    ensure!(
        after[..3] == before[..3] && lost.abs_diff(kib(&done["reached"])) <= 1024,
        "{before:?} {after:?} {done}"
    );
    let done = ctl(ctx, &socket, &["reclaim", "--pnode", &to, "40M"])?;
    ensure!(done["stop"] == "elsewhere", "it ended as {done}");
    ensure!(kib(&done["reached"]) + kib(&done["elsewhere"]) >= 40 * 1024, "{done}");
    let vnodes = ctl(ctx, &socket, &["vnodes", "--fresh"])?;
    let all = vnodes["vnodes"].as_array().context("no vnodes")?;
    ensure!(all.iter().all(|vnode| vnode["balloon"]["off_node"] == 0), "{vnodes}");

    // Given back, it comes from the pnode again.
    let done = ctl(ctx, &socket, &["give", "--pnode", &at[1].to_string(), "60M"])?;
    ensure!(done["stop"] == "reached", "it ended as {done}");
    let before = by_node(&vm, &spec)?;
    vm.ask("alloc 40 2")?;
    check::bound(&vm, &spec)?;
    let after = by_node(&vm, &spec)?;
    ensure!(after[2][&at[2]] >= before[2][&at[2]] + 20 * 1024, "{before:?} {after:?}");

    // All at once, there and back.
    vm.ask("free")?;
    for out in [0, 40] {
        for (vnode, mib) in mib.iter().enumerate() {
            let (vnode, size) = (vnode.to_string(), format!("{}M", mib - out));
            ctl(ctx, &socket, &["mem-set", &vnode, &size, "--detach"])?;
        }
        let settled = settled(ctx, &socket)?;
        let all = settled.as_array().context("no vnodes")?;
        let right = |vnode: &Value| {
            let (balloon, stop) = (&vnode["balloon"], &vnode["balloon"]["outcome"]["stop"]);
            *stop == "reached" && balloon["off_node"] == 0 && kib(&balloon["on_node"]) == out * 1024
        };
        ensure!(all.iter().all(right), "all at once ended as {settled}");
    }
    check::bound(&vm, &spec)?;
    vm.power_off()
}

/// A number of KiB in a line of the guest's `meminfo` of a node.
fn guest_kib(vm: &mut Vm, node: usize, key: &str) -> Result<u64> {
    let line = vm.output(&format!("grep {key}: /sys/devices/system/node/node{node}/meminfo"))?;
    line.split_whitespace().nth(3).and_then(|kib| kib.parse().ok()).with_context(|| format!("{key}: {line}"))
}

/// Has Linux not raise its watermarks for a while when blocks of movable pages are broken up (`watermark_boost_factor`):
/// how far a balloon comes would depend on that.
pub(super) fn fixed_watermarks(vm: &mut Vm) -> Result<()> {
    vm.output("echo 0 > /proc/sys/vm/watermark_boost_factor").map(|_| ())
}

/// What could be had of a vnode is what lies above its low watermark: the balloon, which has `had` KiB, is at most 1 %
/// short of it, and an array.
pub(super) fn all_came(ctx: &Ctx, vm: &mut Vm, node: usize, had: u64) -> Result<()> {
    let script = "'/^Node/{n=$2} n==\"NODE,\"&&$1==\"low\"{s+=$2} END{print s*4}'";
    let low = vm.output(&format!("awk {} /proc/zoneinfo", script.replace("NODE", &node.to_string())))?;
    let low: u64 = low.trim().parse().with_context(|| format!("low watermark: {low}"))?;
    let free = guest_kib(vm, node, "MemFree")?;
    let said = format!("node {node}: {had} KiB came, {free} KiB are free, the low watermark is {low} KiB");
    note(&ctx.transcript, &said);
    ensure!(free <= low + had / 100 + 1024, "{said}");
    Ok(())
}

/// Free pages reported through the first vnode's balloon come back from the vnode that they are of; a target past what
/// is free, with page cache on the vnode, ends without a page of another one.
fn beside_cache(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = GuestSpec::new(vec![Vnode::on(first, OTHER_MIB, &[0]), Vnode::on(second, MIB, &[1])]);
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk").to_string_lossy().into_owned();
    std::fs::File::create(&disk)?.set_len(64 << 20)?;
    let socket = directory.path().join("api").to_string_lossy().into_owned();
    let path = format!("path={disk}");
    let flags = ["--api-socket", &socket, "--free-page-reporting", "--disk", &path];
    let mut vm = ctx.boot(&Start::of(&spec).kernel(GuestKernel::Newer).flag(&flags))?;
    vm.ask("modprobe virtio_pci virtio_blk virtio_balloon")?;
    fixed_watermarks(&mut vm)?;

    let free = |ctx: &Ctx| -> Result<[u64; 2]> {
        let free = ctl(ctx, &socket, &["free-memory"])?["vnodes"].clone();
        ensure!(free[0]["vnode"] == 0 && free[1]["vnode"] == 1, "the guest says {free}");
        Ok([kib(&free[0]["bytes"]), kib(&free[1]["bytes"])])
    };
    let before = free(ctx)?;
    vm.ask("alloc 120 1")?;
    let lost: Vec<u64> =
        before.into_iter().zip(free(ctx)?).map(|(then, now)| then.saturating_sub(now)).collect();
    note(
        &ctx.transcript,
        &format!("the guest said {before:?} KiB were free, and {lost:?} KiB less after it took 120 MiB"),
    );
    ensure!(
        lost[0] <= NOISE_KIB && lost[1].abs_diff(120 * 1024) <= 2 * NOISE_KIB,
        "the guest says it has {lost:?} KiB less free after it took 120 MiB on vnode 1"
    );
    ensure!(backed(&vm, &spec)?[1] >= 120 * 1024, "the host has {:?} KiB", backed(&vm, &spec)?);
    vm.ask("free")?;
    let began = Instant::now();
    while backed(&vm, &spec)?[1] > 90 * 1024 {
        ensure!(began.elapsed() < PATIENCE, "the host still has {:?} KiB", backed(&vm, &spec)?);
        std::thread::sleep(LOOK);
    }
    let vnodes = loop {
        let vnodes = ctl(ctx, &socket, &["vnodes"])?["vnodes"].clone();
        if kib(&vnodes[0]["balloon"]["guest"]["free-memory"]) > 100 * 1024 {
            break vnodes;
        }
        ensure!(began.elapsed() < 2 * PATIENCE, "the guest says {vnodes}");
        std::thread::sleep(Duration::from_millis(500));
    };
    ensure!(kib(&vnodes[1]["balloon"]["reported"]) >= 48 * 1024, "reported were {vnodes}");
    check::bound(&vm, &spec)?;

    // A disk that nobody has open has no cache.
    vm.output("sleep 600 </dev/vda >/dev/null 2>&1 &")?;
    vm.output("taskset 2 dd if=/dev/vda of=/dev/null bs=1M")?;
    let cache = guest_kib(&mut vm, 1, "FilePages")?;
    ensure!(cache >= 48 * 1024, "node 1 has {cache} KiB of page cache");
    ensure!(!mem_set(ctx, &socket, "1", "64M")?, "all of it came");
    let mut vnode = ctl(ctx, &socket, &["vnodes", "1"])?;
    if vnode["balloon"]["off_node"] != 0 {
        let metrics = ctx.numavisor(&["ctl", "--api-socket", &socket, "metrics"])?.stdout;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let ours = metrics.lines().filter(|line| line.contains("_balloon_"));
        ours.for_each(|line| note(&ctx.transcript, line));
        // The guest may have taken pages by itself since, and brings none of another vnode for good.
        std::thread::sleep(Duration::from_secs(2));
        vnode = ctl(ctx, &socket, &["vnodes", "1"])?;
    }
    let balloon = &vnode["balloon"];
    ensure!(balloon["outcome"]["stop"] == "dry" && balloon["off_node"] == 0, "it ended as {vnode}");
    all_came(ctx, &mut vm, 1, kib(&balloon["on_node"]))?;
    ensure!(guest_kib(&mut vm, 1, "FilePages")? >= cache - cache / 10, "page cache went for it");
    ensure!(mem_set(ctx, &socket, "1", ALL)?, "giving back was refused");
    check::bound(&vm, &spec)?;
    vm.power_off()
}
