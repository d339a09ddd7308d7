//! Guests of every layout see exactly the nodes that were asked for, and their pages and threads are where they belong.

use anyhow::{Context, Result, ensure};

use super::{BootTest, Ctx};
use crate::runner::check::{self, Expected};
use crate::runner::host::Needs;
use crate::runner::payload::GuestKernel;
use crate::runner::residency;
use crate::runner::spec::{GuestSpec, Vnode};
use crate::runner::vm::Start;

const TWO: Needs =
    Needs { nodes: 2, mib: 400, cpus: 2, big_mib: 0, cpuless: false, uneven: false, root: false };

pub(super) const TESTS: &[BootTest] = &[
    BootTest { name: "topology_without_any_flag_is_one_vnode", needs: ANY, run: without_flags },
    BootTest { name: "topology_two_vnodes", needs: TWO, run: two_vnodes },
    BootTest { name: "topology_interleaved_vcpus", needs: TWO, run: interleaved_vcpus },
    BootTest { name: "topology_memory_only_vnode", needs: TWO, run: memory_only_vnode },
    BootTest { name: "topology_cpu_only_vnode", needs: TWO, run: cpu_only_vnode },
    BootTest { name: "topology_asymmetric_distances", needs: TWO, run: asymmetric_distances },
    BootTest { name: "topology_extreme_distances", needs: TWO, run: extreme_distances },
    BootTest { name: "topology_distances_of_the_host", needs: TWO, run: distances_of_the_host },
    BootTest { name: "topology_hmat_reaches_sysfs", needs: TWO, run: hmat_reaches_sysfs },
    BootTest { name: "topology_tables_and_caches_are_those_of_the_plan", needs: TWO, run: tables_and_caches },
    BootTest { name: "topology_hmat_pairs_and_an_initiator", needs: TWO, run: hmat_pairs },
    BootTest { name: "topology_many_vnodes_on_one_pnode", needs: ANY, run: many_vnodes_on_one_pnode },
    BootTest {
        name: "topology_memory_only_vnode_on_a_node_without_cpus",
        needs: Needs { nodes: 2, mib: 400, cpuless: true, ..ANY },
        run: on_a_node_without_cpus,
    },
    BootTest {
        name: "topology_uneven_vnodes_on_an_uneven_host",
        needs: Needs { nodes: 3, mib: 300, uneven: true, ..ANY },
        run: uneven_vnodes,
    },
    BootTest {
        name: "topology_vnode_across_the_hole_below_4_gib",
        needs: Needs { nodes: 2, mib: 400, big_mib: 3584, ..ANY },
        run: across_the_hole,
    },
    BootTest {
        name: "topology_four_vnodes_in_a_ring",
        needs: Needs { nodes: 4, mib: 400, ..ANY },
        run: four_vnodes,
    },
    BootTest { name: "topology_eight_vnodes", needs: Needs { nodes: 8, mib: 300, ..ANY }, run: eight_vnodes },
];

const ANY: Needs =
    Needs { nodes: 1, mib: 300, cpus: 1, big_mib: 0, cpuless: false, uneven: false, root: false };

fn without_flags(ctx: &Ctx) -> Result<()> {
    let mut vm = ctx.boot(&Start::default())?;
    let report = vm.report()?;
    check::quiet_log(&report)?;
    ensure!(report.online_nodes == "0", "the guest has nodes {}", report.online_nodes);
    ensure!(report.nodes[0].distances == [10], "distances {:?}", report.nodes[0].distances);
    // The default is 512 MiB; what Linux keeps of it is in `check`.
    let total = report.nodes[0].total_kib / 1024;
    ensure!((400..=512).contains(&total), "the guest has {total} MiB");
    vm.power_off()
}

