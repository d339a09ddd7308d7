//! vCPU threads: their names, where they may run, and many of them.

use anyhow::{Context, Result, ensure};

use super::moves::ctl;
use super::{BootTest, Ctx};
use crate::runner::check;
use crate::runner::host::Needs;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 2, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "cpus_affinity_soft_and_none", needs: TWO, run: soft_and_none },
    BootTest { name: "cpus_affinity_changes_on_line", needs: TWO, run: on_line },
    BootTest { name: "cpus_more_vcpus_than_the_node_has", needs: TWO, run: more_than_there_are },
    BootTest { name: "cpus_sixteen_on_four_vnodes", needs: TWO, run: sixteen },
    // All at once they ask for more than an emulated host can give: there guests die of it now and then.
    BootTest {
        name: "cpus_sixty_four_on_eight_vnodes",
        needs: Needs { mib: 800, cpus: 8, ..TWO },
        run: sixty_four,
    },
    BootTest {
        name: "cpus_a_hundred_and_twenty_eight",
        needs: Needs { mib: 800, cpus: 16, ..TWO },
        run: many,
    },
    BootTest { name: "cpus_two_hundred_and_fifty_six", needs: Needs { mib: 800, ..TWO }, run: far_too_many },
    BootTest { name: "cpus_sixty_four_vnodes", needs: Needs { mib: 1300, ..TWO }, run: sixty_four_vnodes },
    BootTest { name: "cpus_apic_ids_above_255", needs: Needs { mib: 800, ..TWO }, run: wide_apic_ids },
];

fn soft_and_none(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 256, &[0]).with("affinity=soft"),
        Vnode::on(ctx.pnode(1), 224, &[1]).with("affinity=none"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    let name = |text: &str| -> Result<String> {
        let line = text.lines().find(|line| line.starts_with("model name")).context("no model name")?;
        Ok(line.to_owned())
    };
    let (host, guest) = (std::fs::read_to_string("/proc/cpuinfo")?, vm.output("cat /proc/cpuinfo")?);
    ensure!(
        name(&guest)? == name(&host)?,
        "the guest's processor is {}, not {}",
        name(&guest)?,
        name(&host)?
    );
    let affinity = residency::vcpu_affinity(vm.pid())?;
    let allowed = |vcpu: u32| affinity.get(&vcpu).with_context(|| format!("no thread is called vcpu{vcpu}"));
    let node = ctx.cpus_of(ctx.pnode(0));
    ensure!(*allowed(0)? == node, "soft: vcpu0 may run on {:?}, not on {node:?}", allowed(0)?);
    let (_, all) = residency::threads_of(std::process::id())?.into_iter().next().context("no threads")?;
    ensure!(*allowed(1)? == all, "none: vcpu1 may run on {:?}, not on {all:?}", allowed(1)?);
    vm.power_off()
}

/// vCPUs and device workers go where they are told while the guest runs; its memory stays, and a move keeps how its
/// vCPUs are held.
fn on_line(ctx: &Ctx) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api");
    let flag = socket.to_string_lossy().into_owned();
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let spec = |pnode, held: &str| {
        let extra = format!("affinity={held}");
        GuestSpec::new(vec![Vnode::on(pnode, 256, &[0, 1]).with(&extra), Vnode::on(second, 160, &[2])])
    };
    let start = spec(first, "soft");
    let mut vm = ctx.boot(&Start::of(&start).flag(&["--api-socket", &flag, "--rng"]))?;
    vm.ask("modprobe virtio_pci virtio_rng")?;
    let to = second.to_string();
    for (words, held, pnode) in [
        (&["hard"][..], "hard", first),
        (&["hard", "--pnode", &to], "hard", second),
        (&["soft"], "soft", second),
        (&["soft", "--pnode", &first.to_string()], "soft", first),
        (&["hard"], "hard", first),
    ] {
        let vnode = ctl(ctx, &socket, &[&["vnode-affinity", "0"], words].concat())?;
        let (home, memory) = (pnode.to_string(), first.to_string());
        ensure!(vnode["affinity"] == held && vnode["cpu_pnodes"] == home, "{vnode}");
        ensure!(vnode["pnodes"] == memory, "{vnode}");
        check::threads(&vm, &spec(pnode, held), |pnode| ctx.cpus_of(pnode))?;
        check::workers(&vm, &[("rng", ctx.cpus_of(pnode))])?;
        check::bound(&vm, &start)?;
        vm.output("echo still here")?;
    }
    // One vCPU alone, hard to a CPU of the other pnode.
    let there = ctx.cpus_of(second);
    ctl(ctx, &socket, &["affinity", "1", &there[0].to_string()])?;
    let affinity = residency::vcpu_affinity(vm.pid())?;
    ensure!(affinity.get(&1) == Some(&vec![there[0]]), "{affinity:?}");
    // What is held hard now is held hard after a move, a CPU each again.
    let job = ctl(ctx, &socket, &["move", "0", "--pnode", &to])?;
    ensure!(job["state"] == "done", "{job}");
    check::threads(&vm, &spec(second, "hard"), |pnode| ctx.cpus_of(pnode))?;
    let vnode = ctl(ctx, &socket, &["vnode-affinity", "0", "none"])?;
    let (_, all) = residency::threads_of(std::process::id())?.into_iter().next().context("no threads")?;
    let affinity = residency::vcpu_affinity(vm.pid())?;
    ensure!(affinity.get(&0) == Some(&all), "{affinity:?}, {vnode}");
    check::guest_view(&start, &vm.report()?)?;
    vm.power_off()
}

