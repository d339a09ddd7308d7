//! Figures of devices: numavisor and its rival, QEMU's q35, with the same guest, the same file and the same tap, in
//! turn. QEMU runs as it does by itself, on all CPUs, and once more on those of one node, as numavisor always does; and
//! both have the network once more through the kernel (vhost). Beside the rates, what each request costs: exits of the
//! guest and system calls of the VMM.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::bench::{CMDLINE, qemu};
use super::payload::{GuestKernel, Payload};
use super::vm::{Vm, note};
use crate::guest::traffic::QUESTION;
use crate::lab::job::Event;
use crate::sys;

const TAP: &str = "nvbench0";
const MAC: &str = "52:54:00:be:0c:40";
const HOST: &str = "192.0.2.1";
const PORT: u16 = 7007;
const DISK_MIB: u64 = 32;
/// A node of the lab host has one CPU more, for the devices.
const VCPUS: &str = "1";
const DEBUG: &str = "/sys/kernel/debug";
const TRACE: &str = "/sys/kernel/tracing";

/// Name, the guest's command, and requests.
type Task = (&'static str, &'static str, u64);

const DISK_TASKS: [Task; 4] = [
    ("sequential 1 MiB reads", "disk /dev/vda read 1048576 96", 96),
    ("sequential 1 MiB writes", "disk /dev/vda write 1048576 96", 96),
    ("random 4 KiB reads", "disk /dev/vda random-read 4096 1500", 1500),
    ("random 4 KiB writes", "disk /dev/vda random-write 4096 1500", 1500),
];

const NET_TASKS: [Task; 3] = [
    ("TCP stream from the guest, MiB", "stream 192.0.2.1:7007 256", 256),
    ("TCP stream to the guest, MiB", "take 192.0.2.1:7007 256", 256),
    ("TCP questions and answers", "questions 192.0.2.1:7007 1000", 1000),
];

/// How often a guest does each task, one task after the other: from guest to guest a stream differs by a third.
const TIMES: usize = 4;

/// A program with its way of doing tasks.
struct Side {
    name: &'static str,
    command: fn(&Payload, &Path, &str) -> Command,
    /// `on` or `off`.
    vhost: &'static str,
}

const SIDES: [Side; 5] = [
    Side { name: "numavisor", command: numavisor, vhost: "off" },
    Side { name: "qemu", command: rival, vhost: "off" },
    Side { name: "qemu_on_a_node", command: rival_on_a_node, vhost: "off" },
    Side { name: "numavisor", command: numavisor, vhost: "on" },
    Side { name: "qemu", command: rival, vhost: "on" },
];

impl Side {
    /// With vhost, disks are not done once more.
    fn tasks(&self) -> Vec<Task> {
        let disk = if self.vhost == "on" { &[][..] } else { &DISK_TASKS };
        disk.iter().chain(&NET_TASKS).copied().collect()
    }

    fn label(&self, task: &str) -> String {
        if self.vhost == "on" { format!("{task}, vhost") } else { task.to_owned() }
    }
}

/// What one task did on one side.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    exits: f64,
    calls: f64,
}

/// Measures both sides in turn, `rounds` times after one that does not count, and says the medians.
pub(super) fn run(payload: &Payload, rounds: u32) -> Result<i32> {
    for (kind, at) in [("debugfs", DEBUG), ("tracefs", TRACE)] {
        let _ = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>);
    }
    let disk = payload.scratch.join("bench.img");
    fs::write(&disk, vec![0x5a; usize::try_from(DISK_MIB << 20)?])?;
    serve()?;
    let calls = Calls::start()?;
    let mut all: BTreeMap<String, BTreeMap<&str, Vec<Sample>>> = BTreeMap::new();
    for round in 0..=rounds {
        for side in &SIDES {
            let done = side_of(payload, &calls, side, &disk).or_else(|error| {
                // Emulated hosts lose a guest now and then.
                println!("round {round}: {}: once more, since {error:#}", side.name);
                side_of(payload, &calls, side, &disk)
            })?;
            for (task, sample) in done {
                let task = side.label(task);
                println!(
                    "round {round}: {}: {task}: {:.1}/s, {:.2} exits, {:.2} calls each",
                    side.name, sample.per_second, sample.exits, sample.calls
                );
                if round > 0 {
                    all.entry(task).or_default().entry(side.name).or_default().push(sample);
                }
            }
        }
    }
    let mut figures = serde_json::Map::new();
    for (task, sides) in &all {
        let mut each = serde_json::Map::new();
        for (side, samples) in sides {
            let median = |value: fn(&Sample) -> f64| super::bench::median(samples, value);
            each.insert(
                (*side).to_owned(),
                json!({
                    "per_second": median(|sample| sample.per_second),
                    "exits_each": median(|sample| sample.exits),
                    "calls_each": median(|sample| sample.calls),
                }),
            );
        }
        figures.insert(task.clone(), each.into());
    }
    Event::Bench(figures.into()).say();
    Ok(0)
}