fn two_vnodes(ctx: &Ctx) -> Result<()> {
    let spec =
        GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &[0, 1]), Vnode::on(ctx.pnode(1), 288, &[2, 3])])
            .distances(&[(0, 1, 21)]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn interleaved_vcpus(ctx: &Ctx) -> Result<()> {
    // The vnodes lie crosswise too, so that a mix-up of vnode and pnode shows.
    let spec =
        GuestSpec::new(vec![Vnode::on(ctx.pnode(1), 256, &[0, 2]), Vnode::on(ctx.pnode(0), 224, &[1, 3])]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn memory_only_vnode(ctx: &Ctx) -> Result<()> {
    // In the middle, so that Linux numbers it last.
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 224, &[0]),
        Vnode::on(ctx.pnode(1), 128, &[]),
        Vnode::on(ctx.pnode(1), 192, &[1]),
    ])
    .distances(&[(0, 1, 17), (0, 2, 21), (1, 2, 28)]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn cpu_only_vnode(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &[0]), Vnode::on(ctx.pnode(1), 0, &[1])]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn asymmetric_distances(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![Vnode::on(ctx.pnode(0), 256, &[0]), Vnode::on(ctx.pnode(1), 224, &[1])])
        .distances(&[(0, 1, 21), (1, 0, 31)]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

/// 254 is the last distance, 255 means unreachable; what is not given is mirrored or 20.
fn extreme_distances(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 192, &[0]),
        Vnode::on(ctx.pnode(1), 160, &[1]),
        Vnode::on(ctx.pnode(1), 128, &[2]),
    ])
    .distances(&[(0, 1, 255), (1, 0, 254), (0, 2, 11)]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn distances_of_the_host(ctx: &Ctx) -> Result<()> {
    let (first, second) = (ctx.pnode(0), ctx.pnode(1));
    let distance = |from: u32, to: u32| -> Result<u32> {
        let text = std::fs::read_to_string(format!("/sys/devices/system/node/node{from}/distance"))?;
        let column = ctx.host.nodes.iter().position(|node| node.node == to).context("no such node")?;
        Ok(text.split_whitespace().nth(column).context("too few distances")?.parse()?)
    };
    let spec = GuestSpec::new(vec![Vnode::on(first, 256, &[0]), Vnode::on(second, 224, &[1])]);
    let expected =
        spec.clone().distances(&[(0, 1, distance(first, second)?), (1, 0, distance(second, first)?)]);
    let mut vm = ctx.boot(&Start::of(&spec).flag(&["--distances", "host"]))?;
    check::guest_view(&expected, &vm.report()?)?;
    vm.power_off()
}

fn hmat_reaches_sysfs(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 256, &[0]).with("latency=90,bandwidth=20G"),
        Vnode::on(ctx.pnode(1), 224, &[1]).with("latency=130,bandwidth=10G"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    let report = vm.report()?;
    check::guest_view(&spec, &report)?;
    for (node, latency, bandwidth) in [(0, 90, 20 << 10), (1, 130, 10 << 10)] {
        let access = report.nodes[node].access.iter().find(|access| access.class == "access0");
        let access = access.with_context(|| format!("node {node} has no access0 in sysfs"))?;
        let seen = (access.read_latency, access.write_latency, access.read_bandwidth, access.write_bandwidth);
        let given = (latency, latency, bandwidth, bandwidth);
        ensure!(seen == given, "node {node}: sysfs has {seen:?}, given were {given:?}");
        ensure!(
            access.initiators == [u32::try_from(node)?],
            "node {node}: initiators {:?}",
            access.initiators
        );
    }
    vm.power_off()
}

/// Vnode 2 has memory only, and is attached to vnode 1 although vnode 0 would be as near.
fn tables_and_caches(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 256, &[0, 1]).with("latency=90,bandwidth=20G"),
        Vnode::on(ctx.pnode(1), 224, &[2, 3]).with("latency=130,bandwidth=10G"),
    ]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::quiet_log(&vm.report()?)?;
    let directory = tempfile::tempdir()?;
    let flags = spec.flags();
    let mut plan = vec!["plan", "--acpi-dir"];
    let to = directory.path().to_string_lossy();
    plan.push(&to);
    plan.extend(flags.iter().map(String::as_str));
    ensure!(ctx.numavisor(&plan)?.status.success(), "plan refuses {flags:?}");
    let sum = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
    for table in ["APIC", "SRAT", "SLIT", "HMAT", "MCFG", "FACP", "DSDT"] {
        let path = directory.path().join(format!("{table}.dat"));
        let planned = sum(ctx.busybox(&["md5sum", &path.to_string_lossy()])?);
        let seen = sum(vm.output(&format!("md5sum /sys/firmware/acpi/tables/{table}"))?);
        ensure!(
            planned == seen && planned.len() == 32,
            "{table}: {planned} is planned, the guest has {seen}"
        );
    }
    // At the end of the last vnode below 3 GiB, and no more than they need.
    let e820 = vm.output("dmesg | grep 'BIOS-e820.*ACPI data'")?;
    let range = e820.split_once("[mem ").and_then(|(_, rest)| rest.split_once(']')).context("no range")?.0;
    let (start, end) = range.split_once('-').context("no range")?;
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    let (start, end) = (address(start)?, address(end)? + 1);
    ensure!(end == 480 << 20 && end - start <= 32 << 10 && e820.lines().count() == 1, "{e820}");
    // A last-level cache for each vnode, with an id of its own.
    let cache = |cpu: u32, file: &str| format!("cat /sys/devices/system/cpu/cpu{cpu}/cache/index3/{file}");
    let mut ids = Vec::new();
    for (cpu, shared) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")] {
        let list = vm.output(&cache(cpu, "shared_cpu_list"))?;
        ensure!(list == shared, "the last-level cache of CPU {cpu} is shared by {list}");
        ids.push(vm.output(&cache(cpu, "id"))?);
    }
    ensure!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "cache ids {ids:?}");
    vm.power_off()
}

