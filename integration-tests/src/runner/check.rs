//! What every boot test checks: the guest's view against what was asked, and the host's view against the plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::residency;
use super::spec::GuestSpec;
use super::vm::Vm;
use crate::guest::report::GuestReport;
use crate::rangelist;

/// MemTotal of a node may be this much below its vnode, in per cent ...
const SHARE: u64 = 3;
/// ... and on every node so much more, in MiB ...
const RESERVE_MIB: u64 = 8;
/// ... and on all nodes together so much more, in MiB, for the kernel's text, data and early tables: where they lie
/// is the kernel's choice, at random even.
const KERNEL_RESERVE_MIB: u64 = 72;

/// Words that no line of a sound guest's kernel log has.
const TROUBLE: [&str; 19] = [
    "nodes only cover",
    "no nodes coverage",
    "SLIT table looks invalid",
    "not on the same node",
    "topology broken",
    "borken",
    "WARNING: CPU",
    "BUG:",
    "ACPI Error",
    "ACPI Warning",
    "ACPI BIOS",
    "ACPI Exception",
    "Firmware Bug",
    "nknown NUMA node",
    "conflict",
    "can't claim",
    "failed to assign",
    "no space for",
    "PCI: Fatal",
];
/// Of these subjects a line at the level of a warning is trouble.
const SUBJECTS: [&str; 7] = ["numa", "srat", "slit", "hmat", "sched", "sibling", "topology"];

/// PCI device numbers of virtio devices begin here; their types are added.
const VIRTIO: u32 = 0x1040;
/// The type of balloons: every vnode has one whose memory is not from pools of huge pages.
const BALLOON: u32 = 5;

/// Linux sees exactly the nodes, CPUs, distances and memory that were asked for, and does not complain.
pub(crate) fn guest_view(spec: &GuestSpec, report: &GuestReport) -> Result<()> {
    quiet_log(report)?;
    let order = spec.in_linux_order();
    let nodes: Vec<u32> = report.nodes.iter().map(|node| node.node).collect();
    let expected: Vec<u32> = (0..u32::try_from(order.len())?).collect();
    ensure!(nodes == expected, "the guest has nodes {nodes:?}, asked for were {expected:?}");
    let cpus = u32::try_from(spec.vcpu_count())?;
    let all_cpus = rangelist::format(&(0..cpus).collect::<Vec<_>>());
    ensure!(report.online_cpus == all_cpus, "CPUs {} are online, not {all_cpus}", report.online_cpus);
    let matrix = spec.matrix();
    let mut kernel_mib = 0;
    for (node, &vnode) in report.nodes.iter().zip(&order) {
        let asked = &spec.vnodes[vnode];
        let who = format!("node {} (vnode {vnode})", node.node);
        let cpulist = rangelist::format(&asked.vcpus);
        ensure!(node.cpulist == cpulist, "{who} has CPUs '{}', not '{cpulist}'", node.cpulist);
        let distances: Vec<u32> = order.iter().map(|&to| matrix[&(vnode, to)]).collect();
        ensure!(node.distances == distances, "{who} has distances {:?}, not {distances:?}", node.distances);
        let total = node.total_kib / 1024;
        let least = (asked.mib - asked.mib * SHARE / 100).saturating_sub(RESERVE_MIB);
        kernel_mib += least.saturating_sub(total);
        ensure!(
            total <= asked.mib && kernel_mib <= KERNEL_RESERVE_MIB,
            "{who} has {total} MiB of {}, and {kernel_mib} MiB are missing so far",
            asked.mib
        );
        ensure!(
            asked.mib == 0 || report.numactl.contains(&format!("node {} size: {total} MB", node.node)),
            "{who}: numactl -H does not say {total} MB:\n{}",
            report.numactl
        );
    }
    let available = format!("available: {} nodes", order.len());
    ensure!(
        report.numactl.starts_with(&available),
        "numactl -H does not say '{available}':\n{}",
        report.numactl
    );
    caches_stay_inside(spec, report)
}

/// No line of the guest's kernel log is about NUMA or topology trouble.
pub(crate) fn quiet_log(report: &GuestReport) -> Result<()> {
    quiet_lines(report.kernel_lines.iter().map(String::as_str))
}

/// The same for lines that are led by their level.
pub(crate) fn quiet_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Result<()> {
    for line in lines {
        let lower = line.to_lowercase();
        let warning = ["<0>", "<1>", "<2>", "<3>", "<4>"].iter().any(|level| line.starts_with(level));
        let bad = TROUBLE.iter().any(|words| line.contains(words))
            || warning && SUBJECTS.iter().any(|subject| lower.contains(subject));
        ensure!(!bad, "the guest's kernel complains: {line}");
    }
    Ok(())
}

