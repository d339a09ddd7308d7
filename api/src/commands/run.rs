//! `numavisor run`: plans, then has it done, and turns the way it ended into a status.

use crate::args::RunArgs;
use crate::commands::plan::decide;
use crate::exit::{Failure, Status};
use crate::look;
use crate::progress::PrefaultBar;
use std::path::Path;
use std::process::ExitCode;

/// The command line of a kernel when none is given: messages on the first serial port, and a panic ends in a reset
/// (so in status 4, or in a reboot) where it would hang otherwise.
const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

/// Runs a VM to its end.
pub fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let spec = args.vm.spec()?;
    let Some(kernel) = spec.kernel.clone() else {
        return Err(Failure::input(
            "--kernel: missing, run needs a bzImage or an ELF kernel with a PVH entry",
        ));
    };
    let plan = decide(&spec, &look::host(Path::new(look::SYSFS))?)?;
    for vnode in &plan.placement.vnodes {
        for shortfall in &vnode.shortfalls {
            tracing::warn!("vnode {}: {shortfall}", vnode.vnode);
        }
    }
    let payload = vmm::Payload {
        kernel,
        initramfs: spec.initramfs,
        cmdline: spec.cmdline.unwrap_or_else(|| DEFAULT_CMDLINE.to_owned()),
    };
    let options = vmm::Options {
        serial: spec.serial,
        on_reset: spec.on_reset,
        progress: PrefaultBar::for_terminal().map(|bar| Box::new(bar) as Box<dyn vmm::Progress>),
    };
    match vmm::Vm::new(plan, payload, options).and_then(vmm::Vm::run) {
        Ok(vmm::Exit::PowerOff | vmm::Exit::Quit) => Ok(Status::Done.into()),
        Ok(vmm::Exit::Reset) => Ok(Status::Reset.into()),
        Ok(vmm::Exit::Killed) => Ok(Status::Killed.into()),
        Ok(vmm::Exit::TripleFault) => {
            Err(Failure::new(Status::Crash, "the guest crashed: a vCPU shut down after a triple fault"))
        }
        Err(error) if error.is_input() => Err(Failure::input(error)),
        Err(error) => Err(Failure::new(Status::Host, error)),
    }
}
