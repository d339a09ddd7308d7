//! Stock kernels in every form that can be booted.

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest {
        // All others boot it as an ELF file.
        name: "kernel_bzimage_with_two_vnodes",
        needs: TWO,
        run: |ctx| two_vnodes(ctx, GuestKernel::StockBzImage),
    },
    BootTest {
        name: "kernel_newer_with_two_vnodes",
        needs: TWO,
        run: |ctx| two_vnodes(ctx, GuestKernel::Newer),
    },
    BootTest { name: "kernel_newer_with_a_memory_only_vnode", needs: TWO, run: newer_memory_only },
    BootTest { name: "kernel_newer_reads_hmat", needs: TWO, run: newer_hmat },
    BootTest { name: "kernel_command_line_arrives", needs: Needs { nodes: 1, ..TWO }, run: command_line },
];

fn two_vnodes(ctx: &Ctx, kernel: GuestKernel) -> Result<()> {
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &[0]), Vnode::on(ctx.pnode(1), 224, &[1])])
        .distances(&[(0, 1, 21)]);
    ctx.boots_bound(&spec, kernel)
}

fn newer_memory_only(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(1), 192, &[0, 2]),
        Vnode::on(ctx.pnode(0), 128, &[]),
        Vnode::on(ctx.pnode(0), 160, &[1]),
    ])
    .distances(&[(0, 1, 31), (1, 0, 21)]);
    let mut vm = ctx.boot(&Start::of(&spec).kernel(GuestKernel::Newer))?;
    check::guest_view(&spec, &vm.report()?)?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}

fn newer_hmat(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 256, &[0]).with("latency=80,bandwidth=40G"),
        Vnode::on(ctx.pnode(1), 224, &[1]).with("latency=80,bandwidth=40G"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec).kernel(GuestKernel::Newer))?;
    let report = vm.report()?;
    check::guest_view(&spec, &report)?;
    for node in &report.nodes {
        let access =
            node.access.first().with_context(|| format!("node {} has no access class", node.node))?;
        ensure!(
            (access.read_latency, access.read_bandwidth) == (80, 40 << 10),
            "node {}: {access:?}",
            node.node
        );
    }
    vm.power_off()
}

fn command_line(ctx: &Ctx) -> Result<()> {
    let word = "numavisor.test=a.word-that,no:kernel=knows";
    let mut vm = ctx.boot(&Start::default().cmdline(word))?;
    let report = vm.report()?;
    ensure!(report.cmdline.ends_with(word), "the guest's command line is '{}'", report.cmdline);
    vm.power_off()
}
