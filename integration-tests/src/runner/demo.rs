//! The demo: a guest of two vnodes, its own view of them, and beside it the host's.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::check;
use super::host::{HostFacts, Needs};
use super::payload::{GuestKernel, Payload};
use super::residency::{self, Area};
use super::spec::{GuestSpec, Vnode};
use super::vm::{Start, Vm};
use crate::guest::report::GuestReport;
use crate::rangelist;

/// Boots the guest and prints both views.
pub(super) fn run(payload: &Payload) -> Result<i32> {
    let host = HostFacts::look()?;
    let needs = Needs { nodes: 2, mib: 512, ..Needs::default() };
    if let Some(lack) = host.lacks(&needs) {
        println!("this host cannot: {lack}");
        return Ok(1);
    }
    let pnodes: Vec<u32> = host.ordinary(&needs).iter().map(|node| node.node).collect();
    // Crosswise, so that a vnode's number and its pnode's differ.
    let spec = GuestSpec::new(vec![Vnode::on(pnodes[1], 256, &[0, 1]), Vnode::on(pnodes[0], 320, &[2, 3])])
        .distances(&[(0, 1, 21)]);
    println!("\nthe host has nodes");
    for node in &host.nodes {
        println!(
            "  pnode {}  CPUs {:<8} {:>6} MiB, {} MiB free",
            node.node,
            rangelist::format(&node.cpus),
            node.total_mib,
            node.free_mib
        );
    }
    let start = Start::of(&spec).kernel(GuestKernel::StockBzImage);
    println!(
        "\nstarting\n  numavisor run --kernel vmlinuz --initramfs initramfs.cpio --cmdline ... {}",
        start.flags.join(" ")
    );
    let transcript = Rc::new(RefCell::new(String::new()));
    let shown = show(payload, &spec, &start, &transcript);
    if shown.is_err() {
        println!("{}", transcript.borrow());
    }
    shown.map(|()| 0)
}

fn show(payload: &Payload, spec: &GuestSpec, start: &Start, transcript: &Rc<RefCell<String>>) -> Result<()> {
    let mut vm = Vm::start(payload, start, transcript)?;
    vm.ready()?;
    // Something on each of the guest's nodes for the host to show.
    vm.ask("alloc 64 0")?;
    vm.ask("alloc 96 1")?;
    let report = vm.report()?;
    println!("\nthe guest (Linux {}) says: numactl -H", report.kernel);
    report.numactl.lines().for_each(|line| println!("  {line}"));
    side_by_side(&vm, spec, &report)?;
    check::guest_view(spec, &report)?;
    check::bound(&vm, spec)?;
    println!("\nboth views agree with the command line, and every page of guest memory is on its pnode");
    vm.power_off()?;
    println!("the guest powered off and numavisor ended with status 0");
    Ok(())
}

fn side_by_side(vm: &Vm, spec: &GuestSpec, report: &GuestReport) -> Result<()> {
    let ram = residency::guest_ram(vm.pid(), spec)?;
    let affinity = residency::vcpu_affinity(vm.pid())?;
    println!("\n  {:<46} | the host's kernel says", "the guest's kernel says");
    for (node, vnode) in report.nodes.iter().zip(spec.in_linux_order()) {
        let guest = format!(
            "node {} = vnode {vnode}: CPUs {}, {} MiB, {} free",
            node.node,
            node.cpulist,
            node.total_kib / 1024,
            node.free_kib / 1024
        );
        println!("  {guest:<46} | {}", memory(&ram[vnode]));
        let distances: Vec<String> = node.distances.iter().map(ToString::to_string).collect();
        let guest = format!("  distances {}", distances.join(" "));
        let threads: Vec<String> = spec.vnodes[vnode]
            .vcpus
            .iter()
            .map(|vcpu| {
                let allowed =
                    affinity.get(vcpu).with_context(|| format!("no thread is called vcpu{vcpu}"))?;
                Ok(format!("vcpu{vcpu} on CPU {}", rangelist::format(allowed)))
            })
            .collect::<Result<_>>()?;
        println!("  {guest:<46} |   threads {}", threads.join(", "));
    }
    ensure!(report.nodes.len() == spec.vnodes.len(), "the guest has {} nodes", report.nodes.len());
    Ok(())
}

/// One line of numa_maps for a vnode.
fn memory(areas: &[Area]) -> String {
    let policies: Vec<&str> = areas.iter().map(|area| area.policy.as_str()).collect();
    let mut nodes: Vec<String> = Vec::new();
    for area in areas {
        nodes.extend(area.kib.iter().map(|(node, kib)| format!("{} MiB on pnode {node}", kib / 1024)));
    }
    format!("policy {}, {}", policies.join(" "), nodes.join(", "))
}
