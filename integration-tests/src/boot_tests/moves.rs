//! A running VM asked over its socket: a vnode moves to another pnode under its guest, and the guest waits and goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{Start, Vm};

const FOUR: Needs =
    Needs { nodes: 4, mib: 600, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const EIGHT: Needs =
    Needs { nodes: 8, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TWO: Needs =
    Needs { nodes: 2, mib: 1000, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "move_a_vnode_under_its_guest_and_back", needs: TWO, run: there_and_back },
    BootTest { name: "move_keeps_preferred_and_interleave", needs: FOUR, run: policies },
    BootTest { name: "a_vnode_bound_to_two_pnodes_has_a_part_on_each", needs: FOUR, run: parts },
    BootTest { name: "move_of_a_claimed_vnode_claims_there_and_gives_back", needs: TWO, run: claims },
    BootTest { name: "swap_two_vnodes_of_nearly_full_pnodes", needs: TWO, run: swap },
    BootTest { name: "moves_cancelled_resumed_and_reversed", needs: TWO, run: cancelled },
    BootTest { name: "two_moves_at_once_and_one_during_an_inflate", needs: FOUR, run: at_once },
    BootTest { name: "move_ends_with_its_vm", needs: TWO, run: shutdown },
    BootTest { name: "evacuate_a_pnode", needs: EIGHT, run: evacuate },
    BootTest { name: "ctl_pauses_and_resumes_the_guest", needs: TWO, run: pause },
];

/// `numavisor ctl` of these words, which must succeed; its answer.
pub(super) fn ctl(ctx: &Ctx, socket: &Path, words: &[&str]) -> Result<Value> {
    let socket = socket.to_string_lossy();
    let arguments = [&["ctl", "--api-socket", &*socket, "--json"], words].concat();
    let output = ctx.numavisor(&arguments)?;
    ensure!(output.status.success(), "ctl {words:?} ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).with_context(|| format!("ctl {words:?} answers {text}"))
}

fn there_and_back(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = |pnode| GuestSpec::new(vec![Vnode::on(pnode, 384, &[0, 1]), Vnode::on(second, 160, &[2])]);
    let before = spec(first);
    let flag = socket.to_string_lossy().into_owned();
    let mut vm = ctx.boot(&Start::of(&before).flag(&["--api-socket", &flag, "--rng"]))?;
    vm.ask("modprobe virtio_pci virtio_rng")?;
    vm.ask("alloc 200 0")?;
    let touched = check::bound(&vm, &before)?;
    ensure!(touched[0] >= 200 * 256, "the guest touched {} pages of vnode 0", touched[0]);

    for pnode in [second, first] {
        let after = spec(pnode);
        let to = pnode.to_string();
        let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to])?;
        ensure!(job["state"] == "done", "the move ended as {job}");
        // Every page and every thread is there, whatever the guest did meanwhile.
        let there = check::bound(&vm, &after)?;
        ensure!(there[0] >= touched[0], "{} pages are there, {} were touched before", there[0], touched[0]);
        check::threads(&vm, &after, |pnode| ctx.cpus_of(pnode))?;
        check::workers(&vm, &[("rng", ctx.cpus_of(pnode))])?;
        // What it touches from now on comes from there too.
        vm.ask("alloc 40 0")?;
        check::bound(&vm, &after)?;
        let vnodes = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
        ensure!(vnodes["pnodes"] == to, "ctl vnodes says {vnodes}");
        ensure!(vnodes["residency"]["misplaced"] == 0, "ctl vnodes says {vnodes}");
        check::guest_view(&after, &vm.report()?)?;
    }
    vm.power_off()?;
    ensure!(!socket.exists(), "the socket is left behind");
    Ok(())
}

/// The policy of each mapping of a vnode, as numa_maps has it.
pub(super) fn policy_of(vm: &Vm, spec: &GuestSpec, vnode: usize) -> Result<Vec<String>> {
    Ok(residency::guest_ram(vm.pid(), spec)?[vnode].iter().map(|area| area.policy.clone()).collect())
}

/// Pages of a vnode by pnode.
pub(super) fn pages_of(vm: &Vm, spec: &GuestSpec, vnode: usize) -> Result<BTreeMap<u32, u64>> {
    residency::pages_by_node(vm.pid(), &residency::guest_ram(vm.pid(), spec)?[vnode])
}

