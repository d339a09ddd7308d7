//! Figures of devices: numavisor and its rival, QEMU's q35, with the same guest, the same file and the same tap, in
//! turn. QEMU runs as it does by itself, on all CPUs, once more on those of one node, as numavisor always does, and once
//! more with a thread for its disk, as numavisor's has; and both have the network once more through the kernel (vhost). Beside the rates, what each request costs: exits of the
//! guest and system calls of the VMM.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bench::{CMDLINE, qemu};
use super::payload::{GuestKernel, Payload};
use super::vm::{Vm, note};
use crate::guest::traffic::QUESTION;
use crate::lab::job::Event;
use crate::sys;

const PORT: u16 = 7007;
const DISK_BYTES: usize = 32 << 20;
/// A node of the lab host has one CPU more, for the devices.
const VCPUS: &str = "1";
const DEBUG: &str = "/sys/kernel/debug";
const TRACE: &str = "/sys/kernel/tracing";

/// Name, the guest's command (the host's address goes in for `HOST`), and requests.
type Task = (&'static str, &'static str, u64);

const DISK_TASKS: [Task; 4] = [
    ("sequential 1 MiB reads", "disk /dev/vda read 1048576 480", 480),
    ("sequential 1 MiB writes", "disk /dev/vda write 1048576 480", 480),
    ("random 4 KiB reads", "disk /dev/vda random-read 4096 1500", 1500),
    ("random 4 KiB writes", "disk /dev/vda random-write 4096 1500", 1500),
];

const NET_TASKS: [Task; 3] = [
    ("TCP stream from the guest, MiB", "stream HOST:7007 256", 256),
    ("TCP stream to the guest, MiB", "take HOST:7007 256", 256),
    ("TCP questions and answers", "questions HOST:7007 1000", 1000),
];

/// How often a guest does each task; the first time does not count.
const TIMES: usize = 5;

/// A program with its way of doing tasks.
struct Side {
    name: &'static str,
    command: fn(&Payload, &Wires) -> Command,
    vhost: bool,
    /// What of it differs from the others.
    tasks: &'static [&'static [Task]],
}

const ALL: &[&[Task]] = &[&DISK_TASKS, &NET_TASKS];

const SIDES: [Side; 6] = [
    Side { name: "numavisor", command: numavisor, vhost: false, tasks: ALL },
    Side { name: "qemu", command: rival, vhost: false, tasks: ALL },
    Side { name: "qemu_on_a_node", command: rival_on_a_node, vhost: false, tasks: ALL },
    Side { name: "qemu_iothread", command: rival_with_a_thread, vhost: false, tasks: &[&DISK_TASKS] },
    Side { name: "numavisor", command: numavisor, vhost: true, tasks: &[&NET_TASKS] },
    Side { name: "qemu", command: rival, vhost: true, tasks: &[&NET_TASKS] },
];

impl Side {
    fn does(&self, task: &Task) -> bool {
        self.tasks.iter().any(|tasks| tasks.contains(task))
    }

    fn label(&self, task: &Task) -> String {
        format!("{}{}", task.0, if self.vhost { ", vhost" } else { "" })
    }
}

/// What a side is connected to.
struct Wires {
    disk: PathBuf,
    tap: String,
    mac: String,
    vhost: &'static str,
    /// Addresses of the host and of the guest, on a network of their own.
    ends: [String; 2],
}

impl Wires {
    fn of(payload: &Payload, index: usize) -> Self {
        let end = |host: usize| format!("192.0.2.{}", 4 * index + host);
        Self {
            disk: payload.scratch.join(format!("bench-{index}.img")),
            tap: format!("nvbench{index}"),
            mac: format!("52:54:00:be:0c:{index:02x}"),
            vhost: if SIDES[index].vhost { "on" } else { "off" },
            ends: [end(1), end(2)],
        }
    }
}

