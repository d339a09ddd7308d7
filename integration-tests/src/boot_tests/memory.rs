//! Guest memory that is really used: every page of it is on its node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::balloon::{ctl, mem_set, started};
use super::{BootTest, Ctx};
use crate::guest::memory::reserve_kib;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::pools::{self, Pool, SIZE_1G, SIZE_2M};
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "memory_all_of_it_filled_is_on_its_pnode", needs: TWO, run: filled },
    BootTest { name: "memory_prefaulted_is_there_before_the_guest_runs", needs: TWO, run: prefaulted },
    BootTest { name: "memory_transparent_huge_pages", needs: TWO, run: transparent },
    BootTest {
        name: "memory_that_is_shared_is_placed_given_back_and_moved",
        needs: Needs { root: true, ..TWO },
        run: shared,
    },
    BootTest { name: "memory_2m_pages_from_each_nodes_pool", needs: Needs { root: true, ..TWO }, run: huge },
    BootTest {
        name: "memory_1g_pages_from_each_nodes_pool",
        needs: Needs { mib: 2048, root: true, ..TWO },
        run: gigantic,
    },
    BootTest {
        name: "memory_a_short_pool_is_an_error_at_start",
        needs: Needs { root: true, ..TWO },
        run: short_pool,
    },
    BootTest { name: "memory_a_full_node_is_refused_at_start", needs: TWO, run: full_node },
    BootTest { name: "memory_two_guests_at_once", needs: TWO, run: two_guests },
];

fn two(ctx: &Ctx, extra: &str) -> GuestSpec {
    GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 192, &[0]).with(extra),
        Vnode::on(ctx.pnode(1), 160, &[1]).with(extra),
    ])
}

fn filled(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx, "");
    let mut vm = ctx.boot(&Start::of(&spec))?;
    vm.ask("fill")?;
    let report = vm.report()?;
    check::guest_view(&spec, &report)?;
    for node in &report.nodes {
        let most = reserve_kib(node.total_kib) + 8 * 1024;
        ensure!(node.free_kib <= most, "node {} has {} KiB free after the fill", node.node, node.free_kib);
    }
    let touched = check::bound(&vm, &spec)?;
    for (vnode, pages) in spec.vnodes.iter().zip(&touched) {
        // All but what the guest leaves free and what Linux never touches was used.
        let least = (vnode.mib - 64) * 256;
        ensure!(*pages >= least, "only {pages} pages of {} MiB were touched", vnode.mib);
    }
    vm.power_off()
}

fn prefaulted(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx, "prefault=on");
    let vm = ctx.boot(&Start::of(&spec))?;
    let touched = check::bound(&vm, &spec)?;
    let all: Vec<u64> = spec.vnodes.iter().map(|vnode| vnode.mib * 256).collect();
    ensure!(touched == all, "pages there are {touched:?}, not {all:?}");
    vm.power_off()
}

fn transparent(ctx: &Ctx) -> Result<()> {
    let spec = two(ctx, "pages=thp,prefault=on");
    let vm = ctx.boot(&Start::of(&spec))?;
    check::bound(&vm, &spec)?;
    let huge = huge_kib(vm.pid())?;
    let all = (192 + 160) * 1024;
    ensure!(huge * 10 >= all * 9, "only {huge} KiB of {all} KiB are in huge pages");
    vm.power_off()
}

/// Anonymous memory of a process in transparent huge pages.
pub(super) fn huge_kib(pid: u32) -> Result<u64> {
    rollup_kib(pid, "AnonHugePages:")
}

fn rollup_kib(pid: u32, key: &str) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = smaps.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Bytes of storage of a vnode's file, as the kernel counts them.
fn stored(pid: u32, vnode: usize) -> Result<u64> {
    let name = format!("/memfd:guest-ram-v{vnode} (deleted)");
    let mut sum = 0;
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        if fs::read_link(descriptor.path()).is_ok_and(|path| path == Path::new(&name)) {
            sum += fs::metadata(descriptor.path())?.blocks() * 512;
        }
    }
    Ok(sum)
}

