//! Moves of every kind of page under a guest that writes, and onto a pnode that fills up meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::memory::huge_kib;
use super::moves::{EIGHT, TWO, claimed, ctl, pages_of, policy_of, wait_over};
use super::{BootTest, Ctx, disks};
use crate::guest::{DONE, OUT, report};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::pools::{self, Pool, SIZE_2M};
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{PATIENCE, Start};
use crate::runner::withheld::Withheld;
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
    BootTest { name: "move_while_a_disk_reads_into_pages", needs: Needs { root: true, ..TWO }, run: in_use },
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
        ensure!(vnode["residency"]["misplaced"] == 0 && vnode["moves"]["left"] == 0, "{vnode}");
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
    ensure!(vnode["residency"]["misplaced"] == on(first) && vnode["moves"]["left"] == on(first), "{vnode}");
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

/// What the guest reads while its disk does not answer, all of it at once into pages of its own.
const READ: usize = 1 << 20;
/// Other pages that the kernel may happen to use.
const OTHERS: u64 = 256 << 10;

fn in_use(ctx: &Ctx) -> Result<()> {
    let content: Vec<u8> = (0..READ / 8).flat_map(|word| (word * 0x9E37_79B1).to_le_bytes()).collect();
    let Some(disk) = Withheld::serve(content.clone())? else {
        return Err(Skip("needs a free /dev/nbd (`modprobe nbd`)".to_owned()).into());
    };
    let directory = tempfile::tempdir()?;
    let (socket, claims) = (directory.path().join("api"), directory.path().join("claims"));
    let (flag, place) = (socket.to_string_lossy().into_owned(), claims.to_string_lossy().into_owned());
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    // Only vnode 0 has CPUs, so the guest reads there.
    let spec = |pnode| {
        GuestSpec::new(vec![Vnode::on(pnode, MIB, &[0, 1]).with("pages=4K"), Vnode::on(second, 160, &[])])
    };
    let mut start = Start::of(&spec(first)).flag(&["--api-socket", &flag, "--claims-dir", &place]);
    start.flags.extend(disks::flag(disk.path(), ",direct=on,readonly=on"));
    let mut vm = ctx.boot(&start)?;
    vm.ask("modprobe virtio_pci virtio_blk")?;
    disk.withhold();
    vm.tell(&format!("sh dd if=/dev/vda iflag=direct bs={} count=1 | md5sum", READ))?;
    let deadline = Instant::now() + PATIENCE;
    while disk.waiting() < READ as u64 {
        ensure!(Instant::now() < deadline, "the disk is asked for {} bytes only", disk.waiting());
        std::thread::sleep(Duration::from_millis(50));
    }

    // All goes but the pages that the disk's answer will be written to.
    let to = second.to_string();
    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to])?;
    let left = job["left"].as_array().context("nothing is said of what stayed")?;
    ensure!(job["state"] == "done" && left.len() == 1 && left[0]["errno"] == libc::EBUSY, "{job}");
    let busy = left[0]["bytes"].as_u64().context("no bytes")?;
    ensure!((READ as u64..READ as u64 + OTHERS).contains(&busy), "{job}");
    // What is told is what is there.
    let pages = pages_of(&vm, &spec(first), 0)?;
    let on = |pnode: u32| pages.get(&pnode).copied().unwrap_or(0) * 4096;
    ensure!(on(first) == busy && job["moved"] == on(second), "{pages:?}, {job}");
    let policy = policy_of(&vm, &spec(first), 0)?;
    ensure!(policy.iter().all(|found| *found == format!("bind:{second}")), "{policy:?}");
    let vnode = ctl(ctx, &socket, &["vnodes", "0", "--fresh"])?;
    ensure!(vnode["residency"]["misplaced"] == busy && vnode["moves"]["left"] == busy, "{vnode}");
    let both = BTreeMap::from([(first, busy), (second, (MIB + 160) << 20)]);
    ensure!(claimed(ctx, &claims)? == both, "{:?}, not {both:?}", claimed(ctx, &claims)?);
    check::threads(&vm, &spec(second), |pnode| ctx.cpus_of(pnode))?;
    ensure!(disk.waiting() == READ as u64, "the disk has answered meanwhile");

    // The answer reaches the guest, and then the pages go too.
    disk.release()?;
    let read = vm.line("what the guest read", |line| line.strip_prefix(OUT).map(str::to_owned))?;
    vm.line("the end of the guest's reading", |line| line.starts_with(DONE).then_some(()))?;
    let path = directory.path().join("content");
    std::fs::write(&path, &content)?;
    let sum = ctx.busybox(&["md5sum", &path.to_string_lossy()])?;
    ensure!(
        read.split_whitespace().next() == sum.split_whitespace().next(),
        "the guest read {read}, not {sum}"
    );
    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to])?;
    ensure!(job["state"] == "done" && job["left"].as_array().is_some_and(Vec::is_empty), "{job}");
    check::bound(&vm, &spec(second))?;
    let there = BTreeMap::from([(second, (MIB + 160) << 20)]);
    ensure!(claimed(ctx, &claims)? == there, "{:?}, not {there:?}", claimed(ctx, &claims)?);
    vm.power_off()
}
