//! A pause: guest memory stands still whatever goes on around the VM, and afterwards everything goes on.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::balloon::ctl;
use super::{BootTest, Ctx, disks, nets};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::GuestSpec;
use crate::runner::suite::Skip;
use crate::runner::vm::{Vm, note};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "pause_holds_all_of_guest_memory", needs: TWO, run: |ctx| held(ctx, "nvlab4", "off") },
    BootTest { name: "pause_holds_what_the_kernel_serves", needs: Needs { cpus: 2, ..TWO }, run: by_kernel },
];

/// A pause lasts so long in this test.
const PAUSED: Duration = Duration::from_secs(3);
/// Between two frames that come from outside.
const BETWEEN: Duration = Duration::from_millis(2);
const CHUNK: usize = 4 << 20;

fn by_kernel(ctx: &Ctx) -> Result<()> {
    if !fs::exists("/dev/vhost-net")? {
        return Err(Skip("needs /dev/vhost-net".to_owned()).into());
    }
    held(ctx, "nvlab5", "on")
}

/// All guest memory, byte by byte, as another process reads it.
fn memory(vm: &Vm, spec: &GuestSpec, mut chunk: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let file = File::open(format!("/proc/{}/mem", vm.pid()))?;
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    for area in residency::guest_ram(vm.pid(), spec)?.into_iter().flatten() {
        let mut from = area.start;
        while from < area.end {
            let length = CHUNK.min(usize::try_from(area.end - from)?);
            file.read_exact_at(&mut buffer[..length], from).context("reading guest memory")?;
            chunk(at, &buffer[..length])?;
            (at, from) = (at + length, from + length as u64);
        }
    }
    Ok(())
}

/// What the devices count.
fn counts(ctx: &Ctx, socket: &str) -> Result<Value> {
    Ok(ctl(ctx, socket, &["devices"])?["devices"].clone())
}

fn held(ctx: &Ctx, tap: &str, vhost: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (disk, socket) = (directory.path().join("disk"), directory.path().join("api"));
    File::create(&disk)?.set_len(16 << 20)?;
    let socket = socket.to_string_lossy().into_owned();
    let [disk_flag, disk] = disks::flag(&disk, ",vnode=1,queues=2");
    let console = format!("file={},vnode=1", directory.path().join("console").display());
    let flags = ["--api-socket", &socket, &disk_flag, &disk, "--console", &console, "--rng"];
    let (mut vm, spec) = nets::pinged(ctx, tap, &format!("vhost={vhost}"), &flags)?;
    vm.ask("modprobe virtio_blk virtio_console virtio_rng virtio_balloon")?;

    // Traffic of the guest's own, which says so if something of it fails, and frames from outside.
    let loops = [
        "dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null || echo disk >> /failed",
        "ping -c 3 -i 0.1 -W 10 192.0.2.1 >/dev/null || echo net >> /failed",
        "dd if=/dev/hwrng of=/dev/null bs=64 count=16 2>/dev/null || echo rng >> /failed",
        "date > /dev/hvc0 || echo console >> /failed",
    ];
    for (number, line) in loops.iter().enumerate() {
        vm.output(&format!(
            "(while :; do {line}; echo >> /rounds{number}; done) </dev/null >/dev/null 2>&1 &"
        ))?;
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let Ok(sender) = UdpSocket::bind("192.0.2.1:0") else { return };
            while !over.load(Ordering::Relaxed) {
                // The queue of the tap is full after a while.
                let _ = sender.send_to(&[0x55; 1000], "192.0.2.2:9");
                thread::sleep(BETWEEN);
            }
        });
        let result = stands_still(ctx, &mut vm, &spec, &socket);
        over.store(true, Ordering::Relaxed);
        result
    })?;

    let before = rounds(&mut vm, loops.len())?;
    thread::sleep(Duration::from_secs(1));
    let within = |vm: &mut Vm| -> Result<bool> {
        Ok(rounds(vm, loops.len())?.iter().zip(&before).all(|(now, before)| now > before))
    };
    let mut tries = 0;
    while !within(&mut vm)? {
        tries += 1;
        ensure!(
            tries < 60,
            "not all of the guest's traffic goes on: {before:?}, {:?}",
            rounds(&mut vm, loops.len())?
        );
        thread::sleep(Duration::from_secs(1));
    }
    let failed = vm.output("cat /failed 2>/dev/null || true")?;
    ensure!(failed.is_empty(), "in the guest failed: {failed}");
    check::quiet_log(&vm.report()?)?;
    vm.power_off()
}

/// How often each kind of traffic went through.
fn rounds(vm: &mut Vm, count: usize) -> Result<Vec<u64>> {
    let files: Vec<String> = (0..count).map(|number| format!("/rounds{number}")).collect();
    let lines = vm.output(&format!("touch {0}; for file in {0}; do wc -l < $file; done", files.join(" ")))?;
    lines.split_whitespace().map(|count| count.parse().context("a count")).collect()
}

fn stands_still(ctx: &Ctx, vm: &mut Vm, spec: &GuestSpec, socket: &str) -> Result<()> {
    for round in 0..2 {
        ctl(ctx, socket, &["mem-set", "1", ["128M", "160M"][round], "--detach"])?;
        ctl(ctx, socket, &["pause"])?;
        let then = counts(ctx, socket)?;
        let mut before = Vec::new();
        memory(vm, spec, |_, bytes| {
            before.extend_from_slice(bytes);
            Ok(())
        })?;
        thread::sleep(PAUSED);
        memory(vm, spec, |at, bytes| {
            let was = &before[at..at + bytes.len()];
            if was == bytes {
                return Ok(());
            }
            let changed = at + was.iter().zip(bytes).take_while(|(was, is)| was == is).count();
            bail!("guest memory changed at {changed:#x} of {:#x} bytes", before.len())
        })?;
        let now = counts(ctx, socket)?;
        ensure!(then == now, "devices counted {then}, then {now}");
        note(&ctx.transcript, &format!("round {round}: {} bytes stood still", before.len()));
        ctl(ctx, socket, &["resume"])?;
        ensure!(vm.output("echo alive")? == "alive", "the guest does not answer");
    }
    Ok(())
}
