//! A reset is the guest's: what the VM has of the host stays, and whoever is connected to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::balloon::ctl;
use super::{BootTest, Ctx, disks, nets};
use crate::guest::READY;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::GuestSpec;
use crate::runner::syscall_trace::SyscallTrace;
use crate::runner::vm::{PATIENCE, Vm, note};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 2, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] =
    &[BootTest { name: "reset_keeps_what_the_vm_has_of_the_host", needs: TWO, run: kept }];

const TAP: &str = "nvlab6";

/// What must be as before.
#[derive(Debug, Eq, PartialEq)]
struct Host {
    /// The kernel's number of the interface: a new one has another.
    interface: String,
    /// Where guest memory begins in the process.
    memory: Vec<Vec<u64>>,
    /// Descriptors of the disk, by number.
    disk: BTreeSet<String>,
    /// Descriptors of KVM's VM and its vCPUs, by number.
    kvm: BTreeSet<String>,
    /// Threads of vCPUs.
    threads: BTreeSet<String>,
    /// CPUs of the first vCPU.
    cpus: String,
}

impl Host {
    fn look(vm: &Vm, spec: &GuestSpec, disk: &Path) -> Result<Self> {
        let ram = residency::guest_ram(vm.pid(), spec)?;
        let (mut descriptors, mut kvm) = (BTreeSet::new(), BTreeSet::new());
        for descriptor in fs::read_dir(format!("/proc/{}/fd", vm.pid()))?.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let number = descriptor.file_name().to_string_lossy().into_owned();
            if target == disk {
                descriptors.insert(number);
            } else if target.to_string_lossy().starts_with("anon_inode:kvm-v") {
                kvm.insert(format!("{number} {}", target.display()));
            }
        }
        let (mut threads, mut status) = (BTreeSet::new(), None);
        for task in fs::read_dir(format!("/proc/{}/task", vm.pid()))?.flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.trim() == "vcpu0" {
                status = Some(fs::read_to_string(task.path().join("status"))?);
            }
            if name.starts_with("vcpu") {
                threads.insert(format!("{} {}", task.file_name().to_string_lossy(), name.trim()));
            }
        }
        let status = status.context("no vCPU 0")?;
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        Ok(Self {
            interface: fs::read_to_string(format!("/sys/class/net/{TAP}/ifindex"))?,
            memory: ram.iter().map(|areas| areas.iter().map(|area| area.start).collect()).collect(),
            disk: descriptors,
            kvm,
            threads,
            cpus: cpus.context("no list")?.trim().to_owned(),
        })
    }
}

/// What the devices and their transports have counted, by device and name, without what goes up and down.
fn counted(ctx: &Ctx, api: &str) -> Result<BTreeMap<String, u64>> {
    let answer = ctl(ctx, api, &["devices"])?;
    let mut all = BTreeMap::new();
    for device in answer["devices"].as_array().context("no devices")? {
        let name = device["name"].as_str().context("no name")?;
        for kind in ["counters", "figures"] {
            let counts = device[kind].as_object().with_context(|| format!("{name} has no {kind}"))?;
            for (figure, value) in counts.iter().filter(|(figure, _)| !is_gauge(figure)) {
                all.insert(format!("{name} {figure}"), Value::as_u64(value).context("no number")?);
            }
        }
    }
    Ok(all)
}

fn is_gauge(figure: &str) -> bool {
    figure == "connections" || figure.starts_with("datapath_")
}