/// CPUs that share a package or a last-level cache are on one vnode.
fn caches_stay_inside(spec: &GuestSpec, report: &GuestReport) -> Result<()> {
    let vnode_of = |cpu: u32| spec.vnodes.iter().position(|vnode| vnode.vcpus.contains(&cpu));
    let mut packages: BTreeMap<i32, Option<usize>> = BTreeMap::new();
    for cpu in &report.cpus {
        let vnode = vnode_of(cpu.cpu);
        let package = *packages.entry(cpu.package).or_insert(vnode);
        ensure!(package == vnode, "package {} has CPUs of vnodes {package:?} and {vnode:?}", cpu.package);
        for other in rangelist::parse(&cpu.llc_shared)? {
            ensure!(vnode_of(other) == vnode, "CPUs {} and {other} of two vnodes share a cache", cpu.cpu);
        }
    }
    Ok(())
}

/// Where the host's kernel may have put a vnode.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// As in numa_maps, without its nodes: `bind`.
    policy: &'static str,
    /// The policy's nodes, on which every page must be.
    nodes: Vec<u32>,
}

impl Expected {
    /// `policy` over `nodes`.
    pub(crate) fn on(policy: &'static str, nodes: &[u32]) -> Self {
        Self { policy, nodes: nodes.to_vec() }
    }

    /// Whether numa_maps says so.
    fn is(&self, policy: &str) -> bool {
        policy.starts_with(self.policy) && policy.ends_with(&format!(":{}", rangelist::format(&self.nodes)))
    }
}

/// Every page of each vnode that is there at all lies where it should, under the policy it should.
pub(crate) fn host_view(vm: &Vm, spec: &GuestSpec, expected: &[Expected]) -> Result<Vec<u64>> {
    let pid = vm.pid();
    let ram = residency::guest_ram(pid, spec)?;
    let mut touched = Vec::new();
    for (vnode, (areas, expected)) in ram.iter().zip(expected).enumerate() {
        for area in areas {
            ensure!(
                expected.is(&area.policy),
                "vnode {vnode} has policy '{}', not {expected:?}",
                area.policy
            );
        }
        let pages = residency::pages_by_node(pid, areas)?;
        let foreign: Vec<_> = pages.iter().filter(|(node, _)| !expected.nodes.contains(node)).collect();
        ensure!(foreign.is_empty(), "vnode {vnode} has pages off nodes {:?}: {pages:?}", expected.nodes);
        let mapped: u64 = areas
            .iter()
            .flat_map(|area| area.kib.iter())
            .filter(|(node, _)| !expected.nodes.contains(node))
            .map(|(_, kib)| kib)
            .sum();
        ensure!(mapped == 0, "vnode {vnode}: numa_maps shows {mapped} KiB off nodes {:?}", expected.nodes);
        touched.push(pages.values().sum());
    }
    Ok(touched)
}

/// A vnode that is bound to several pnodes has a part on each, so many MiB in this order, and all pages of a part lie on its
/// pnode; the touched pages of each part.
pub(crate) fn parts(vm: &Vm, spec: &GuestSpec, vnode: usize, expected: &[(u32, u64)]) -> Result<Vec<u64>> {
    let ram = residency::guest_ram(vm.pid(), spec)?;
    let areas = ram.get(vnode).context("no such vnode")?;
    // One part may be several mappings: of memory touched under different policies the kernel never makes one again.
    let (mut parts, mut touched): (Vec<(u32, u64)>, Vec<u64>) = (Vec::new(), Vec::new());
    for area in areas {
        let node = area.policy.strip_prefix("bind:").and_then(|node| node.parse().ok());
        let node: u32 = node.with_context(|| format!("vnode {vnode} is not bound to one node: {area:?}"))?;
        let pages = residency::pages_by_node(vm.pid(), std::slice::from_ref(area))?;
        ensure!(pages.keys().all(|at| *at == node), "vnode {vnode}: {pages:?} of a part on node {node}");
        ensure!(area.kib.keys().all(|at| *at == node), "vnode {vnode}: numa_maps has {area:?}");
        if parts.last().is_none_or(|(last, _)| *last != node) {
            parts.push((node, 0));
            touched.push(0);
        }
        if let (Some(part), Some(touched)) = (parts.last_mut(), touched.last_mut()) {
            part.1 += (area.end - area.start) >> 20;
            *touched += pages.values().sum::<u64>();
        }
    }
    ensure!(parts == expected, "vnode {vnode} has parts {parts:?} (node, MiB), not {expected:?}");
    Ok(touched)
}

