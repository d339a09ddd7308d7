//! A PCI segment for each vnode, from one vnode to sixteen, with few devices and with many. Guests with more vCPUs than an
//! emulated host has CPUs do not always come up there, so sixteen are for real hosts.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{BootTest, Ctx, disks};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const ANY: Needs =
    Needs { nodes: 1, mib: 300, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "segments_one_vnode", needs: ANY, run: one },
    BootTest { name: "segments_four_vnodes", needs: Needs { nodes: 4, ..ANY }, run: four },
    BootTest { name: "segments_eight_vnodes_and_32_disks", needs: Needs { nodes: 8, ..ANY }, run: eight },
    BootTest {
        name: "segments_sixteen_vnodes_and_64_disks",
        needs: Needs { nodes: 8, cpus: 2, ..ANY },
        run: sixteen,
    },
];

const BLK: u32 = 2;

/// A disk of 1 MiB that takes no room.
fn sparse(directory: &Path, index: usize) -> Result<std::path::PathBuf> {
    let path = directory.join(format!("disk{index}"));
    File::create(&path)?.set_len(1 << 20)?;
    Ok(path)
}

/// Boots `spec` with `disks` disks dealt out to its vnodes, and reads from each.
fn with_disks(ctx: &Ctx, spec: &GuestSpec, disks: usize) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let vnodes = spec.vnodes.len();
    let mut start = Start::of(spec);
    for index in 0..disks {
        let path = sparse(directory.path(), index)?;
        start.flags.extend(disks::flag(&path, &format!(",vnode={}", index % vnodes)));
    }
    let mut vm = ctx.boot(&start)?;
    vm.ask("modprobe virtio_pci virtio_blk")?;
    let read = vm
        .output("for d in /dev/vd*; do dd if=$d of=/dev/null bs=4096 count=1 2>/dev/null && echo $d; done")?;
    ensure!(read.lines().count() == disks, "the guest reads from {} disks of {disks}", read.lines().count());
    let expected: Vec<(u32, usize)> = (0..disks).map(|index| (BLK, index % vnodes)).collect();
    let report = vm.report()?;
    check::devices(spec, &report, &expected)?;
    let bridges = vm.output("ls -d /sys/devices/pci*")?;
    ensure!(bridges.lines().count() == vnodes, "the guest has host bridges {bridges:?} for {vnodes} vnodes");
    let names: Vec<String> = (0..disks).map(|index| format!("blk{index}")).collect();
    let workers: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(name, index): (_, usize)| (name.as_str(), ctx.cpus_of(spec.vnodes[index % vnodes].pnodes[0])))
        .collect();
    check::workers(&vm, &workers)?;
    vm.power_off()
}

fn one(ctx: &Ctx) -> Result<()> {
    with_disks(ctx, &GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &[0, 1])]), 1)
}

fn four(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32| Vnode::on(ctx.pnode(index as usize), 160 - u64::from(index) * 16, &[index]);
    with_disks(ctx, &GuestSpec::new((0..4).map(vnode).collect()), 4)
}

fn eight(ctx: &Ctx) -> Result<()> {
    many(ctx, 8)
}

fn sixteen(ctx: &Ctx) -> Result<()> {
    many(ctx, 16)
}

/// So many vnodes on eight pnodes, with four disks each.
fn many(ctx: &Ctx, vnodes: u32) -> Result<()> {
    // The first has room for the kernel, which does not spread.
    let vnode = |index: u32| {
        let mib = if index == 0 { 160 } else { 64 - u64::from(index) * 2 };
        Vnode::on(ctx.pnode(index as usize % 8), mib, &[index])
    };
    with_disks(ctx, &GuestSpec::new((0..vnodes).map(vnode).collect()), vnodes as usize * 4)
}