/// Memory in files that others may map: on its pnode, given back by holes, moved, and measured as private memory is.
fn shared(ctx: &Ctx) -> Result<()> {
    let second = ctx.pnode(1);
    let mut spec = two(ctx, "shared=on,pages=4K");
    let (mut vm, socket, _directory) = started(ctx, &spec, GuestKernel::Stock)?;
    for (vnode, areas) in residency::guest_ram(vm.pid(), &spec)?.iter().enumerate() {
        let name = format!("/memfd:guest-ram-v{vnode}");
        ensure!(areas.iter().all(|area| area.name.starts_with(&name)), "vnode {vnode} is in {areas:x?}");
    }
    vm.ask("fill 1")?;
    vm.ask("free")?;
    check::bound(&vm, &spec)?;
    let (before, taken) = (stored(vm.pid(), 1)?, 64 << 20);
    ensure!(mem_set(ctx, &socket, "1", "96M")?, "the target was refused");
    let balloon = ctl(ctx, &socket, &["vnodes", "1"])?["balloon"].clone();
    let after = stored(vm.pid(), 1)?;
    ensure!(
        balloon["returned"] == taken && before.saturating_sub(after) + (4 << 20) >= taken,
        "{before} bytes were stored, {after} are: {balloon}"
    );
    ensure!(mem_set(ctx, &socket, "1", "160M")?, "giving back was refused");
    vm.ask("fill 1")?;
    check::bound(&vm, &spec)?;

    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &second.to_string()])?;
    ensure!(job["state"] == "done", "the move ended as {job}");
    spec.vnodes[0].pnodes = vec![second];
    check::bound(&vm, &spec)?;
    ensure!(vm.output("echo alive")? == "alive", "the guest does not answer");
    vm.power_off()?;

    // Huge pages, as the host's setting for files in memory allows.
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let was = fs::read_to_string(setting)?;
    let was = was.split(['[', ']']).nth(1).context("no setting is chosen")?.to_owned();
    fs::write(setting, "advise")?;
    let huge = (|| -> Result<u64> {
        let spec = two(ctx, "shared=on,pages=thp,prefault=on");
        let vm = ctx.boot(&Start::of(&spec))?;
        check::bound(&vm, &spec)?;
        let huge = rollup_kib(vm.pid(), "ShmemPmdMapped:")?;
        vm.power_off().map(|()| huge)
    })();
    fs::write(setting, was)?;
    let (huge, all) = (huge?, (192 + 160) * 1024);
    ensure!(huge * 10 >= all * 9, "only {huge} KiB of {all} KiB are in huge pages");
    Ok(())
}

fn huge(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let _pools = (Pool::reserve(first, SIZE_2M, 96)?, Pool::reserve(second, SIZE_2M, 80)?);
    let before = (pools::free(first, SIZE_2M)?, pools::free(second, SIZE_2M)?);
    let spec = two(ctx, "pages=2M");
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    vm.ask("fill")?;
    check::bound(&vm, &spec)?;
    for areas in residency::guest_ram(vm.pid(), &spec)? {
        ensure!(areas.iter().all(|area| area.page_kib == 2048), "a vnode is not in 2 MiB pages: {areas:x?}");
    }
    vm.power_off()?;
    let after = (pools::free(first, SIZE_2M)?, pools::free(second, SIZE_2M)?);
    ensure!(before == after, "free huge pages were {before:?} and are {after:?} now");
    Ok(())
}

/// Gigantic pages can be had at run time only while a node still has whole free ones, which is for luck to decide.
fn gigantic(ctx: &Ctx) -> Result<()> {
    let pnodes = [ctx.pnode(0), ctx.pnode(1)];
    let mut pools = Vec::new();
    for pnode in pnodes {
        let pool = Pool::reserve(pnode, SIZE_1G, 1).map_err(|error| {
            anyhow::Error::new(Skip(format!("needs a free page of 1 GiB on each node: {error:#}")))
        })?;
        pools.push(pool);
    }
    let spec = GuestSpec::new(vec![
        Vnode::on(pnodes[0], 1024, &[0]).with("pages=1G"),
        Vnode::on(pnodes[1], 1024, &[1]).with("pages=1G"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    vm.ask("alloc 500 1")?;
    check::bound(&vm, &spec)?;
    for areas in residency::guest_ram(vm.pid(), &spec)? {
        ensure!(
            areas.iter().all(|area| area.page_kib == SIZE_1G),
            "a vnode is not in 1 GiB pages: {areas:x?}"
        );
    }
    vm.power_off()?;
    for pnode in pnodes {
        ensure!(pools::free(pnode, SIZE_1G)? >= 1, "the page of node {pnode} was not given back");
    }
    Ok(())
}

fn short_pool(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    // Enough pages on the machine, too few on the second node.
    let _pools = (Pool::reserve(first, SIZE_2M, 200)?, Pool::reserve(second, SIZE_2M, 20)?);
    let refusal = ctx.refused(&Start::of(&two(ctx, "pages=2M")), 3)?;
    ensure!(refusal.contains(&format!("{second}")), "the refusal does not name node {second}: {refusal}");
    Ok(())
}

fn full_node(ctx: &Ctx) -> Result<()> {
    let second = ctx.pnode(1);
    let there = ctx.host.nodes.iter().find(|node| node.node == second).map_or(0, |node| node.total_mib);
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 192, &[0]),
        Vnode::on(second, there.next_multiple_of(2) + 64, &[1]),
    ]);
    let refusal = ctx.refused(&Start::of(&spec), 3)?;
    ensure!(
        refusal.contains("available") && refusal.contains(&format!("pnode {second}")),
        "the refusal does not say what is available where: {refusal}"
    );
    Ok(())
}

fn two_guests(ctx: &Ctx) -> Result<()> {
    let specs = [two(ctx, ""), two(ctx, "affinity=soft")];
    let mut first = ctx.boot(&Start::of(&specs[0]))?;
    let mut second = ctx.boot(&Start::of(&specs[1]))?;
    for (vm, spec) in [(&mut first, &specs[0]), (&mut second, &specs[1])] {
        check::guest_view(spec, &vm.report()?)?;
        check::bound(vm, spec)?;
    }
    first.power_off()?;
    second.power_off()
}
