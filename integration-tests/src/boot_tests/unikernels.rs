//! A unikernel of the tests' own: entered by PVH, it says on the serial port what it was told and ends the machine.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::UNIKERNEL;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::{Vm, note};
use crate::sys;

const TWO: Needs =
    Needs { nodes: 2, mib: 200, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] =
    &[BootTest { name: "unikernel_by_pvh_sees_its_vnodes_and_ends", needs: TWO, run: sees_and_ends }];

fn sees_and_ends(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 96, &[0]), Vnode::on(ctx.pnode(1), 160, &[1, 2])]);
    for (word, status) in [("off", 0), ("reset", 4)] {
        let mut vm = started(ctx, &spec, word)?;
        said(&mut vm, "unikernel: started by PVH")?;
        said(&mut vm, &format!("cmdline: tests {word}"))?;
        said(&mut vm, "node 0: 96 MiB, 1 processors")?;
        said(&mut vm, "node 1: 160 MiB, 2 processors")?;
        let ended = vm.ended()?;
        ensure!(ended.code() == Some(status), "after '{word}' it ended with {ended}, not with {status}");
    }
    let mut vm = started(ctx, &spec, "stay")?;
    said(&mut vm, "still here")?;
    check::bound(&vm, &spec)?;
    ensure!(vm.runs()?, "it ended by itself");
    Ok(())
}

fn started(ctx: &Ctx, spec: &GuestSpec, word: &str) -> Result<Vm> {
    let mut command = Command::new(ctx.payload.numavisor());
    command.arg("run").arg("--kernel").arg(ctx.payload.directory.join(UNIKERNEL)).args(spec.flags());
    command.args(["--cmdline", &format!("tests {word}")]);
    note(&ctx.transcript, &format!("$ {command:?}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Vm::of(sys::die_with_parent(&mut command).spawn().context("starting numavisor")?, &ctx.transcript)
}

fn said(vm: &mut Vm, line: &str) -> Result<()> {
    vm.line(line, |said| (said == line).then_some(()))
}
