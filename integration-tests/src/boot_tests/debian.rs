//! A real distribution: a Debian with its own kernel, initramfs, systemd and tools, root on a virtio disk, a network
//! interface on a tap; what its tools say of the machine is what was asked for.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx, consoles};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::payload::DEBIAN;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Vm, note};
use crate::sys;

const TWO: Needs =
    Needs { nodes: 2, mib: 600, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] =
    &[BootTest { name: "debian_logs_in_and_its_tools_see_what_was_asked", needs: TWO, run: tools_agree }];

const TAP: &str = "nvdeb0";
const MAC: &str = "52:54:00:de:b1:a0";
const HOST: &str = "192.0.2.1";
const GUEST: &str = "192.0.2.2";
const SERIAL: &str = "DEBROOT";
/// What the guest and the host exchange by TCP.
const WORDS: &str = "from the guest";
/// After the console's login program is up it may still throw away what was typed.
const LOGIN_TRIES: usize = 10;

fn tools_agree(ctx: &Ctx) -> Result<()> {
    let disk = ctx.payload.debian.as_ref().context("no Debian was made")?;
    if !fs::exists("/dev/net/tun")? {
        return Err(Skip("needs /dev/net/tun".to_owned()).into());
    }
    let directory = tempfile::tempdir()?;
    let console = directory.path().join("console");
    // The root disk is on vnode 1 and the interface on vnode 0, so that neither is where it would be by default alone.
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 384, &[0]), Vnode::on(ctx.pnode(1), 448, &[1])])
        .distances(&[(0, 1, 21)]);
    let mut command = Command::new(ctx.payload.numavisor());
    let [kernel, initramfs] = DEBIAN.map(|name| ctx.payload.directory.join(name));
    command.arg("run").arg("--kernel").arg(kernel).arg("--initramfs").arg(initramfs);
    command.args(["--cmdline", "console=ttyS0 root=/dev/vda rw quiet panic=-1"]).args(spec.flags());
    command.args(["--disk", &format!("path={},vnode=1,serial={SERIAL}", disk.display())]);
    command.args(["--net", &format!("tap={TAP},mac={MAC},vnode=0")]).arg("--rng");
    command.args(["--console", &format!("socket={},vnode=1", console.display())]);
    note(&ctx.transcript, &format!("$ {command:?}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let vm =
        Vm::of(sys::die_with_parent(&mut command).spawn().context("starting numavisor")?, &ctx.transcript)?;
    let mut guest = Console { vm };
    guest.log_in()?;

    // Its units are started, and none has failed.
    let state = guest.run("systemctl is-system-running --wait")?;
    ensure!(state.trim() == "running", "systemd says it is '{state}': {}", guest.run("systemctl --failed")?);
    let log = guest.output("dmesg --raw")?;
    check::quiet_lines(log.lines())?;

    disk_is_there(&mut guest)?;
    let interface = interface_answers(ctx, &mut guest)?;
    functions_agree(&mut guest, &interface)?;
    nodes_agree(&spec, &mut guest)?;
    console_asks_who_it_is(&console, &mut guest)?;

    guest.vm.tell("systemctl poweroff")?;
    let status = guest.vm.ended()?;
    ensure!(status.code() == Some(0), "numavisor ended with {status} after the Debian was powered off");
    Ok(())
}

/// The root file system is on the disk that was given, whole and of its size.
fn disk_is_there(guest: &mut Console) -> Result<()> {
    let listed = guest.output("lsblk --bytes --noheadings --list --output NAME,SIZE,RO,SERIAL,MOUNTPOINT")?;
    let words: Vec<&str> = listed.split_whitespace().collect();
    ensure!(
        matches!(words.as_slice(), ["vda", "536870912", "0", serial, "/"] if *serial == SERIAL),
        "lsblk says {listed}"
    );
    // Written, flushed and read back past the page cache.
    guest.output(&format!("echo {WORDS} >/srv/written && sync && echo 3 >/proc/sys/vm/drop_caches"))?;
    ensure!(guest.output("cat /srv/written")?.trim() == WORDS, "the root disk lost what was written to it");
    Ok(())
}

/// The interface has the address that was given, and carries packets and a stream both ways; its name.
fn interface_answers(ctx: &Ctx, guest: &mut Console) -> Result<String> {
    ctx.busybox(&["ip", "addr", "add", &format!("{HOST}/24"), "dev", TAP])?;
    ctx.busybox(&["ip", "link", "set", TAP, "up"])?;
    let links = guest.output("ip -brief link")?;
    let line = links.lines().find(|line| line.contains(MAC)).with_context(|| format!("no {MAC}: {links}"))?;
    let name = line.split_whitespace().next().unwrap_or_default().to_owned();
    guest.output(&format!("ip addr add {GUEST}/24 dev {name} && ip link set {name} up"))?;
    let addresses = guest.output("ip a")?;
    ensure!(addresses.contains(&format!("inet {GUEST}/24")), "`ip a` says {addresses}");
    guest.output(&format!("ping -c 2 -W 5 {HOST}"))?;
    ctx.busybox(&["ping", "-c", "2", "-W", "5", GUEST])?;

    let listener = TcpListener::bind((HOST, 0))?;
    let port = listener.local_addr()?.port();
    let server = thread::spawn(move || -> std::io::Result<String> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut heard = vec![0; WORDS.len()];
        stream.read_exact(&mut heard)?;
        stream.write_all(&heard)?;
        Ok(String::from_utf8_lossy(&heard).into_owned())
    });
    let script = format!("exec 3<>/dev/tcp/{HOST}/{port}; printf \"{WORDS}\" >&3; cat <&3");
    let back = guest.output(&format!("timeout 60 bash -c '{script}'"))?;
    ensure!(back.trim() == WORDS, "what came back from the host by TCP is '{back}'");
    let heard = server.join().map_err(|_| anyhow::anyhow!("the host's side panicked"))??;
    ensure!(heard == WORDS, "the host heard '{heard}' by TCP");
    Ok(name)
}