fn policies(ctx: &Ctx) -> Result<()> {
    let (directory, at) = (tempfile::tempdir()?, |index| ctx.pnode(index));
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let spec = GuestSpec::new(vec![
        Vnode::on(at(0), 192, &[0]).with("policy=preferred"),
        Vnode { pnodes: vec![at(0), at(1)], ..Vnode::on(at(0), 256, &[1]) }.with("policy=interleave"),
        Vnode::on(at(1), 160, &[2]),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--api-socket", &flag]))?;
    for vnode in ["48 0", "96 1", "48 2"] {
        vm.ask(&format!("alloc {vnode}"))?;
    }
    let pair = |a: u32, b: u32| if a < b { format!("{a}-{b}") } else { format!("{b}-{a}") };
    for (third, fourth) in [(at(2), at(3)), (at(0), at(1))] {
        let (both, third_word) = (pair(third, fourth), third.to_string());
        for (vnode, to, policy) in [
            ("0", &third_word, format!("prefer:{third}")),
            ("1", &both, format!("interleave:{both}")),
            ("2", &third_word, format!("bind:{third}")),
        ] {
            let job = ctl(ctx, &socket, &["move", vnode, "--pnode", to])?;
            ensure!(job["state"] == "done", "the move ended as {job}");
            let index: usize = vnode.parse()?;
            let policies = policy_of(&vm, &spec, index)?;
            ensure!(policies.iter().all(|found| *found == policy), "{policies:?}, not {policy}");
            let pages = pages_of(&vm, &spec, index)?;
            let total: u64 = pages.values().sum();
            let on = |pnode: u32| pages.get(&pnode).copied().unwrap_or(0);
            let home = if vnode == "1" { on(third) + on(fourth) } else { on(third) };
            ensure!(home == total && total > 0, "vnode {vnode}: {pages:?}, not on {to}");
            let told = ctl(ctx, &socket, &["vnodes", vnode, "--fresh"])?;
            // The guest may have touched more meanwhile.
            let hit = told["residency"]["interleave_hit"].as_u64();
            ensure!(hit.is_some() == (vnode == "1") && hit.is_none_or(|hit| hit >= total * 4096), "{told}");
            ensure!(told["residency"]["misplaced"] == 0, "{told}");
            // What came there by moves, beside what the guest touched since.
            for brought in told["moves"]["pnodes"].as_array().context("nothing is said of pnodes")? {
                let (pnode, bytes) = (brought["pnode"].as_u64(), brought["moved"].as_u64());
                let here = on(u32::try_from(pnode.context("no pnode")?)?) * 4096;
                ensure!(here == 0 || (1..=here).contains(&bytes.context("no bytes")?), "{told}, {pages:?}");
            }
            if vnode == "1" {
                ensure!(on(third) * 100 >= total * 40 && on(fourth) * 100 >= total * 40, "{pages:?}");
            }
        }
    }
    check::guest_view(&spec, &vm.report()?)?;
    vm.power_off()
}

/// A vnode over two pnodes: each half is bound to one and lies there to the last page, at start and after moves.
fn parts(ctx: &Ctx) -> Result<()> {
    let (directory, at) = (tempfile::tempdir()?, |index| ctx.pnode(index));
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let spec = GuestSpec::new(vec![
        Vnode { pnodes: vec![at(0), at(1)], ..Vnode::on(at(0), 256, &[0]) }.with("prefault=on"),
        Vnode::on(at(1), 160, &[1]),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--api-socket", &flag]))?;
    let halves = |vm: &Vm, pnodes: &[u32]| -> Result<()> {
        let size = 256 / pnodes.len() as u64;
        let parts: Vec<(u32, u64)> = pnodes.iter().map(|pnode| (*pnode, size)).collect();
        let touched = check::parts(vm, &spec, 0, &parts)?;
        ensure!(touched.iter().all(|pages| *pages == size << 8), "{touched:?} pages, not {size} MiB of each");
        Ok(())
    };
    let sorted = |mut pnodes: Vec<u32>| {
        pnodes.sort_unstable();
        pnodes
    };
    halves(&vm, &sorted(vec![at(0), at(1)]))?;
    // To two others, to one, and to two again.
    for to in [vec![at(2), at(3)], vec![at(2)], vec![at(0), at(3)]] {
        let to = sorted(to);
        let list = to.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let job = ctl(ctx, &socket, &["move", "0", "--pnode", &list])?;
        ensure!(job["state"] == "done" && job["left"].as_array().is_some_and(Vec::is_empty), "{job}");
        halves(&vm, &to)?;
        let vnodes = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
        ensure!(vnodes["residency"]["misplaced"] == 0, "{vnodes}");
    }
    check::guest_view(&spec, &vm.report()?)?;
    vm.power_off()
}

/// What the living VM that is not this test's `host` process claims, by pnode in bytes.
pub(super) fn claimed(ctx: &Ctx, directory: &Path) -> Result<BTreeMap<u32, u64>> {
    let directory = directory.to_string_lossy();
    let output = ctx.numavisor(&["host", "--json", "--claims", "--claims-dir", &directory])?;
    let host: Value = serde_json::from_slice(&output.stdout)?;
    let pnodes = host["pnodes"].as_array().context("no pnodes")?.iter();
    let one = |pnode: &Value| {
        let id = u32::try_from(pnode["id"].as_u64()?).ok()?;
        Some((id, pnode["claimed"]["memory"].as_u64()?))
    };
    Ok(pnodes.filter_map(one).filter(|(_, bytes)| *bytes > 0).collect())
}

fn claims(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (socket, claims) = (directory.path().join("api"), directory.path().join("claims"));
    let (flag, place) = (socket.to_string_lossy().into_owned(), claims.to_string_lossy().into_owned());
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = GuestSpec::new(vec![Vnode::on(first, 384, &[0]), Vnode::on(second, 160, &[1])]);
    let vm = ctx.boot(&Start::of(&spec).flag(&["--api-socket", &flag, "--claims-dir", &place]))?;
    let mib = |mib: u64| mib << 20;
    let before = BTreeMap::from([(first, mib(384)), (second, mib(160))]);
    ensure!(claimed(ctx, &claims)? == before, "{:?}", claimed(ctx, &claims)?);
    let to = second.to_string();
    ctl(ctx, &socket, &["move", "0", "--pnode", &to, "--bandwidth", "16M", "--detach"])?;
    let both = BTreeMap::from([(first, mib(384)), (second, mib(544))]);
    ensure!(claimed(ctx, &claims)? == both, "while it moves: {:?}", claimed(ctx, &claims)?);
    // Cancelled: room on both sides is kept. Resumed: that of before is given back.
    ctl(ctx, &socket, &["cancel", "1"])?;
    wait_over(ctx, &socket, "1")?;
    ensure!(claimed(ctx, &claims)? == both, "after the cancel: {:?}", claimed(ctx, &claims)?);
    ctl(ctx, &socket, &["move", "0", "--pnode", &to])?;
    let after = BTreeMap::from([(second, mib(544))]);
    ensure!(claimed(ctx, &claims)? == after, "after the move: {:?}", claimed(ctx, &claims)?);
    vm.power_off()?;
    ensure!(claimed(ctx, &claims)?.is_empty(), "after the end: {:?}", claimed(ctx, &claims)?);
    Ok(())
}

/// The job when it is over.
pub(super) fn wait_over(ctx: &Ctx, socket: &Path, job: &str) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let seen = ctl(ctx, socket, &["jobs", job])?;
        if seen["state"] != "running" {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "the job does not end: {seen}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn swap(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    // Two of three parts of each pnode: neither vnode fits beside the other.
    let free =
        |pnode: u32| ctx.host.nodes.iter().find(|node| node.node == pnode).map_or(0, |node| node.free_mib);
    let mib = free(first).min(free(second)) * 2 / 3 / 2 * 2;
    let spec = |a, b| GuestSpec::new(vec![Vnode::on(a, mib, &[0]), Vnode::on(b, mib - 32, &[1])]);
    let before = spec(first, second);
    let mut vm = ctx.boot(&Start::of(&before).flag(&["--api-socket", &flag]))?;
    vm.ask("fill")?;
    let touched = check::bound(&vm, &before)?;
    // It does not fit alone.
    let socket_word = socket.to_string_lossy();
    let alone = ["ctl", "--api-socket", &*socket_word, "move", "0", "--pnode", &second.to_string()];
    ensure!(!ctx.numavisor(&alone)?.status.success(), "vnode 0 fits beside vnode 1: the test proves nothing");
    // Nor is there another place for it: that is said, and nothing moves.
    let leave = ["ctl", "--api-socket", &*socket_word, "evacuate", "--pnode", &first.to_string()];
    let refused = ctx.numavisor(&leave)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let why = [&format!("pnode {first}: cannot be evacuated: "), ".memory: ", &format!("{second}")];
    ensure!(!refused.status.success() && why.iter().all(|word| said.contains(*word)), "{said}");
    check::bound(&vm, &before)?;
    let jobs = ctl(ctx, &socket, &["swap", "0", "1"])?;
    ensure!(
        jobs["jobs"].as_array().is_some_and(|jobs| jobs.iter().all(|job| job["state"] == "done")),
        "{jobs}"
    );
    let after = spec(second, first);
    let there = check::bound(&vm, &after)?;
    ensure!(there.iter().zip(&touched).all(|(now, then)| now >= then), "{touched:?} before, {there:?} after");
    check::threads(&vm, &after, |pnode| ctx.cpus_of(pnode))?;
    check::guest_view(&after, &vm.report()?)?;
    vm.power_off()
}

fn cancelled(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = |pnode| GuestSpec::new(vec![Vnode::on(pnode, 448, &[0]), Vnode::on(second, 160, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec(first)).flag(&["--api-socket", &flag]))?;
    vm.ask("alloc 300 0")?;
    for (round, (to, end)) in [(second, second), (first, second)].into_iter().enumerate() {
        let job =
            ctl(ctx, &socket, &["move", "0", "--pnode", &to.to_string(), "--bandwidth", "40M", "--detach"])?;
        let id = job["id"].to_string();
        std::thread::sleep(Duration::from_millis(400));
        ctl(ctx, &socket, &["cancel", &id])?;
        let over = wait_over(ctx, &socket, &id)?;
        ensure!(over["state"] == "cancelled", "round {round}: {over}");
        // Pages are on both sides, and that is what is told.
        let pages = pages_of(&vm, &spec(first), 0)?;
        ensure!(pages.len() == 2, "round {round}: {pages:?}");
        let policy = policy_of(&vm, &spec(first), 0)?;
        ensure!(policy.iter().all(|found| *found == format!("bind:{to}")), "round {round}: {policy:?}");
        let vnode = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
        ensure!(vnode["pnodes"] == format!("{to}"), "round {round}: {vnode}");
        let away: u64 = pages.iter().filter(|(pnode, _)| **pnode != to).map(|(_, pages)| pages * 4096).sum();
        ensure!(vnode["residency"]["misplaced"] == away, "round {round}: {away} is not in {vnode}");
        // By pnode too, of this VM and of all that live.
        let all = ctl(ctx, &socket, &["vnodes", "--fresh"])?;
        let host = ctx.numavisor(&["host", "--json", "--claims"])?;
        let host: Value = serde_json::from_slice(&host.stdout)?;
        let of = |list: &Value, key: &str, pointer: &str| {
            let one = list.as_array()?.iter().find(|pnode| pnode[key] == to)?.clone();
            one.pointer(pointer)?.as_u64()
        };
        let told =
            (of(&all["pnodes"], "pnode", "/foreign"), of(&host["pnodes"], "id", "/claimed/memory_foreign"));
        ensure!(told == (Some(away), Some(away)), "round {round}: {away} is not in {told:?}: {all}");
        // The first is resumed, the second reversed.
        let job = ctl(ctx, &socket, &["move", "0", "--pnode", &end.to_string()])?;
        ensure!(job["state"] == "done", "round {round}: {job}");
        check::bound(&vm, &spec(end))?;
        check::threads(&vm, &spec(end), |pnode| ctx.cpus_of(pnode))?;
    }
    let vnode = ctl(ctx, &socket, &["vnodes", "0"])?;
    let moves = &vnode["moves"];
    ensure!(moves["done"] == 2 && moves["cancelled"] == 2 && moves["failed"] == 0, "{moves}");
    vm.power_off()
}

fn at_once(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let at = |index| ctx.pnode(index);
    let spec = |a, b| GuestSpec::new(vec![Vnode::on(a, 448, &[0]), Vnode::on(b, 416, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec(at(0), at(1))).flag(&["--api-socket", &flag]))?;
    vm.ask("modprobe virtio_pci virtio_balloon")?;
    vm.ask("alloc 200 0")?;
    vm.ask("alloc 200 1")?;
    // The guest gives memory of vnode 0 back while both vnodes move.
    ctl(ctx, &socket, &["mem-set", "0", "400M", "--detach"])?;
    let (third, fourth) = (at(2).to_string(), at(3).to_string());
    let one = ctl(ctx, &socket, &["move", "0", "--pnode", &third, "--bandwidth", "200M", "--detach"])?;
    let two = ctl(ctx, &socket, &["move", "1", "--pnode", &fourth, "--bandwidth", "200M", "--detach"])?;
    // One vnode twice is refused.
    let word = socket.to_string_lossy();
    let again = ctx.numavisor(&["ctl", "--api-socket", &*word, "move", "0", "--pnode", &fourth])?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(!again.status.success() && said.contains("is being moved"), "{said}");
    for job in [one, two] {
        let over = wait_over(ctx, &socket, &job["id"].to_string())?;
        ensure!(over["state"] == "done", "{over}");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let vnode = ctl(ctx, &socket, &["vnodes", "0"])?;
        if vnode["balloon"]["outcome"].is_object() {
            ensure!(vnode["balloon"]["outcome"]["stop"] == "reached", "{vnode}");
            break;
        }
        ensure!(Instant::now() < deadline, "the inflate does not end: {vnode}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let after = spec(at(2), at(3));
    check::bound(&vm, &after)?;
    check::threads(&vm, &after, |pnode| ctx.cpus_of(pnode))?;
    vm.power_off()
}

fn shutdown(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (socket, claims) = (directory.path().join("api"), directory.path().join("claims"));
    let (flag, place) = (socket.to_string_lossy().into_owned(), claims.to_string_lossy().into_owned());
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = GuestSpec::new(vec![Vnode::on(first, 448, &[0]), Vnode::on(second, 160, &[1])]);
    let start = Start::of(&spec).flag(&["--api-socket", &flag, "--claims-dir", &place]);
    let mut vm = ctx.boot(&start)?;
    vm.ask("alloc 300 0")?;
    // It would go on for minutes.
    let to = second.to_string();
    ctl(ctx, &socket, &["move", "0", "--pnode", &to, "--bandwidth", "2M", "--detach"])?;
    let began = Instant::now();
    vm.power_off()?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(30), "the end took {took:?}");
    ensure!(claimed(ctx, &claims)?.is_empty(), "claims are left: {:?}", claimed(ctx, &claims)?);
    Ok(())
}

fn evacuate(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = GuestSpec::new(vec![
        Vnode::on(first, 160, &[0]),
        Vnode::on(first, 128, &[1]),
        Vnode::on(second, 192, &[2]),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--api-socket", &flag]))?;
    vm.ask("alloc 40 0")?;
    vm.ask("alloc 40 1")?;
    let jobs = ctl(ctx, &socket, &["evacuate", "--pnode", &first.to_string()])?;
    let jobs = jobs["jobs"].as_array().context("no jobs")?.clone();
    ensure!(jobs.len() == 2 && jobs.iter().all(|job| job["state"] == "done"), "{jobs:?}");
    for vnode in 0..2 {
        let pages = pages_of(&vm, &spec, vnode)?;
        ensure!(!pages.contains_key(&first), "vnode {vnode} is on {first} still: {pages:?}");
    }
    ensure!(pages_of(&vm, &spec, 2)?.keys().eq([&second]), "vnode 2 moved");
    let again = ctl(ctx, &socket, &["evacuate", "--pnode", &first.to_string()])?;
    ensure!(again["jobs"].as_array().is_some_and(Vec::is_empty), "{again}");
    // What has no other place is refused before anything moves.
    let word = socket.to_string_lossy();
    let nowhere = ctx.numavisor(&["ctl", "--api-socket", &*word, "evacuate", "--pnode", "4095"])?;
    ensure!(!nowhere.status.success(), "a pnode that is not there was evacuated");
    check::guest_view(&spec, &vm.report()?)?;
    vm.power_off()
}

fn pause(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--api-socket", &flag]))?;
    ensure!(ctl(ctx, &socket, &["info"])?["state"] == "running", "the VM does not run");
    ctl(ctx, &socket, &["pause"])?;
    ensure!(ctl(ctx, &socket, &["info"])?["state"] == "paused", "the VM is not paused");
    // A guest that waits uses no processor.
    let used = residency::vcpu_ticks(vm.pid())?;
    std::thread::sleep(Duration::from_secs(1));
    let later = residency::vcpu_ticks(vm.pid())?;
    ensure!(later == used, "the vCPUs ran for {} ticks while they should wait", later - used);
    ctl(ctx, &socket, &["resume"])?;
    ensure!(ctl(ctx, &socket, &["info"])?["state"] == "running", "the VM does not run again");
    vm.output("echo still here")?;
    check::quiet_log(&vm.report()?)?;
    vm.power_off()
}
