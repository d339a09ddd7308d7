//! The runner as process 1 of a lab host: file systems, modules, disks, the job, power-off.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use super::payload::Payload;
use crate::guest::modules;
use crate::lab::job::{Event, JOB_FILE, PAYLOAD, SCRATCH};

/// Does the job on the scratch disk, says how it ended, and powers the host off.
pub(super) fn main() -> ! {
    let code = match prepare().and_then(|payload| {
        let _one = first_vm().context("a VM of the host's own")?;
        let job = fs::read(payload.scratch.join(JOB_FILE)).context("the job")?;
        super::perform(&payload, &serde_json::from_slice(&job)?)
    }) {
        Ok(code) => code,
        Err(error) => {
            println!("lab host: {error:#}");
            1
        }
    };
    nix::unistd::sync();
    let _ = nix::mount::umount(SCRATCH);
    Event::Exit { code }.say();
    // The console must be empty before the power goes.
    let _ = nix::sys::termios::tcdrain(std::io::stdout());
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn prepare() -> Result<Payload> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("tmpfs", "/dev/shm"),
        ("devpts", "/dev/pts"),
    ] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {at}"))?;
    }
    for module in
        ["virtio_pci", "virtio_blk", "kvm_amd", "kvm_intel", "tun", "vhost_net", "vhost_vsock", "loop", "nbd"]
    {
        // Only one of the two KVM modules fits the processor.
        let _ = modules::load(module);
    }
    wait_for("/dev/vdb")?;
    disk("/dev/vda", PAYLOAD, MsFlags::MS_RDONLY)?;
    disk("/dev/vdb", SCRATCH, MsFlags::empty())?;
    wait_for("/dev/kvm")?;
    let debian = Path::new("/dev/vdc").exists().then(|| "/dev/vdc".into());
    Ok(Payload { directory: PAYLOAD.into(), scratch: SCRATCH.into(), debian })
}

/// A VM that stays, with a processor that never runs: Linux writes over its own code when the first VM of all begins and
/// the last one ends, and when the first local APIC is disabled; emulated processors may miss that.
fn first_vm() -> Result<(VmFd, VcpuFd)> {
    let vm = Kvm::new()?.create_vm()?;
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    Ok((vm, vcpu))
}

fn disk(device: &str, at: &str, flags: MsFlags) -> Result<()> {
    fs::create_dir_all(at)?;
    mount(Some(device), at, Some("ext4"), flags, None::<&str>)
        .with_context(|| format!("mounting {device} at {at}"))
}

fn wait_for(path: &str) -> Result<()> {
    for _ in 0..100 {
        if Path::new(path).exists() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{path} does not appear")
}
