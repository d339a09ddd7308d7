//! Network devices: a tap made by name, packets both ways, and nothing left of it.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::suite::Skip;
use crate::runner::vm::{Start, Vm};

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: true };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "net_pings_both_ways_and_leaves_no_tap", needs: TWO, run: plain },
    BootTest { name: "net_pings_both_ways_by_vhost", needs: TWO, run: by_vhost },
];

const NET: u32 = 1;
/// Its last two digits are the guest's number.
const MAC: &str = "52:54:00:12:34:56";

fn plain(ctx: &Ctx) -> Result<()> {
    let (vm, _) = pinged(ctx, "nvlab0", "vhost=off")?;
    vm.power_off()?;
    gone("nvlab0")?;
    let (mut vm, _) = pinged(ctx, "nvlab0", "vhost=off,mtu=1400")?;
    let mtu = vm.output("cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == "1400", "the guest's interface has an MTU of {mtu}");
    vm.signal(Signal::SIGKILL)?;
    vm.ended()?;
    gone("nvlab0")
}

fn by_vhost(ctx: &Ctx) -> Result<()> {
    if !fs::exists("/dev/vhost-net")? {
        return Err(Skip("needs /dev/vhost-net".to_owned()).into());
    }
    let (vm, spec) = pinged(ctx, "nvlab1", "vhost=on")?;
    check::bound(&vm, &spec)?;
    served_by_kernel(vm.pid())?;
    vm.power_off()?;
    gone("nvlab1")
}

/// A kernel thread named after one of the VMM's serves the queues; on newer kernels it is one of the VMM's itself.
fn served_by_kernel(pid: u32) -> Result<()> {
    let own = format!("/proc/{pid}/task");
    let ids = |at: &str| -> Result<Vec<String>> {
        Ok(fs::read_dir(at)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    };
    let names: Vec<String> = ids(&own)?.iter().map(|id| format!("vhost-{id}")).collect();
    let processes = ids("/proc")?.into_iter().map(|id| format!("/proc/{id}/comm"));
    let threads = ids(&own)?.into_iter().map(|id| format!("{own}/{id}/comm"));
    let all: Vec<String> = processes
        .chain(threads)
        .filter_map(|path| fs::read_to_string(path).ok())
        .filter(|comm| comm.starts_with("vhost-"))
        .collect();
    let ours = all.iter().any(|comm| names.iter().any(|name| name == comm.trim()));
    ensure!(ours, "no thread is called like one of {names:?}, there are {all:?}");
    Ok(())
}

/// The tap went with the VMM; the kernel takes a moment.
fn gone(tap: &str) -> Result<()> {
    std::thread::sleep(std::time::Duration::from_millis(200));
    ensure!(!fs::exists(format!("/sys/class/net/{tap}"))?, "{tap} is left behind");
    Ok(())
}

/// A guest whose interface is on vnode 1 and answers, as the host does.
fn pinged(ctx: &Ctx, tap: &str, options: &str) -> Result<(Vm, GuestSpec)> {
    if !fs::exists("/dev/net/tun")? {
        return Err(Skip("needs /dev/net/tun".to_owned()).into());
    }
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 192, &[0]), Vnode::on(ctx.pnode(1), 160, &[1])]);
    let flag = format!("tap={tap},mac={MAC},vnode=1,{options}");
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--net", &flag]))?;
    vm.ask("modprobe virtio_pci virtio_net")?;
    ctx.busybox(&["ip", "addr", "add", "192.0.2.1/24", "dev", tap])?;
    ctx.busybox(&["ip", "link", "set", tap, "up"])?;
    vm.output("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up")?;
    let address = vm.output("cat /sys/class/net/eth0/address")?;
    ensure!(address == MAC, "the guest's interface has the address {address}, not {MAC}");
    vm.output("ping -c 3 -W 5 192.0.2.1")?;
    ctx.busybox(&["ping", "-c", "3", "-W", "5", "192.0.2.2"])?;
    // Packets of more than one page, in fragments.
    vm.output("ping -c 2 -W 5 -s 20000 192.0.2.1")?;
    check::devices(&spec, &vm.report()?, &[(NET, 1)])?;
    Ok((vm, spec))
}