/// Each vnode bound to its pnode, and all its pages there; the touched pages of each.
pub(crate) fn bound(vm: &Vm, spec: &GuestSpec) -> Result<Vec<u64>> {
    let expected: Vec<Expected> =
        spec.vnodes.iter().map(|vnode| Expected::on("bind", &vnode.pnodes)).collect();
    host_view(vm, spec, &expected)
}

/// Each vCPU thread may run where its vnode's `affinity=` says: one CPU of the pnode, no two the same where there are
/// enough (hard), or all CPUs of the pnodes (soft, the default).
pub(crate) fn threads(vm: &Vm, spec: &GuestSpec, cpus_of: impl Fn(u32) -> Vec<u32>) -> Result<()> {
    let affinity = residency::vcpu_affinity(vm.pid())?;
    for (id, vnode) in spec.vnodes.iter().enumerate() {
        let node_cpus: Vec<u32> = vnode.pnodes.iter().flat_map(|&pnode| cpus_of(pnode)).collect();
        let hard = vnode.extra.contains("affinity=hard");
        let mut taken = Vec::new();
        for vcpu in &vnode.vcpus {
            let allowed = affinity
                .get(vcpu)
                .with_context(|| format!("no thread is called vcpu{vcpu}: {affinity:?}"))?;
            let right = if hard {
                allowed.len() == 1 && node_cpus.contains(&allowed[0])
            } else {
                *allowed == node_cpus
            };
            ensure!(
                right,
                "vcpu{vcpu} of vnode {id} may run on {allowed:?}, not on {} {node_cpus:?}",
                if hard { "one of" } else { "all of" }
            );
            taken.push(allowed[0]);
        }
        taken.sort_unstable();
        taken.dedup();
        ensure!(
            !hard || taken.len() == vnode.vcpus.len().min(node_cpus.len()),
            "the vCPUs of vnode {id} are stacked on {taken:?} though there are {node_cpus:?}"
        );
    }
    Ok(())
}

/// The virtio devices of a guest are those of `expected`, each a type and its vnode, in any order, and the balloons; each is on its
/// vnode's segment and its interrupts go to its vnode's CPUs.
pub(crate) fn devices(spec: &GuestSpec, report: &GuestReport, expected: &[(u32, usize)]) -> Result<()> {
    quiet_log(report)?;
    let mut seen = Vec::new();
    for function in &report.pci {
        let who = &function.address;
        let segment = who.split(':').next().unwrap_or_default();
        let vnode = usize::from_str_radix(segment, 16).with_context(|| format!("PCI address {who}"))?;
        ensure!(usize::try_from(function.node).ok() == Some(vnode), "{who} is on node {}", function.node);
        if (VIRTIO..VIRTIO + 64).contains(&function.device) {
            seen.push((function.device - VIRTIO, vnode));
        }
        let cpus = &spec.vnodes[vnode].vcpus;
        for interrupt in &function.interrupts {
            let goes_to = rangelist::parse(&interrupt.cpus)?;
            ensure!(
                !goes_to.is_empty() && goes_to.iter().all(|cpu| cpus.contains(cpu)),
                "interrupt {} of {who} goes to CPUs '{}', not to {cpus:?}",
                interrupt.action,
                interrupt.cpus
            );
        }
    }
    let with_memory = (0..spec.vnodes.len()).filter(|&vnode| spec.vnodes[vnode].mib > 0);
    let mut expected: Vec<_> =
        expected.iter().copied().chain(with_memory.map(|vnode| (BALLOON, vnode))).collect();
    expected.sort_unstable();
    seen.sort_unstable();
    ensure!(seen == expected, "the guest has devices (type, vnode) {seen:?}, asked for were {expected:?}");
    Ok(())
}

/// The threads called `names` may run on the CPUs of their pnodes and nowhere else.
pub(crate) fn workers(vm: &Vm, names: &[(&str, Vec<u32>)]) -> Result<()> {
    let threads = residency::threads_of(vm.pid())?;
    for (name, cpus) in names {
        let (_, allowed) = threads
            .iter()
            .find(|(thread, _)| thread == name)
            .with_context(|| format!("no thread is called {name}: {threads:?}"))?;
        ensure!(allowed == cpus, "thread {name} may run on {allowed:?}, not on {cpus:?}");
    }
    Ok(())
}