/// What one task did on one side.
#[derive(Clone, Copy, Deserialize, Serialize)]
pub(crate) struct Sample {
    per_second: f64,
    exits: f64,
    calls: f64,
}

/// The samples of a task by side, those taken after one another at the same place.
pub(crate) type Samples = BTreeMap<String, BTreeMap<String, Vec<Sample>>>;

/// Has a guest of each side do every task in turn, since a host's pace may change within minutes; says the samples.
pub(super) fn run(payload: &Payload) -> Result<i32> {
    for (kind, at) in [("debugfs", DEBUG), ("tracefs", TRACE)] {
        let _ = mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>);
    }
    let disks: Vec<PathBuf> = (0..SIDES.len()).map(|index| Wires::of(payload, index).disk).collect();
    disks.iter().try_for_each(|disk| fs::write(disk, vec![0x5a; DISK_BYTES]))?;
    serve()?;
    let samples = Calls::start().and_then(|calls| round(payload, &calls));
    // They are no result.
    let removed = disks.iter().try_for_each(fs::remove_file);
    Event::Bench(serde_json::to_value(samples?)?).say();
    removed?;
    Ok(0)
}

/// Medians; and of the ratios to each rival, whose samples were taken at about the same time.
pub(crate) fn figures(sides: &BTreeMap<String, Vec<Sample>>) -> Value {
    let own = sides.get("numavisor").map_or(&[][..], Vec::as_slice);
    let mut each = serde_json::Map::new();
    for (side, samples) in sides {
        let median = |value: fn(&Sample) -> f64| super::bench::median(samples, value);
        let pairs: Vec<f64> = own.iter().zip(samples).map(|(own, s)| own.per_second / s.per_second).collect();
        each.insert(
            side.clone(),
            json!({
                "per_second": median(|sample| sample.per_second),
                "exits_each": median(|sample| sample.exits),
                "calls_each": median(|sample| sample.calls),
                "ratio": super::bench::median(&pairs, |ratio| *ratio),
            }),
        );
    }
    each.into()
}

fn round(payload: &Payload, calls: &Calls) -> Result<Samples> {
    let guests = (0..SIDES.len()).map(|index| Guest::start(payload, index));
    let mut guests = guests.collect::<Result<Vec<Guest>>>()?;
    guests.iter_mut().try_for_each(Guest::connect)?;
    let mut all = Samples::new();
    for time in 0..TIMES {
        for task in DISK_TASKS.iter().chain(&NET_TASKS) {
            // Nobody is always the first.
            guests.rotate_left(1);
            for guest in guests.iter_mut().filter(|guest| guest.side.does(task)) {
                let sample = guest.does(calls, task)?;
                let label = guest.side.label(task);
                println!("{time}: {label}: {}: {:.0}/s", guest.side.name, sample.per_second);
                if time > 0 {
                    let sides = all.entry(label).or_default();
                    sides.entry(guest.side.name.to_owned()).or_default().push(sample);
                }
            }
        }
    }
    Ok(all)
}

/// A running guest of a side.
struct Guest {
    side: &'static Side,
    wires: Wires,
    vm: Vm,
    transcript: Rc<RefCell<String>>,
}

