//! Network devices: a tap made by name, packets both ways, and nothing left of it.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::moves::ctl;
use super::{BootTest, Ctx, disks};
use crate::rangelist;
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{PATIENCE, Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "net_pings_both_ways_and_leaves_no_tap", needs: TWO, run: plain },
    BootTest { name: "net_pings_both_ways_by_vhost", needs: Needs { cpus: 2, ..TWO }, run: by_vhost },
    BootTest { name: "killed_vm_leaves_nothing_in_the_way", needs: TWO, run: killed },
];

const NET: u32 = 1;
const HOST: &str = "192.0.2.1";
/// Its last two digits are the guest's number.
const MAC: &str = "52:54:00:12:34:56";

fn plain(ctx: &Ctx) -> Result<()> {
    let (mut vm, spec) = pinged(ctx, "nvlab0", "vhost=off", &[])?;
    check::devices(&spec, &vm.report()?, &[(NET, 1)])?;
    vm.power_off()?;
    gone("nvlab0")?;
    let (mut vm, _) = pinged(ctx, "nvlab0", "vhost=off,mtu=1400,queues=2", &[])?;
    let mtu = vm.output("cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == "1400", "the guest's interface has an MTU of {mtu}");
    let queues = vm.output("ls /sys/class/net/eth0/queues")?;
    let queues: Vec<&str> = queues.split_whitespace().collect();
    ensure!(queues == ["rx-0", "rx-1", "tx-0", "tx-1"], "the guest's interface has the queues {queues:?}");
    check::quiet_log(&vm.report()?)?;
    vm.signal(Signal::SIGKILL)?;
    vm.ended()?;
    gone("nvlab0")
}

fn by_vhost(ctx: &Ctx) -> Result<()> {
    if !fs::exists("/dev/vhost-net")? {
        return Err(Skip("needs /dev/vhost-net".to_owned()).into());
    }
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let (mut vm, spec) = pinged(ctx, "nvlab1", "vhost=on", &["--api-socket", &socket.to_string_lossy()])?;
    check::devices(&spec, &vm.report()?, &[(NET, 1)])?;
    check::bound(&vm, &spec)?;
    served_by_kernel(vm.pid(), &ctx.cpus_of(ctx.pnode(1)))?;
    let metrics = ctx.numavisor(&["ctl", "--api-socket", &socket.to_string_lossy(), "metrics"])?.stdout;
    let line = "numavisor_net_datapath{device=\"net0\",vnode=\"1\",path=\"kernel\"} 1\n";
    let metrics = String::from_utf8_lossy(&metrics);
    ensure!(metrics.contains(line), "the metrics say {metrics}");
    // It goes where the vnode goes.
    let job = ctl(ctx, &socket, &["move", "1", "--pnode", &ctx.pnode(0).to_string()])?;
    ensure!(job["state"] == "done", "the move ended as {job}");
    served_by_kernel(vm.pid(), &ctx.cpus_of(ctx.pnode(0)))?;
    vm.output(&format!("ping -c 2 -W 5 {HOST}"))?;
    vm.power_off()?;
    gone("nvlab1")
}

/// After a kill there is no tap, no lock on the disk, and no socket but that of a service of the user's: the same VM starts
/// again at once, in the same places, and takes its sockets with it when it ends.
fn killed(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name);
    fs::write(at("disk"), vec![0; 1 << 20])?;
    let (api, vsock, console) = (at("api"), at("vsock"), at("console"));
    let service = UnixListener::bind(at("vsock_52"))?;
    let [disk, path] = disks::flag(&at("disk"), "");
    let sockets = (api.to_string_lossy(), format!("cid=3,socket={}", vsock.display()));
    let terminal = format!("socket={}", console.display());
    let flags =
        [&*disk, &*path, "--api-socket", &*sockets.0, "--vsock", &*sockets.1, "--console", &*terminal];
    let (mut vm, _) = pinged(ctx, "nvlab2", "vhost=off", &flags)?;
    vm.signal(Signal::SIGKILL)?;
    vm.ended()?;
    gone("nvlab2")?;
    only_left(directory.path(), &["disk", "vsock_52"])?;
    let (vm, _) = pinged(ctx, "nvlab2", "vhost=off", &flags)?;
    ctl(ctx, &api, &["info"])?;
    UnixStream::connect(&vsock)?;
    UnixStream::connect(&console)?;
    vm.power_off()?;
    gone("nvlab2")?;
    drop(service);
    only_left(directory.path(), &["disk", "vsock_52"])
}

/// A directory comes to have these files alone.
fn only_left(directory: &Path, files: &[&str]) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut left: Vec<_> = fs::read_dir(directory)?.flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        if left == files {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "left behind: {left:?}, not {files:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A thread of the kernel, named after one of the VMM's, serves the queues on these CPUs; on newer kernels it is a
/// thread of the VMM.
pub(super) fn served_by_kernel(pid: u32, cpus: &[u32]) -> Result<()> {
    let own = format!("/proc/{pid}/task");
    let numbers = |at: &str| -> Result<Vec<String>> {
        let names = fs::read_dir(at)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.parse::<u32>().is_ok()).collect())
    };
    let names: Vec<String> = numbers(&own)?.iter().map(|id| format!("vhost-{id}")).collect();
    let processes = numbers("/proc")?.into_iter().map(|id| format!("/proc/{id}"));
    let threads = numbers(&own)?.into_iter().map(|id| format!("{own}/{id}"));
    let ours = |at: &String| {
        let comm = fs::read_to_string(format!("{at}/comm")).unwrap_or_default();
        names.iter().any(|name| name == comm.trim())
    };
    let found: Vec<String> = processes.chain(threads).filter(ours).collect();
    ensure!(!found.is_empty(), "no thread is called like one of {names:?}");
    for at in found {
        let status = fs::read_to_string(format!("{at}/status"))?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = rangelist::parse(allowed.unwrap_or_default().trim())?;
        ensure!(allowed == cpus, "vhost's thread {at} may run on {allowed:?}, not on {cpus:?}");
    }
    Ok(())
}

/// The tap went with the VMM; the kernel takes a moment.
fn gone(tap: &str) -> Result<()> {
    thread::sleep(Duration::from_millis(200));
    ensure!(!fs::exists(format!("/sys/class/net/{tap}"))?, "{tap} is left behind");
    Ok(())
}

/// A guest whose interface is on vnode 1 and answers, as the host does.
pub(super) fn pinged(ctx: &Ctx, tap: &str, options: &str, more: &[&str]) -> Result<(Vm, GuestSpec)> {
    if !fs::exists("/dev/net/tun")? {
        return Err(Skip("needs /dev/net/tun".to_owned()).into());
    }
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let flag = format!("tap={tap},mac={MAC},vnode=1,{options}");
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--net", &flag]).flag(more))?;
    vm.ask("modprobe virtio_pci virtio_net")?;
    ctx.busybox(&["ip", "addr", "add", &format!("{HOST}/24"), "dev", tap])?;
    ctx.busybox(&["ip", "link", "set", tap, "up"])?;
    vm.output("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up")?;
    let address = vm.output("cat /sys/class/net/eth0/address")?;
    ensure!(address == MAC, "the guest's interface has the address {address}, not {MAC}");
    vm.output("ping -c 3 -W 5 192.0.2.1")?;
    ctx.busybox(&["ping", "-c", "3", "-W", "5", "192.0.2.2"])?;
    // Packets of more than one page, in fragments.
    vm.output("ping -c 2 -W 5 -s 20000 192.0.2.1")?;
    Ok((vm, spec))
}
