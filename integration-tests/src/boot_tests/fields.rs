//! What people met in the field, with other monitors mostly: guests without x2APIC, inputs that end, clients that break off,
//! hosts that forbid calls or balance memory, disks with large sectors, pools that two VMs count on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{BootTest, Ctx, disks};
use crate::guest::READY;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::pools::{Pool, SIZE_2M};
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{ERRORS, PATIENCE, Start, note, untimed};
use crate::sys;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };
const ROOT: Needs = Needs { root: true, ..TWO };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "field_guest_without_x2apic_has_its_cpus_and_devices", needs: TWO, run: without_x2apic },
    BootTest { name: "field_input_that_ends_leaves_no_busy_thread", needs: TWO, run: input_ends },
    BootTest { name: "field_clients_of_a_socket_that_break_off", needs: TWO, run: clients_break_off },
    BootTest { name: "field_calls_that_a_container_forbids", needs: TWO, run: forbidden },
    BootTest { name: "field_balancing_leaves_guest_memory_alone", needs: ROOT, run: balancing },
    BootTest {
        name: "field_two_vms_at_once_share_no_cpu",
        needs: Needs { nodes: 1, cpus: 2, ..TWO },
        run: two_at_once,
    },
    BootTest { name: "field_disk_with_sectors_of_4k", needs: Needs { nodes: 1, ..ROOT }, run: large_sectors },
    BootTest {
        name: "field_pool_that_another_vm_counts_on",
        needs: Needs { nodes: 1, ..ROOT },
        run: counted_on,
    },
];

/// A busy thread would run all of it.
const WATCHED: Duration = Duration::from_secs(3);
/// In hundredths of a second.
const BUSY_TICKS: u64 = 60;
/// A client that broke off is let go within that.
const LET_GO: Duration = Duration::from_secs(30);
/// Exit status when the host refuses.
const HOST: i32 = 3;
/// Exit status after a second signal.
const KILLED: i32 = 143;
const PORT: &str = "1234";

fn one(ctx: &Ctx) -> GuestSpec {
    GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0])])
}

/// A vnode of memory only has a device; nothing of the processor's numbers contradicts the tables.
fn without_x2apic(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    File::create(&disk)?.set_len(1 << 20)?;
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0, 1]), Vnode::on(ctx.pnode(1), 128, &[])]);
    let mut start = Start::of(&spec).cmdline("nox2apic").flag(&["--rng"]);
    start.flags.extend(disks::flag(&disk, ",vnode=1"));
    let mut vm = ctx.boot(&start)?;
    ensure!(vm.output("nproc")? == "2", "the guest has {} CPUs", vm.output("nproc")?);
    let nodes = vm.output("cat /sys/bus/pci/devices/*/numa_node")?;
    ensure!(!nodes.is_empty() && !nodes.contains('-'), "devices are on nodes {nodes:?}");
    let complaints = vm.output("dmesg | grep -iE 'firmware bug|sibling' || true")?;
    ensure!(complaints.is_empty(), "the guest says {complaints}");
    check::quiet_log(&vm.report()?)?;
    vm.power_off()
}

/// Time that threads which are no vCPUs have taken, in ticks.
fn others_ticks(pid: u32) -> Result<u64> {
    let mut ticks = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((head, fields)) = stat.rsplit_once(')') else { continue };
        if !head.contains("(vcpu") {
            // Fields 14 and 15 of proc(5).
            ticks += fields
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    Ok(ticks)
}

fn input_ends(ctx: &Ctx) -> Result<()> {
    for input in ["/dev/null", "a pipe that ends"] {
        let mut command = Start::of(&one(ctx)).command(ctx.payload);
        command.stdin(if input == "/dev/null" { Stdio::null() } else { Stdio::piped() });
        let mut child = sys::die_with_parent(command.stdout(Stdio::piped()).stderr(Stdio::null())).spawn()?;
        drop(child.stdin.take());
        let pid = child.id();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let ready = output.lines().map_while(Result::ok).any(|line| line.trim_end() == READY);
        ensure!(ready, "{input}: the guest was never ready");
        let before = others_ticks(pid)?;
        thread::sleep(WATCHED);
        let busy = others_ticks(pid)? - before;
        note(&ctx.transcript, &format!("{input}: {busy} ticks in {WATCHED:?}"));
        ensure!(busy < BUSY_TICKS, "{input}: threads ran for {busy} ticks in {WATCHED:?}");
        // The first asks a guest that has no driver for the button.
        for _ in 0..2 {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
            thread::sleep(Duration::from_millis(500));
        }
        let status = child.wait()?;
        ensure!(status.code() == Some(KILLED), "{input}: it ended with {status}");
    }
    Ok(())
}

/// What comes back on a connection until it ends. A reset is as good as an end.
fn rest(mut stream: UnixStream) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(LET_GO))?;
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                anyhow::bail!("the connection hangs after {} bytes", all.len())
            }
            Err(_) => return Ok(all),
        }
    }
}