fn more_than_there_are(ctx: &Ctx) -> Result<()> {
    let there = u32::try_from(ctx.cpus_of(ctx.pnode(0)).len())?.min(4);
    let vcpus: Vec<u32> = (0..there + 1).collect();
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &vcpus).with("affinity=hard")]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    // Where there are not enough CPUs each thread must still stay on the node.
    let node = ctx.cpus_of(ctx.pnode(0));
    for (vcpu, allowed) in residency::vcpu_affinity(vm.pid())? {
        ensure!(
            allowed.iter().all(|cpu| node.contains(cpu)),
            "vcpu{vcpu} may run on {allowed:?}, off {node:?}"
        );
    }
    vm.power_off()
}

fn sixteen(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32| {
        let first = index * 4;
        Vnode::on(
            ctx.pnode(index as usize % 2),
            160 - u64::from(index) * 16,
            &[first, first + 1, first + 2, first + 3],
        )
        .with("affinity=soft")
    };
    let spec = GuestSpec::new((0..4).map(vnode).collect());
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}

fn sixty_four(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32| {
        let vcpus: Vec<u32> = (index * 8..index * 8 + 8).collect();
        Vnode::on(ctx.pnode(index as usize % 2), 224 - u64::from(index) * 8, &vcpus)
    };
    let spec = GuestSpec::new((0..8).map(vnode).collect());
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    check::bound(&vm, &spec)?;
    check::threads(&vm, &spec, |pnode| ctx.cpus_of(pnode))?;
    vm.power_off()
}

fn many(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 512, &(0..64).collect::<Vec<_>>()),
        Vnode::on(ctx.pnode(1), 480, &(64..128).collect::<Vec<_>>()),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    ensure!(vm.output("nproc")? == "128", "nproc does not say 128");
    let online = vm.output("cat /sys/devices/system/cpu/online /sys/devices/system/cpu/possible")?;
    ensure!(online == "0-127\n0-127", "CPUs online and possible are {online:?}");
    vm.output("dmesg | grep -iq x2apic")?;
    check::threads(&vm, &spec, |pnode| ctx.cpus_of(pnode))?;
    vm.power_off()
}

/// All 256 are there, and those at the edges come up: all at once, before Linux stops the clock ticks of idle processors,
/// they ask for 64,000 timer interrupts a second, more than an emulated host can give.
fn far_too_many(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 512, &(0..128).collect::<Vec<_>>()),
        Vnode::on(ctx.pnode(1), 480, &(128..256).collect::<Vec<_>>()),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec).cmdline("maxcpus=2"))?;
    ensure!(
        vm.output("cat /sys/devices/system/cpu/possible")? == "0-255",
        "not all of 256 CPUs are possible"
    );
    for cpu in [127, 128, 254, 255] {
        vm.output(&format!("echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"))?;
        let ran_on = vm.output(&format!("taskset -c {cpu} cat /proc/self/stat | cut -d' ' -f39"))?;
        ensure!(ran_on == cpu.to_string(), "what was to run on CPU {cpu} ran on {ran_on}");
    }
    let nodes = vm.output("cat /sys/devices/system/node/node[01]/cpulist")?;
    ensure!(nodes == "0-1,127\n128,254-255", "the nodes have CPUs {nodes:?}");
    check::threads(&vm, &spec, |pnode| ctx.cpus_of(pnode))?;
    vm.power_off()
}

fn sixty_four_vnodes(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32| {
        let mib = if index == 0 { 256 } else { 32 };
        let vcpus: &[u32] = if index < 16 { &[index] } else { &[] };
        Vnode::on(ctx.pnode(index as usize % 2), mib, vcpus)
    };
    let spec = GuestSpec::new((0..64).map(vnode).collect());
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    check::bound(&vm, &spec)?;
    vm.power_off()
}

/// A package of 17 cores makes core numbers five bits wide, so the tenth package begins at APIC ID 288.
fn wide_apic_ids(ctx: &Ctx) -> Result<()> {
    let wide: Vec<u32> = (0..17).collect();
    let mut vnodes = vec![Vnode::on(ctx.pnode(0), 320, &wide).with("affinity=none")];
    for vcpu in 17..26 {
        vnodes.push(Vnode::on(ctx.pnode(1), 64, &[vcpu]).with("affinity=none"));
    }
    let spec = GuestSpec::new(vnodes);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    let report = vm.report()?;
    check::quiet_log(&report)?;
    ensure!(report.online_cpus == "0-25", "CPUs {} are online, not 0-25", report.online_cpus);
    let highest = report.cpus.iter().map(|cpu| cpu.apic_id).max().unwrap_or(0);
    ensure!(highest > 255, "the highest APIC ID is {highest}");
    vm.power_off()
}