fn kept(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    let (disk, api, console) = (at("disk"), at("api"), at("console"));
    File::create(&disk)?.set_len(4 << 20)?;
    let api = api.to_string_lossy().into_owned();
    let [disk_flag, disk_text] = disks::flag(&disk, ",vnode=1,format=raw");
    let console_text = format!("socket={}", console.display());
    let mut flags = vec!["--api-socket", &api, "--on-reset", "reboot", "--console", &console_text];
    flags.extend([disk_flag.as_str(), disk_text.as_str()]);
    let (mut vm, spec) = nets::pinged(ctx, TAP, "vhost=off", &flags)?;
    let client = UnixStream::connect(&console)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut client = BufReader::new(client);
    let cpu = ctx.cpus_of(ctx.pnode(0))[1].to_string();
    ctl(ctx, &api, &["affinity", "0", &cpu])?;
    vm.ask("modprobe virtio_blk virtio_console")?;
    vm.output("yes before | dd of=/dev/vda bs=4096 count=1 iflag=fullblock conv=fsync 2>&1")?;

    ctl(ctx, &api, &["link", "0", "down"])?;
    carrier(&mut vm, "0")?;
    let before = Host::look(&vm, &spec, &disk)?;
    let some = !before.disk.is_empty() && !before.kvm.is_empty() && !before.threads.is_empty();
    ensure!(some && before.cpus == cpu, "the host has {before:?}");
    let mut counts = counted(ctx, &api)?;
    for name in ["blk0 written_bytes", "blk0 activations", "net0 sent_frames", "console activations"] {
        ensure!(counts.get(name).is_some_and(|count| *count > 0), "{name} is not counted: {counts:?}");
    }
    for round in 0..2 {
        let (trace, began) = (SyscallTrace::opens(vm.pid())?, Instant::now());
        // That it is seen at all.
        let seen = || ctl(ctx, &api, &["vnodes"]).and_then(|_| trace.take());
        ensure!(round > 0 || !seen()?.is_empty(), "no file is opened to look at vnodes");
        let before_it = trace.take()?.len();
        ctl(ctx, &api, &["reset"])?;
        vm.line("the guest's init after a reset", |line| (line == READY).then_some(()))?;
        let opened = trace.take()?.split_off(before_it);
        ensure!(opened.is_empty(), "the reset opened {opened:#?}");
        drop(trace);
        note(&ctx.transcript, &format!("reset to init: {:?}", began.elapsed()));
        let after = Host::look(&vm, &spec, &disk)?;
        ensure!(after == before, "after reset {round} the host has {after:?}, and had {before:?}");
        let now = counted(ctx, &api)?;
        let less = |(name, count): &(&String, &u64)| now.get(*name).is_none_or(|now| now < *count);
        let less: Vec<_> = counts.iter().filter(less).collect();
        ensure!(less.is_empty(), "after reset {round} counts are {now:?}, and were {less:?}");
        counts = now;
    }
    vm.ask("modprobe virtio_pci virtio_net virtio_blk virtio_console")?;
    vm.output("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up")?;
    carrier(&mut vm, "0").context("the link was down before the reset")?;
    ctl(ctx, &api, &["link", "0", "up"])?;
    carrier(&mut vm, "1")?;
    vm.output("ping -c 3 -W 5 192.0.2.1")?;
    let said = vm.output("dd if=/dev/vda bs=7 count=1 2>/dev/null")?;
    ensure!(said == "before", "the disk has {said:?}");
    vm.output("echo again > /dev/hvc0")?;
    let mut line = String::new();
    client.read_line(&mut line).context("the console's client")?;
    ensure!(line.trim_end() == "again", "the console's client reads {line:?}");
    control_thread_waits_for_events_alone(ctx, &mut vm, &api)?;
    what_is_written_is_seen(ctx, &mut vm, &api)?;
    check::bound(&vm, &spec)?;
    check::quiet_log(&vm.report()?)?;
    vm.power_off()
}

/// Waits until the guest sees its interface's link in this state.
fn carrier(vm: &mut Vm, state: &str) -> Result<()> {
    let began = Instant::now();
    while vm.output("cat /sys/class/net/eth0/carrier")? != state {
        ensure!(began.elapsed() < PATIENCE, "the guest's link does not become {state}");
    }
    Ok(())
}

/// Under load on its devices, and while it is looked at and asked for things, the VM's main thread makes no system call that could
/// wait for anything but events.
fn control_thread_waits_for_events_alone(ctx: &Ctx, vm: &mut Vm, api: &str) -> Result<()> {
    const EPOLL: [i64; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
    // Event descriptors; a lock held for moments; the time, where the host's kernel has no fast way to tell it.
    const BESIDES: [i64; 4] = [libc::SYS_read, libc::SYS_write, libc::SYS_futex, libc::SYS_clock_gettime];
    let target = || ctl(ctx, api, &["mem-set", "0", "64M", "--detach"]);
    // The first request starts the thread that watches balloons.
    target()?;
    let trace = SyscallTrace::of_thread(vm.pid())?;
    vm.output("dd if=/dev/vda of=/dev/null bs=64k iflag=direct & for i in 1 2 3; do echo $i; echo $i > /dev/hvc0; done; ping -c 3 -i 0.2 192.0.2.1; wait")?;
    for look in ["vnodes", "devices", "jobs", "info"] {
        ctl(ctx, api, &[look])?;
    }
    ctx.numavisor(&["ctl", "--api-socket", api, "metrics"])?;
    target()?;
    let calls = trace.numbers()?;
    let allowed = |call: &i64| EPOLL.contains(call) || BESIDES.contains(call);
    ensure!(calls.iter().any(|call| EPOLL.contains(call)), "the trace has no wait for events: {calls:?}");
    ensure!(calls.iter().all(allowed), "the control thread made system calls {calls:?}");
    Ok(())
}

/// What the guest writes and what its disk writes for it are told apart, by vnode.
fn what_is_written_is_seen(ctx: &Ctx, vm: &mut Vm, api: &str) -> Result<()> {
    let copies =
        "while :; do dd if=/dev/vda of=/copy bs=64k iflag=direct conv=notrunc; done >/dev/null 2>&1 &";
    vm.output(copies)?;
    let rate = ctl(ctx, api, &["dirty-rate", "--milliseconds", "3000"])?;
    let sum = |of: &str| -> u64 {
        rate["vnodes"].as_array().into_iter().flatten().filter_map(|vnode| vnode[of].as_u64()).sum()
    };
    ensure!(sum("guest") > 0 && sum("devices") > 0, "what is written: {rate}");
    ensure!(sum("bytes") <= sum("guest") + sum("devices"), "what is written: {rate}");
    Ok(())
}