/// A client that does as it should is served.
fn echoed(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    let mut line = [0; 3];
    stream.read_exact(&mut line)?;
    ensure!(line == *b"OK ", "CONNECT was answered with {line:?}");
    Ok(stream)
}

fn clients_break_off(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("vsock");
    let mut vm =
        ctx.start(&Start::of(&one(ctx)).flag(&["--vsock", &format!("cid=3,socket={}", socket.display())]))?;
    // Before there is a guest: the end of the connection, not a wait for ever.
    let began = Instant::now();
    let mut early = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    early.write_all(format!("CONNECT {PORT}\n").as_bytes())?;
    vm.ready()?;
    vm.ask("modprobe virtio_pci vmw_vsock_virtio_transport")?;
    ensure!(rest(early)?.is_empty(), "nobody listened yet, and there was an answer");
    vm.ask(&format!("vsock-echo {PORT}"))?;
    let long = [b'A'; 4096];
    for (what, words) in [
        ("no end of line", &b"CONNECT 1024"[..]),
        ("nothing", b""),
        ("a long line", &long),
        ("a port past the last", b"CONNECT 99999999999\n"),
    ] {
        let mut stream = UnixStream::connect(&socket)?;
        // It may be closed before all of it is written.
        let _ = stream.write_all(words);
        let _ = stream.shutdown(Shutdown::Write);
        let answer = rest(stream).context(what)?;
        ensure!(answer.is_empty(), "{what}: there was an answer: {answer:?}");
        drop(echoed(&socket).context(what)?);
    }
    // The host's side goes while the guest writes.
    let mut stream = echoed(&socket)?;
    let mut reader = stream.try_clone()?;
    let writer = thread::spawn(move || stream.write_all(&vec![7; 1 << 20]));
    reader.read_exact(&mut [0; 4096])?;
    reader.shutdown(Shutdown::Both)?;
    drop(reader);
    let _ = writer.join();
    drop(echoed(&socket).context("after a client that went")?);
    ensure!(vm.output("echo alive")? == "alive", "the guest does not answer");
    vm.power_off()
}

fn forbidden(ctx: &Ctx) -> Result<()> {
    for (call, name, hint) in [
        (libc::SYS_mbind, "mbind", "a container must allow mbind"),
        (libc::SYS_sched_setaffinity, "sched_setaffinity", ""),
    ] {
        let mut start = Start::of(&one(ctx));
        start.forbidden = vec![call];
        let mut vm = ctx.start(&start)?;
        let status = vm.ended()?;
        drop(vm);
        let transcript = ctx.transcript.borrow();
        let said = transcript.lines().rev().find_map(|line| untimed(line).strip_prefix(ERRORS));
        let said = said.unwrap_or_default();
        ensure!(status.code() == Some(HOST), "without {name} it ended with {status}: {said}");
        ensure!(said.contains(name) && said.contains(hint), "without {name} it says {said}");
    }
    // Where pages lie cannot be known then; the guest runs all the same.
    let mut start = Start::of(&one(ctx));
    start.forbidden = vec![libc::SYS_move_pages];
    ctx.boot(&start)?.power_off()
}

/// A counter of the host's.
fn counted(name: &str) -> Result<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("the host does not count {name}"))?.parse().context("a count")
}

fn balancing(ctx: &Ctx) -> Result<()> {
    const SWITCH: &str = "/proc/sys/kernel/numa_balancing";
    const FAULTS: &str = "numa_hint_faults";
    let was =
        fs::read_to_string(SWITCH).map_err(|_| Skip("the host's kernel does not balance".to_owned()))?;
    fs::write(SWITCH, "1")?;
    let faults = (|| -> Result<u64> {
        let spec = GuestSpec::new(vec![
            Vnode::on(ctx.pnode(0), 192, &[0]),
            Vnode::on(ctx.pnode(1), 160, &[1]).with("policy=preferred"),
        ]);
        let mut vm = ctx.boot(&Start::of(&spec))?;
        vm.ask("alloc 64 1")?;
        let before = counted(FAULTS)?;
        // Every page, again and again, for longer than the kernel takes to look at all of a process.
        vm.output("dd if=/dev/zero of=/tmp/all bs=1M count=48 2>&1; for i in 1 2 3 4 5 6; do md5sum /tmp/all; sleep 1; done")?;
        let faults = counted(FAULTS)? - before;
        vm.power_off().map(|()| faults)
    })();
    fs::write(SWITCH, was)?;
    let faults = faults?;
    note(&ctx.transcript, &format!("{faults} hint faults"));
    // The programs of the host have some in memory of their own; the guest has used 12,000 pages six times.
    ensure!(faults < 2000, "the host's kernel took {faults} hint faults");
    Ok(())
}

