//! Moves of every kind of page under a guest that writes, and onto a pnode that fills up meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::memory::huge_kib;
use super::moves::{EIGHT, TWO, ctl, pages_of, policy_of, wait_over};
use super::{BootTest, Ctx};
use crate::guest::{DONE, report};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::pools::{self, Pool, SIZE_2M};
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;
use crate::sys::BoundMemory;

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "move_4k_pages_under_load", needs: TWO, run: |ctx| under_load(ctx, "4K") },
    BootTest {
        name: "move_transparent_huge_pages_under_load",
        needs: TWO,
        run: |ctx| under_load(ctx, "thp"),
    },
    BootTest { name: "move_2m_pages_under_load", needs: Needs { root: true, ..TWO }, run: pool_under_load },
    BootTest { name: "move_to_a_pnode_that_fills_up", needs: EIGHT, run: fills_up },
];

/// Memory of the vnode that moves.
const MIB: u64 = 192;
/// How long the guest writes for each move. In an emulator small pages are slower to move than this: each that moves
/// interrupts the vCPUs that run.
const LOAD_SECONDS: u64 = 8;

fn under_load(ctx: &Ctx, pages: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    // Only vnode 0 has CPUs, so the guest writes there.
    let spec = |pnode| {
        let pages = format!("pages={pages}");
        GuestSpec::new(vec![Vnode::on(pnode, MIB, &[0, 1]).with(&pages), Vnode::on(second, 160, &[])])
    };
    let mut vm = ctx.boot(&Start::of(&spec(first)).flag(&["--api-socket", &flag]))?;
    vm.ask("alloc 60 0")?;
    let touched = check::bound(&vm, &spec(first))?;
    let huge = huge_kib(vm.pid())?;
    for to in [second, first] {
        vm.tell(&format!("timestamps {LOAD_SECONDS}"))?;
        std::thread::sleep(Duration::from_secs(1));
        let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to.to_string()])?;
        ensure!(job["state"] == "done" && job["left"].as_array().is_some_and(Vec::is_empty), "{job}");
        let wrote = vm.line("the guest's timestamps", |line| {
            line.strip_prefix(DONE)?.strip_prefix("timestamps ").map(str::to_owned)
        })?;
        let wrote: Value = serde_json::from_str(&wrote)?;
        ensure!(wrote["stamps"].as_u64().is_some_and(|stamps| stamps > 1000), "{wrote}");
        // Every page that the vnode has, whatever it touched meanwhile.
        let there = check::bound(&vm, &spec(to))?;
        ensure!(there[0] >= touched[0], "{} pages are there, {} were touched before", there[0], touched[0]);
        check::threads(&vm, &spec(to), |pnode| ctx.cpus_of(pnode))?;
        let vnode = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
        ensure!(vnode["residency"]["foreign"] == 0 && vnode["moves"]["left"] == 0, "{vnode}");
        ensure!(huge_kib(vm.pid())? * 10 >= huge * 9, "huge pages were split: {huge} KiB before");
        let kib: u64 = if pages == "2M" { SIZE_2M } else { 4 };
        for area in &residency::guest_ram(vm.pid(), &spec(to))?[0] {
            ensure!(area.page_kib == kib, "{area:x?} is not in pages of {kib} KiB");
        }
    }
    check::guest_view(&spec(first), &vm.report()?)?;
    vm.power_off()
}

fn pool_under_load(ctx: &Ctx) -> Result<()> {
    let pnodes = [ctx.pnode(0), ctx.pnode(1)];
    let pages = MIB / 2;
    let _pools: Vec<Pool> =
        pnodes.iter().map(|pnode| Pool::reserve(*pnode, SIZE_2M, pages)).collect::<Result<_>>()?;
    let free = || pnodes.iter().map(|pnode| pools::free(*pnode, SIZE_2M)).collect::<Result<Vec<_>>>();
    let before = free()?;
    under_load(ctx, "2M")?;
    ensure!(free()? == before, "free huge pages were {before:?} and are {:?} now", free()?);
    Ok(())
}

/// Memory that the pnode keeps free when it is full for this test.
const KEPT_MIB: u64 = 110;

fn fills_up(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = |pnode| GuestSpec::new(vec![Vnode::on(pnode, MIB + 64, &[0]).with("prefault=on")]);
    let mut vm = ctx.boot(&Start::of(&spec(first)).flag(&["--api-socket", &flag]))?;
    let to = second.to_string();
    // A chunk, and then some seconds of nothing: room for another process to take what was promised.
    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to, "--bandwidth", "12M", "--detach"])?;
    let (_, free) = report::node_memory(second);
    let take = usize::try_from((free / 1024).saturating_sub(KEPT_MIB) << 20)?;
    let mut stranger = BoundMemory::map(take, second)?;
    stranger.touch(take);
    let over = wait_over(ctx, &socket, &job["id"].to_string())?;
    ensure!(over["state"] == "done", "{over}");
    // Most for lack of room; a few pages may be in use by the kernel at the moment.
    let left = over["left"].as_array().context("nothing is said of what stayed")?.clone();
    let of = |errno: i32| {
        left.iter().filter(|left| left["errno"] == errno).find_map(|left| left["bytes"].as_u64())
    };
    let (full, busy) = (of(12).context("the pnode did not fill up")?, of(16).unwrap_or(0));
    // What is told is what is there.
    let pages = pages_of(&vm, &spec(first), 0)?;
    let on = |pnode: u32| pages.get(&pnode).copied().unwrap_or(0) * 4096;
    ensure!(full + busy == on(first) && over["moved"] == on(second), "{pages:?}, {over}");
    let policy = policy_of(&vm, &spec(first), 0)?;
    ensure!(policy.iter().all(|found| *found == format!("bind:{second}")), "{policy:?}");
    let vnode = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
    ensure!(vnode["residency"]["foreign"] == on(first) && vnode["moves"]["left"] == on(first), "{vnode}");
    vm.output("echo still here")?;
    // With room again it goes on, and back.
    drop(stranger);
    for pnode in [second, first] {
        let job = ctl(ctx, &socket, &["move", "0", "--pnode", &pnode.to_string()])?;
        ensure!(job["state"] == "done" && job["left"].as_array().is_some_and(Vec::is_empty), "{job}");
        check::bound(&vm, &spec(pnode))?;
        check::threads(&vm, &spec(pnode), |pnode| ctx.cpus_of(pnode))?;
    }
    vm.power_off()
}