fn hmat_pairs(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 224, &[0]),
        Vnode::on(ctx.pnode(1), 192, &[1]),
        Vnode::on(ctx.pnode(1), 128, &[]).with("initiator=1"),
    ]);
    let pairs = [
        "0:0,latency=80,bandwidth=20G",
        "1:1,latency=85,bandwidth=20G",
        "0:2,read-latency=200,write-latency=350,read-bandwidth=8G,write-bandwidth=4G",
        "1:2,read-latency=210,write-latency=360,read-bandwidth=7G,write-bandwidth=3G",
    ];
    let start = pairs.iter().fold(Start::of(&spec), |start, pair| start.flag(&["--attribute", pair]));
    let mut vm = ctx.boot(&start)?;
    let report = vm.report()?;
    check::guest_view(&spec, &report)?;
    let expected = [
        (0, 0, (80, 80, 20 << 10, 20 << 10)),
        (1, 1, (85, 85, 20 << 10, 20 << 10)),
        (2, 1, (210, 360, 7 << 10, 3 << 10)),
    ];
    for (node, initiator, given) in expected {
        for access in &report.nodes[node].access {
            let seen =
                (access.read_latency, access.write_latency, access.read_bandwidth, access.write_bandwidth);
            let class = &access.class;
            ensure!(seen == given, "node {node} {class}: sysfs has {seen:?}, given were {given:?}");
            ensure!(
                access.initiators == [initiator],
                "node {node} {class}: initiators {:?}",
                access.initiators
            );
        }
        ensure!(report.nodes[node].access.len() == 2, "node {node} has no access0 or access1 in sysfs");
    }
    vm.power_off()
}

fn many_vnodes_on_one_pnode(ctx: &Ctx) -> Result<()> {
    let pnode = ctx.pnode(0);
    let spec = GuestSpec::new(vec![
        Vnode::on(pnode, 192, &[0]),
        Vnode::on(pnode, 160, &[1]),
        Vnode::on(pnode, 128, &[2]),
    ]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn on_a_node_without_cpus(ctx: &Ctx) -> Result<()> {
    let far = ctx.host.cpuless(ctx.needs.mib).context("no node without CPUs")?.node;
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 224, &[0]),
        Vnode::on(ctx.pnode(1), 192, &[1]),
        Vnode::on(far, 160, &[]),
    ]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn uneven_vnodes(ctx: &Ctx) -> Result<()> {
    let spec = GuestSpec::new(vec![
        Vnode::on(ctx.pnode(0), 512, &[0, 1]),
        Vnode::on(ctx.pnode(1), 160, &[2]),
        Vnode::on(ctx.pnode(2), 96, &[3]),
    ])
    .distances(&[(0, 1, 16), (0, 2, 28), (1, 2, 22)]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn across_the_hole(ctx: &Ctx) -> Result<()> {
    let big =
        ctx.host.nodes.iter().find(|node| node.free_mib >= ctx.needs.big_mib).context("no big node")?.node;
    let other = ctx
        .host
        .ordinary(&ctx.needs)
        .iter()
        .map(|node| node.node)
        .find(|node| *node != big)
        .context("one node")?;
    let spec = GuestSpec::new(vec![Vnode::on(big, 3328, &[0]), Vnode::on(other, 192, &[1])]);
    let mut vm = ctx.boot(&Start::of(&spec))?;
    check::guest_view(&spec, &vm.report()?)?;
    let ram = residency::guest_ram(vm.pid(), &spec)?;
    ensure!(ram[0].len() == 2, "the vnode across the hole has {} mappings, not 2", ram[0].len());
    // Both sides of the hole are used and both lie where they should.
    vm.ask("alloc 700 0")?;
    let expected: Vec<Expected> = [big, other].iter().map(|&node| Expected::on("bind", &[node])).collect();
    check::host_view(&vm, &spec, &expected)?;
    for area in &ram[0] {
        let pages = residency::pages_by_node(vm.pid(), std::slice::from_ref(area))?;
        ensure!(pages.get(&big).is_some_and(|pages| *pages > 0), "nothing at {:#x} was touched", area.start);
    }
    vm.power_off()
}

fn four_vnodes(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32, mib| Vnode::on(ctx.pnode(index as usize), mib, &[index]);
    let spec = GuestSpec::new(vec![vnode(0, 192), vnode(1, 160), vnode(2, 128), vnode(3, 96)]).distances(&[
        (0, 1, 16),
        (1, 2, 16),
        (2, 3, 16),
        (3, 0, 16),
        (0, 2, 22),
        (1, 3, 22),
    ]);
    ctx.boots_bound(&spec, GuestKernel::Stock)
}

fn eight_vnodes(ctx: &Ctx) -> Result<()> {
    let vnode = |index: u32| Vnode::on(ctx.pnode(index as usize), 192 - u64::from(index) * 16, &[index]);
    let spec = GuestSpec::new((0..8).map(vnode).collect());
    ctx.boots_bound(&spec, GuestKernel::Stock)
}