/// CPUs that vCPUs may run on, one set each.
fn vcpu_cpus(pid: u32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").starts_with("vcpu") {
            let status = read("status");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            all.push(list.context("no list")?.trim().to_owned());
        }
    }
    Ok(all)
}

fn two_at_once(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 160, &[0]).with("affinity=hard")]);
    let start = Start::of(&spec);
    let mut vms = [ctx.start(&start)?, ctx.start(&start)?];
    vms.iter_mut().try_for_each(|vm| vm.ready())?;
    let mut cpus = Vec::new();
    for vm in &vms {
        cpus.extend(vcpu_cpus(vm.pid())?);
    }
    let different: BTreeSet<&String> = cpus.iter().collect();
    let single = cpus.iter().all(|list| list.parse::<u32>().is_ok());
    ensure!(cpus.len() == 2 && different.len() == 2 && single, "the vCPUs run on {cpus:?}");
    vms.into_iter().try_for_each(|vm| vm.power_off())
}

fn large_sectors(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let backing = directory.path().join("backing");
    File::create(&backing)?.set_len(4 << 20)?;
    let free = ctx.busybox(&["losetup", "-f"]).map_err(|_| Skip("needs a loop device".to_owned()))?;
    let device = free.trim().to_owned();
    ctx.busybox(&["losetup", &device, &backing.to_string_lossy()])?;
    let result = (|| -> Result<()> {
        sys::loop_block_size(&File::open(&device)?, 4096).context("LOOP_SET_BLOCK_SIZE")?;
        let name = device.trim_start_matches("/dev/");
        fs::write(format!("/sys/block/{name}/queue/discard_max_bytes"), "0").context("discard_max_bytes")?;
        let mut start = Start::of(&one(ctx));
        start.flags.extend(disks::flag(Path::new(&device), ",direct=on"));
        let mut vm = ctx.boot(&start)?;
        vm.ask("modprobe virtio_pci virtio_blk")?;
        let size = vm.output("cat /sys/block/vda/queue/logical_block_size")?;
        ensure!(size == "4096", "the guest has sectors of {size} bytes");
        let most = vm.output("cat /sys/block/vda/queue/discard_max_bytes")?;
        ensure!(most == "0", "the host discards nothing, and the guest up to {most} bytes");
        vm.output("yes four-kilobytes | dd of=/dev/vda bs=4096 count=8 oflag=direct iflag=fullblock 2>&1")?;
        vm.output("dd if=/dev/vda of=/dev/null bs=4096 iflag=direct 2>&1")?;
        vm.power_off()?;
        ensure!(fs::read(&backing)?.starts_with(b"four-kilobytes\n"), "what the guest wrote is not there");
        Ok(())
    })();
    ctx.busybox(&["losetup", "-d", &device])?;
    result
}

fn counted_on(ctx: &Ctx) -> Result<()> {
    let pool = Pool::reserve(ctx.pnode(0), SIZE_2M, 100)?;
    let vm = |mib| {
        Start::of(&GuestSpec::new(vec![Vnode::on(ctx.pnode(0), mib, &[0]).with("pages=2M,prefault=off")]))
    };
    // Pages that a mapping has reserved are free until it touches them, and a VM cannot have them.
    let reserved = sys::ReservedPages::map(60)?;
    let said = ctx.refused(&vm(128), 3)?;
    ensure!(said.contains("2M"), "beside pages that are reserved it is told {said}");
    drop(reserved);
    let first = ctx.boot(&vm(128))?;
    let said = ctx.refused(&vm(96), 3)?;
    ensure!(said.contains("2M"), "the second one is told {said}");
    first.power_off()?;
    ctx.boot(&vm(96).flag(&["--rng"]))?.power_off()?;
    drop(pool);
    Ok(())
}
