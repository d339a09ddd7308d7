//! `numavisor serve`: a VM defined, booted and ended over its socket, more than once in one process.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::moves::ctl;
use super::{BootTest, Ctx};
use crate::guest::READY;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{PATIENCE, Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 600, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] =
    &[BootTest { name: "serve_boots_again_and_again", needs: TWO, run: serve }];

/// Waits until the VM stands so.
fn stands(ctx: &Ctx, socket: &Path, state: &str) -> Result<Value> {
    let began = Instant::now();
    loop {
        let vm = ctl(ctx, socket, &["info"])?;
        if vm["state"] == state {
            return Ok(vm);
        }
        ensure!(began.elapsed() < PATIENCE, "{vm} is not {state}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn serve(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let mut command = Command::new(ctx.payload.numavisor());
    command.arg("serve").arg("--api-socket").arg(&socket);
    let mut vm = Vm::spawn(command, &ctx.transcript)?;
    let began = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        ensure!(began.elapsed() < PATIENCE, "nobody listens on the socket");
        thread::sleep(Duration::from_millis(20));
    }

    for (first, second) in [(ctx.pnode(0), ctx.pnode(1)), (ctx.pnode(1), ctx.pnode(0))] {
        let spec = GuestSpec::new(vec![
            Vnode::on(first, 192, &[0]).with("prefault=on"),
            Vnode::on(second, 160, &[1]),
        ]);
        let start = Start::of(&spec).command(ctx.payload);
        let flags: Vec<_> =
            start.get_args().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> = std::iter::once("define").chain(flags.iter().map(String::as_str)).collect();
        ensure!(ctl(ctx, &socket, &words)?["state"] == "defined", "the VM is not defined");
        ctl(ctx, &socket, &["boot"])?;
        vm.ready()?;
        check::guest_view(&spec, &vm.report()?)?;
        check::bound(&vm, &spec)?;
        check::threads(&vm, &spec, |pnode| ctx.cpus_of(pnode))?;
        let vnodes = ctl(ctx, &socket, &["vnodes", "--fresh"])?;
        for (vnode, pnode) in vnodes["vnodes"].as_array().context("no vnodes")?.iter().zip([first, second]) {
            let residency = &vnode["residency"];
            ensure!(
                vnode["pnodes"].as_str() == Some(&pnode.to_string()) && residency["misplaced"] == 0,
                "ctl says {vnode}"
            );
            let cpu = vnode["vcpus"][0]["cpu"].as_u64().context("no CPU of a vCPU")?;
            ensure!(ctx.cpus_of(pnode).iter().any(|&own| u64::from(own) == cpu), "ctl says {vnode}");
        }

        ctl(ctx, &socket, &["reset"])?;
        vm.line("the guest's init after a reset", |line| (line == READY).then_some(()))?;
        ensure!(ctl(ctx, &socket, &["info"])?["state"] == "running", "the VM does not run after a reset");
        vm.ask("powerbutton")?;
        ctl(ctx, &socket, &["shutdown"])?;
        vm.line("the button", |line| (line == "@@powerbutton pressed").then_some(()))?;
        let ended = stands(ctx, &socket, "stopped")?;
        ensure!(ended["end"]["cause"] == "power_off", "the VM ended as {ended}");
    }
    let word = socket.to_string_lossy();
    let told = ctx.numavisor(&["ctl", "--api-socket", &*word, "--json", "events", "--no-follow"])?;
    let told: Vec<Value> =
        String::from_utf8_lossy(&told.stdout).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let states: Vec<&str> = told.iter().filter_map(|event| event["state"].as_str()).collect();
    let once = ["defined", "starting", "running", "starting", "running", "stopped"];
    ensure!(states == [once, once].concat(), "events tell of {states:?}");
    let taken = told.iter().filter(|event| event["type"] == "prefault" && event["done"] == event["total"]);
    ensure!(taken.count() == 4, "not every start told of its memory");
    vm.signal(Signal::SIGTERM)?;
    let status = vm.ended()?;
    ensure!(status.code() == Some(0), "serve without a guest ended with {status}");
    ensure!(!socket.exists(), "the socket is left behind");
    Ok(())
}