/// `lspci` and sysfs have the devices on the segments and nodes of their vnodes.
fn functions_agree(guest: &mut Console, interface: &str) -> Result<()> {
    let listed = guest.output("lspci -D -n")?;
    // Disk, console, interface, entropy, and a balloon on either.
    let functions = [
        ("1042", "0001"),
        ("1043", "0001"),
        ("1041", "0000"),
        ("1044", "0000"),
        ("1045", "0000"),
        ("1045", "0001"),
    ];
    for (device, segment) in functions {
        let there = |line: &&str| line.starts_with(segment) && line.contains(&format!("1af4:{device}"));
        let count = listed.lines().filter(there).count();
        ensure!(count == 1, "lspci has {count} functions 1af4:{device} in segment {segment}: {listed}");
    }
    let nodes = guest.output(&format!(
        "cat /sys/block/vda/device/../numa_node /sys/class/net/{interface}/device/../numa_node"
    ))?;
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    ensure!(nodes == ["1", "0"], "disk and interface are on the nodes {nodes:?}");
    Ok(())
}

/// `lstopo` draws the vnodes with their memory, the disk under the one and the interface under the other.
fn nodes_agree(spec: &GuestSpec, guest: &mut Console) -> Result<()> {
    let drawn = guest.output("lstopo --of console")?;
    let position = |what: &str| drawn.find(what).with_context(|| format!("lstopo has no {what}: {drawn}"));
    let (node0, node1) = (position("NUMANode L#0 (P#0")?, position("NUMANode L#1 (P#1")?);
    let (disk, net) = (position("\"vda\"")?, position("Net \"")?);
    ensure!(
        node0 < net && net < node1 && node1 < disk,
        "lstopo has the interface or the disk under another node: {drawn}"
    );
    for package in ["Package L#0", "Package L#1"] {
        position(package)?;
    }
    let sizes = guest.output("cat /sys/devices/system/node/node?/meminfo | grep MemTotal")?;
    for (vnode, line) in spec.vnodes.iter().zip(sizes.lines()) {
        let kib: u64 = line.split_whitespace().nth(3).unwrap_or_default().parse()?;
        ensure!(
            kib <= vnode.mib << 10 && kib > (vnode.mib << 10) * 3 / 4,
            "{} MiB were asked: {line}",
            vnode.mib
        );
    }
    Ok(())
}

/// The virtio console is a terminal that one can log in on, too.
fn console_asks_who_it_is(socket: &Path, guest: &mut Console) -> Result<()> {
    let mut terminal = consoles::attach(socket)?;
    guest.output("systemctl start serial-getty@hvc0")?;
    let (mut shown, mut part) = (Vec::new(), [0; 256]);
    while !String::from_utf8_lossy(&shown).contains("hvc0") {
        let count = terminal.read(&mut part).context("the login prompt of hvc0")?;
        ensure!(count > 0, "sent away");
        shown.extend(&part[..count]);
    }
    Ok(())
}

/// A login shell on the guest's serial line.
struct Console {
    vm: Vm,
}

/// Ends the output of a command; written with a quote inside so that its echo is not taken for it.
const END: &str = "@@status";

impl Console {
    /// Waits for the login prompt and logs in as root.
    fn log_in(&mut self) -> Result<()> {
        self.vm.line("the login prompt's first line", |line| {
            (line.contains("Debian GNU/Linux") && line.contains("ttyS0")).then_some(())
        })?;
        for _ in 0..LOGIN_TRIES {
            // The prompt itself ends with no line.
            thread::sleep(Duration::from_secs(3));
            self.vm.tell("root")?;
            thread::sleep(Duration::from_secs(3));
            self.vm.tell("exec sh")?;
            self.vm.tell("PS1= ; stty -echo; [ \"$(id -u)\" = 0 ] && echo && echo @@\"in\"")?;
            let in_time = Duration::from_secs(10);
            if self.vm.line_within(in_time, "a shell", |line| line.ends_with("@@in").then_some(())).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("nobody could log in")
    }

    /// Runs a line; what it said, whatever its status.
    fn run(&mut self, line: &str) -> Result<String> {
        Ok(self.status_of(line)?.1)
    }

    /// Runs a line that must succeed.
    fn output(&mut self, line: &str) -> Result<String> {
        let (status, said) = self.status_of(line)?;
        ensure!(status == "0", "'{line}' ended with {status} in the guest: {said}");
        Ok(said)
    }

    fn status_of(&mut self, line: &str) -> Result<(String, String)> {
        self.vm.tell(&format!("{line}; s=$?; echo; echo {END} $s"))?;
        let said = RefCell::new(String::new());
        let status = self.vm.line(&format!("the end of '{line}'"), |line| {
            let status = line.strip_prefix(END).map(|status| status.trim().to_owned());
            if status.is_none() {
                said.borrow_mut().push_str(&format!("{line}\n"));
            }
            status
        })?;
        Ok((status, said.into_inner()))
    }
}
