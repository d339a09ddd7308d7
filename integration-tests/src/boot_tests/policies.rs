//! Memory policies other than bind to one node.

use anyhow::{Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check::{self, Expected};
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "policy_preferred", needs: TWO, run: preferred },
    BootTest { name: "policy_interleave_over_two_pnodes", needs: TWO, run: interleave },
    BootTest { name: "policy_bind_to_two_pnodes", needs: TWO, run: bind_to_two },
];

fn preferred(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = GuestSpec::new(vec![
        Vnode::on(first, 192, &[0]).with("policy=preferred"),
        Vnode::on(second, 160, &[1]).with("policy=preferred"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    vm.ask("alloc 64 1")?;
    // Both nodes have room, so the preference is met.
    check::host_view(&vm, &spec, &[Expected::on("prefer", &[first]), Expected::on("prefer", &[second])])?;
    vm.power_off()
}

/// One vnode over two pnodes.
fn over_both(ctx: &Ctx, policy: &str) -> (GuestSpec, Vec<u32>) {
    let pnodes = vec![ctx.pnode(0), ctx.pnode(1)];
    let vnode =
        Vnode { mib: 320, vcpus: vec![0, 1], pnodes: pnodes.clone(), extra: format!("policy={policy}") };
    (GuestSpec::new(vec![vnode]), pnodes)
}

fn interleave(ctx: &Ctx) -> Result<()> {
    let (spec, pnodes) = over_both(ctx, "interleave");
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    vm.ask("fill")?;
    let touched = check::host_view(&vm, &spec, &[Expected::on("interleave", &pnodes)])?;
    let pages = residency::pages_by_node(vm.pid(), &residency::guest_ram(vm.pid(), &spec)?[0])?;
    for pnode in &pnodes {
        let here = pages.get(pnode).copied().unwrap_or(0);
        ensure!(
            here * 100 >= touched[0] * 40,
            "of {} pages {here} are on node {pnode}: {pages:?}",
            touched[0]
        );
    }
    vm.power_off()
}

fn bind_to_two(ctx: &Ctx) -> Result<()> {
    let (spec, pnodes) = over_both(ctx, "bind");
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    vm.ask("fill")?;
    let mut sorted = pnodes;
    sorted.sort_unstable();
    let halves: Vec<(u32, u64)> = sorted.iter().map(|pnode| (*pnode, 160)).collect();
    let touched = check::parts(&vm, &spec, 0, &halves)?;
    ensure!(touched.iter().all(|pages| *pages > 0), "nothing was touched on a node: {touched:?}");
    vm.power_off()
}
