//! A running VM asked over its socket: a vnode moves to another pnode under its guest, and the guest waits and goes on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 1000, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "move_a_vnode_under_its_guest_and_back", needs: TWO, run: there_and_back },
    BootTest { name: "ctl_pauses_and_resumes_the_guest", needs: TWO, run: pause },
];

/// `numavisor ctl` of these words, which must succeed; its answer.
fn ctl(ctx: &Ctx, socket: &Path, words: &[&str]) -> Result<Value> {
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
        ensure!(vnodes["residency"]["foreign"] == 0, "ctl vnodes says {vnodes}");
        check::guest_view(&after, &vm.report()?)?;
    }
    vm.power_off()?;
    ensure!(!socket.exists(), "the socket is left behind");
    Ok(())
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