impl Guest {
    fn start(payload: &Payload, index: usize) -> Result<Self> {
        let (side, wires) = (&SIDES[index], Wires::of(payload, index));
        let mut command = (side.command)(payload, &wires);
        let transcript = Rc::new(RefCell::new(String::new()));
        note(&transcript, &format!("$ {command:?}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(&payload.directory);
        let child = sys::die_with_parent(&mut command).spawn();
        let vm = Vm::of(child.with_context(|| format!("starting {command:?}"))?, &transcript)?;
        Ok(Self { side, wires, vm, transcript })
    }

    fn connect(&mut self) -> Result<()> {
        let [host, guest] = &self.wires.ends;
        self.vm.ready().with_context(|| self.transcript.borrow().clone())?;
        self.vm.ask("modprobe virtio_pci virtio_blk virtio_net")?;
        for words in [
            ["ip", "addr", "replace", &format!("{host}/30"), "dev", &self.wires.tap].as_slice(),
            &["ip", "link", "set", &self.wires.tap, "up"],
        ] {
            Command::new("/bin/busybox").args(words).status()?;
        }
        self.vm.output(&format!("ip addr add {guest}/30 dev eth0 && ip link set eth0 up"))?;
        self.vm.output(&format!("ping -c 2 -W 5 {host}")).map(|_| ())
    }

    fn does(&mut self, calls: &Calls, (_, command, requests): &Task) -> Result<Sample> {
        let (before, exits) = (calls.of(self.vm.pid())?, exits(self.vm.pid())?);
        let answer = self.vm.ask(&command.replace("HOST", &self.wires.ends[0]));
        let answer = answer.with_context(|| self.transcript.borrow().clone())?;
        let exits = self::exits(self.vm.pid())?.saturating_sub(exits);
        let made = calls.count()?.saturating_sub(before);
        let seconds = answer["seconds"].as_f64().context("no seconds")?;
        let each = |count: u64| count as f64 / *requests as f64;
        Ok(Sample { per_second: *requests as f64 / seconds, exits: each(exits), calls: each(made) })
    }
}

/// Exits of the guest of a process.
fn exits(pid: u32) -> Result<u64> {
    let all = PathBuf::from(DEBUG).join("kvm");
    let start = format!("{pid}-");
    let its = |name: &str| name.starts_with(&start);
    let entries = fs::read_dir(&all).with_context(|| all.display().to_string())?.flatten();
    let vm = entries.map(|entry| entry.file_name()).find(|name| name.to_str().is_some_and(its));
    let path = all.join(vm.with_context(|| format!("process {pid} has no VM"))?).join("exits");
    Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().parse()?)
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

fn numavisor(payload: &Payload, wires: &Wires) -> Command {
    let mut command = Command::new(payload.numavisor_release());
    command.arg("run").arg("--kernel").arg(payload.kernel(GuestKernel::StockBzImage));
    command.arg("--initramfs").arg(payload.initramfs(GuestKernel::StockBzImage)).args(["--cmdline", CMDLINE]);
    command.args(["--vcpus", VCPUS, "--memory", "512M"]);
    command.args(["--disk", &format!("path={}", wires.disk.display())]);
    command.args(["--net", &format!("tap={},mac={},vhost={}", wires.tap, wires.mac, wires.vhost)]);
    command
}

fn rival(payload: &Payload, wires: &Wires) -> Command {
    q35(payload, wires, "")
}

/// The same with a thread for the disk.
fn rival_with_a_thread(payload: &Payload, wires: &Wires) -> Command {
    let mut command = q35(payload, wires, ",iothread=disk-thread");
    command.args(["-object", "iothread,id=disk-thread"]);
    command
}

/// QEMU, with more words for its disk.
fn q35(payload: &Payload, wires: &Wires, disk: &str) -> Command {
    let mut command = qemu(payload, "q35", VCPUS);
    let drive = format!("if=none,id=disk,format=raw,aio=io_uring,file={}", wires.disk.display());
    command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive=disk{disk}")]);
    let interface = format!("tap,id=net,ifname={},script=no,downscript=no,vhost={}", wires.tap, wires.vhost);
    command.args(["-netdev", &interface]);
    command.args(["-device", &format!("virtio-net-pci,netdev=net,mac={},romfile=", wires.mac)]);
    command.args(["-append", CMDLINE]);
    command
}

/// The same under `numactl`.
fn rival_on_a_node(payload: &Payload, wires: &Wires) -> Command {
    let rival = rival(payload, wires);
    let mut command = Command::new("/usr/bin/numactl");
    command.args(["--cpunodebind=0", "--membind=0", "--"]).arg(rival.get_program()).args(rival.get_args());
    command
}
