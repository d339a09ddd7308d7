//! Memory taken back from one vnode of a running guest: from that vnode, as guest and host count it, and given again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{BootTest, Ctx};
use crate::guest::report;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{Start, Vm, note};

const TWO: Needs =
    Needs { nodes: 2, mib: 700, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "balloon_takes_from_the_vnode_that_was_asked", needs: TWO, run: stock },
    BootTest { name: "balloon_takes_from_the_vnode_under_a_newer_kernel", needs: TWO, run: newer },
];

const MIB: u64 = 512;
/// The other vnode has another size, so that their mappings can be told apart.
const OTHER_MIB: u64 = 576;
const TAKEN_KIB: u64 = 256 * 1024;
/// Guest and host do other things meanwhile.
const NOISE_KIB: u64 = 8 * 1024;
/// An emulated guest gives some 100 MiB a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn stock(ctx: &Ctx) -> Result<()> {
    takes_and_gives(ctx, GuestKernel::Stock)
}

fn newer(ctx: &Ctx) -> Result<()> {
    takes_and_gives(ctx, GuestKernel::Newer)
}

/// What the host has of each vnode in memory.
fn backed(vm: &Vm, spec: &GuestSpec) -> Result<Vec<u64>> {
    let ram = residency::guest_ram(vm.pid(), spec)?;
    Ok(ram.iter().map(|areas| areas.iter().flat_map(|area| area.kib.values()).sum()).collect())
}

/// KiB free on a node, and how many of them wait in the CPUs' own lists, which `MemFree` leaves out.
fn host_free(node: u32) -> (u64, u64) {
    let listed = report::node_per_cpu_kib(node);
    (report::node_memory(node).1 + listed, listed)
}

fn mem_set(ctx: &Ctx, socket: &str, vnode: &str, size: &str) -> Result<bool> {
    Ok(ctx.numavisor(&["ctl", "--api-socket", socket, "mem-set", vnode, size])?.status.success())
}

fn takes_and_gives(ctx: &Ctx, kernel: GuestKernel) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let all = |pnode, mib, vcpu: u32| Vnode::on(pnode, mib, &[vcpu]).with("prefault=on,pages=4K");
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

    ensure!(mem_set(ctx, &socket, "1", "256M")?, "the target was refused");
    let began = Instant::now();
    while backed(&vm, &spec)?[1] > MIB * 1024 - TAKEN_KIB {
        if began.elapsed() > PATIENCE {
            bail!("after {PATIENCE:?} the host has {:?} KiB of the vnodes", backed(&vm, &spec)?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = backed(&vm, &spec)?;
    ensure!(left == [OTHER_MIB * 1024, MIB * 1024 - TAKEN_KIB], "the host has {left:?} KiB of the vnodes");
    check::bound(&vm, &spec)?;
    let (free, listed) = host_free(second);
    let (rise, on_lists) = (free.saturating_sub(host.0), listed.saturating_sub(host.1));
    note(&ctx.transcript, &format!("pnode {second}: {rise} KiB more free, {on_lists} KiB of CPUs' lists"));
    ensure!(
        rise.abs_diff(TAKEN_KIB) <= TAKEN_KIB / 50,
        "pnode {second} has {rise} KiB more free, {on_lists} KiB of it on CPUs' lists"
    );
    let now = vm.report()?;
    let nodes = guest.nodes.iter().zip(&now.nodes);
    let lost: Vec<u64> = nodes.map(|(then, now)| then.free_kib.saturating_sub(now.free_kib)).collect();
    ensure!(
        lost[0] <= NOISE_KIB && lost[1].abs_diff(TAKEN_KIB) <= NOISE_KIB,
        "the guest's nodes have {lost:?} KiB less free"
    );

    ensure!(mem_set(ctx, &socket, "1", &format!("{MIB}M"))?, "giving back was refused");
    vm.ask("sleep 3")?;
    vm.ask("fill")?;
    let touched = check::bound(&vm, &spec)?;
    ensure!(touched[1] >= (MIB - 64) * 256, "only {} pages came back", touched[1]);
    vm.power_off()
}