/// Starts a side and has it do its tasks.
fn side_of(
    payload: &Payload,
    calls: &Calls,
    side: &Side,
    disk: &Path,
) -> Result<Vec<(&'static str, Sample)>> {
    let mut command = (side.command)(payload, disk, side.vhost);
    let transcript = Rc::new(RefCell::new(String::new()));
    note(&transcript, &format!("$ {command:?}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.current_dir(&payload.directory);
    let child =
        sys::die_with_parent(&mut command).spawn().with_context(|| format!("starting {command:?}"))?;
    let mut vm = Vm::of(child, &transcript)?;
    tasks(&mut vm, calls, &side.tasks()).with_context(|| transcript.borrow().clone())
}

fn tasks(vm: &mut Vm, calls: &Calls, tasks: &[Task]) -> Result<Vec<(&'static str, Sample)>> {
    vm.ready()?;
    vm.ask("modprobe virtio_pci virtio_blk virtio_net")?;
    for words in [
        ["ip", "addr", "replace", &format!("{HOST}/24"), "dev", TAP].as_slice(),
        &["ip", "link", "set", TAP, "up"],
    ] {
        Command::new("/bin/busybox").args(words).status()?;
    }
    vm.output("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up")?;
    vm.output(&format!("ping -c 2 -W 5 {HOST}"))?;
    let mut samples = Vec::new();
    for (task, command, requests) in tasks.iter().flat_map(|task| [*task; TIMES]) {
        let (before, exits) = (calls.of(vm.pid())?, exits()?);
        let answer = vm.ask(command)?;
        let exits = self::exits()?.saturating_sub(exits);
        let made = calls.count()?.saturating_sub(before);
        let seconds = answer["seconds"].as_f64().context("no seconds")?;
        let each = |count: u64| count as f64 / requests as f64;
        let per_second = requests as f64 / seconds;
        samples.push((task, Sample { per_second, exits: each(exits), calls: each(made) }));
    }
    Ok(samples)
}

/// Exits of all guests there are, which is one.
fn exits() -> Result<u64> {
    let path = format!("{DEBUG}/kvm/exits");
    Ok(fs::read_to_string(&path).context(path)?.trim().parse()?)
}

/// Counts system calls by the kernel's tracer. It is switched on once, before there is a guest: that changes the
/// kernel's code, and then only a filter says whose calls count.
struct Calls(PathBuf);

impl Calls {
    fn start() -> Result<Self> {
        let calls = Self(PathBuf::from(TRACE));
        calls.only("common_pid == 0")?;
        let enable = calls.0.join("events/raw_syscalls/sys_enter/enable");
        fs::write(enable, "1").context("tracing system calls")?;
        Ok(calls)
    }

    fn only(&self, filter: &str) -> Result<()> {
        let path = self.0.join("events/raw_syscalls/sys_enter/filter");
        fs::write(path, filter).with_context(|| format!("counting calls where {filter}"))
    }

    /// Those of a process count from now on, in all its threads.
    fn of(&self, pid: u32) -> Result<u64> {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let threads: Vec<String> =
            threads.map(|entry| format!("common_pid == {}", entry.file_name().to_string_lossy())).collect();
        self.only(&threads.join(" || "))?;
        self.count()
    }

    /// All that counted so far.
    fn count(&self) -> Result<u64> {
        let mut count = 0;
        for cpu in fs::read_dir(self.0.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            for line in stats.lines() {
                // Those in the buffer, those written over, and those that found no room.
                if ["entries:", "overrun:", "dropped events:"].iter().any(|name| line.starts_with(name)) {
                    count += line.rsplit(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
                }
            }
        }
        Ok(count)
    }
}

/// The host's end of TCP: takes a stream and says when it is over, gives one, or gives back what it is asked.
fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // The guest says how it ended.
                let _ = answer(stream);
            });
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    if what == *b"s" {
        let mut bytes = vec![0; 256 << 10];
        while stream.read(&mut bytes)? > 0 {}
        return stream.write_all(b".");
    }
    if what == *b"t" {
        let mut mib = [0; 4];
        stream.read_exact(&mut mib)?;
        let bytes = vec![0x5a; 1 << 20];
        return (0..u32::from_le_bytes(mib)).try_for_each(|_| stream.write_all(&bytes));
    }
    stream.set_nodelay(true)?;
    let mut bytes = [0; QUESTION];
    loop {
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)?;
    }
}

fn numavisor(payload: &Payload, disk: &Path, vhost: &str) -> Command {
    let mut command = Command::new(payload.numavisor_release());
    command.arg("run").arg("--kernel").arg(payload.kernel(GuestKernel::Stock));
    command.arg("--initramfs").arg(payload.initramfs(GuestKernel::Stock)).args(["--cmdline", CMDLINE]);
    command.args(["--vcpus", VCPUS, "--memory", "512M"]);
    command.args(["--disk", &format!("path={}", disk.display())]);
    command.args(["--net", &format!("tap={TAP},mac={MAC},vhost={vhost}")]);
    command
}

fn rival(payload: &Payload, disk: &Path, vhost: &str) -> Command {
    let mut command = qemu(payload, "q35", VCPUS);
    let drive = format!("if=none,id=disk,format=raw,aio=io_uring,file={}", disk.display());
    command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    let interface = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost={vhost}");
    command.args(["-netdev", &interface]);
    command.args(["-device", &format!("virtio-net-pci,netdev=net,mac={MAC},romfile=")]);
    command.args(["-append", CMDLINE]);
    command
}

/// The same under `numactl`.
fn rival_on_a_node(payload: &Payload, disk: &Path, vhost: &str) -> Command {
    let rival = rival(payload, disk, vhost);
    let mut command = Command::new("/usr/bin/numactl");
    command.args(["--cpunodebind=0", "--membind=0", "--"]).arg(rival.get_program()).args(rival.get_args());
    command
}
