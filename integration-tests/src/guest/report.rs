//! What Linux in the guest believes of its machine, gathered from sysfs, procfs and the kernel's log.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};

use crate::rangelist;

/// The report of a guest, as it travels over the serial line.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct GuestReport {
    pub(crate) kernel: String,
    pub(crate) cmdline: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) online_nodes: String,
    pub(crate) possible_nodes: String,
    pub(crate) nodes: Vec<GuestNode>,
    pub(crate) online_cpus: String,
    pub(crate) possible_cpus: String,
    pub(crate) cpus: Vec<GuestCpu>,
    /// Lines of the kernel log about NUMA, topology or trouble, each led by its level: `<4>text`.
    pub(crate) kernel_lines: Vec<String>,
    pub(crate) pci: Vec<PciFunction>,
    pub(crate) numactl: String,
    pub(crate) interrupts: Vec<String>,
}

/// One of Linux's nodes; its number is not always the vnode's.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct GuestNode {
    pub(crate) node: u32,
    pub(crate) cpulist: String,
    pub(crate) distances: Vec<u32>,
    pub(crate) total_kib: u64,
    pub(crate) free_kib: u64,
    pub(crate) access: Vec<AccessClass>,
}

/// What HMAT told Linux of a memory node, seen from its best initiators.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct AccessClass {
    pub(crate) class: String,
    pub(crate) initiators: Vec<u32>,
    pub(crate) read_latency: u64,
    pub(crate) write_latency: u64,
    pub(crate) read_bandwidth: u64,
    pub(crate) write_bandwidth: u64,
}

/// One CPU as CPUID and ACPI describe it to Linux.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct GuestCpu {
    pub(crate) cpu: u32,
    pub(crate) apic_id: u32,
    pub(crate) package: i32,
    pub(crate) die: i32,
    pub(crate) core: i32,
    pub(crate) thread_siblings: String,
    pub(crate) llc_level: u32,
    pub(crate) llc_shared: String,
}

/// One PCI function.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct PciFunction {
    pub(crate) address: String,
    pub(crate) class: String,
    /// The vendor's number of it; 0x1040 and on are virtio devices, by their types.
    pub(crate) device: u32,
    pub(crate) node: i32,
    pub(crate) interrupts: Vec<DeviceInterrupt>,
}

/// One MSI-X vector of a function that a driver listens to.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct DeviceInterrupt {
    pub(crate) irq: u32,
    /// What the driver calls it: `virtio0-config`.
    pub(crate) action: String,
    /// The CPUs it really goes to.
    pub(crate) cpus: String,
}

const NODES: &str = "/sys/devices/system/node";
const CPUS: &str = "/sys/devices/system/cpu";

impl GuestReport {
    /// In few characters, without a line's end.
    pub(crate) fn packed(&self) -> Result<String> {
        Ok(BASE64_STANDARD.encode(lz4_flex::block::compress_prepend_size(&serde_json::to_vec(self)?)))
    }

    /// From such characters.
    pub(crate) fn unpacked(text: &str) -> Result<Self> {
        let bytes = BASE64_STANDARD.decode(text).with_context(|| format!("{} characters", text.len()))?;
        Ok(serde_json::from_slice(&lz4_flex::block::decompress_size_prepended(&bytes)?)?)
    }
}

/// Gathers everything; what cannot be read is left empty.
pub(crate) fn collect() -> GuestReport {
    GuestReport {
        kernel: text("/proc/sys/kernel/osrelease"),
        cmdline: text("/proc/cmdline"),
        uptime_seconds: text("/proc/uptime")
            .split_whitespace()
            .next()
            .and_then(|t| t.parse().ok())
            .unwrap_or(0.0),
        online_nodes: text(format!("{NODES}/online")),
        possible_nodes: text(format!("{NODES}/possible")),
        nodes: online_nodes().into_iter().map(node).collect(),
        online_cpus: text(format!("{CPUS}/online")),
        possible_cpus: text(format!("{CPUS}/possible")),
        cpus: cpus(),
        kernel_lines: kernel_lines(),
        pci: pci(),
        numactl: numactl(),
        interrupts: text("/proc/interrupts").lines().map(str::to_owned).collect(),
    }
}

/// The nodes Linux has online.
pub(crate) fn online_nodes() -> Vec<u32> {
    rangelist::parse(&text(format!("{NODES}/online"))).unwrap_or_default()
}

/// MemTotal and MemFree of a node, in KiB.
pub(crate) fn node_memory(node: u32) -> (u64, u64) {
    let meminfo = text(format!("{NODES}/node{node}/meminfo"));
    let value = |key: &str| {
        let line = meminfo.lines().find(|line| line.split_whitespace().any(|word| word == key));
        line.and_then(|line| line.split_whitespace().nth(3)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    (value("MemTotal:"), value("MemFree:"))
}

/// KiB that lie free in the CPUs' own lists of a node; `MemFree` does not count them.
pub(crate) fn node_per_cpu_kib(node: u32) -> u64 {
    let zoneinfo = text("/proc/zoneinfo");
    let mut here = false;
    let mut pages = 0;
    for line in zoneinfo.lines() {
        if let Some(rest) = line.strip_prefix("Node ") {
            here = rest.split(',').next().is_some_and(|number| number.trim().parse() == Ok(node));
        } else if let Some(count) = line.trim().strip_prefix("count:").filter(|_| here) {
            pages += count.trim().parse::<u64>().unwrap_or(0);
        }
    }
    pages * 4
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn number<T: std::str::FromStr + Default>(path: impl AsRef<Path>) -> T {
    text(path).parse().unwrap_or_default()
}

fn node(node: u32) -> GuestNode {
    let (total_kib, free_kib) = node_memory(node);
    let at = format!("{NODES}/node{node}");
    let distances =
        text(format!("{at}/distance")).split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let access = ["access0", "access1"].iter().filter_map(|class| access(&at, class)).collect();
    GuestNode { node, cpulist: text(format!("{at}/cpulist")), distances, total_kib, free_kib, access }
}

fn access(node: &str, class: &str) -> Option<AccessClass> {
    let at = format!("{node}/{class}/initiators");
    let mut initiators: Vec<u32> =
        names(&at).iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect();
    initiators.sort_unstable();
    (!initiators.is_empty()).then(|| AccessClass {
        class: class.to_owned(),
        initiators,
        read_latency: number(format!("{at}/read_latency")),
        write_latency: number(format!("{at}/write_latency")),
        read_bandwidth: number(format!("{at}/read_bandwidth")),
        write_bandwidth: number(format!("{at}/write_bandwidth")),
    })
}

fn cpus() -> Vec<GuestCpu> {
    let online = rangelist::parse(&text(format!("{CPUS}/online"))).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let apic_ids: Vec<u32> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "apicid")
        .filter_map(|(_, value)| value.trim().parse().ok())
        .collect();
    online
        .iter()
        .zip(apic_ids.into_iter().chain(std::iter::repeat(u32::MAX)))
        .map(|(&cpu, apic_id)| {
            let at = format!("{CPUS}/cpu{cpu}");
            let (llc_level, llc_shared) = last_level_cache(&at);
            GuestCpu {
                cpu,
                apic_id,
                package: number(format!("{at}/topology/physical_package_id")),
                die: number(format!("{at}/topology/die_id")),
                core: number(format!("{at}/topology/core_id")),
                thread_siblings: text(format!("{at}/topology/thread_siblings_list")),
                llc_level,
                llc_shared,
            }
        })
        .collect()
}

fn last_level_cache(cpu: &str) -> (u32, String) {
    (0..8)
        .map(|index| format!("{cpu}/cache/index{index}"))
        .map(|at| (number(format!("{at}/level")), text(format!("{at}/shared_cpu_list"))))
        .max_by_key(|(level, _)| *level)
        .unwrap_or_default()
}

/// What makes a line of the kernel's log part of the report, beside a level of warning or worse.
const TELLING: [&str; 21] = [
    "srat",
    "slit",
    "hmat",
    "numa",
    "acpi error",
    "acpi warning",
    "acpi bios",
    "acpi exception",
    "sched",
    "sibling",
    "topology",
    "warning:",
    "bug:",
    "call trace",
    "rip:",
    "nodes only cover",
    "smpboot",
    "conflict",
    "can't claim",
    "failed to assign",
    "no space for",
];

fn kernel_lines() -> Vec<String> {
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let mut record = [0u8; 8192];
    // Each read is one record, `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT\n KEY=VALUE...`; EAGAIN at the end.
    while let Ok(length) = log.read(&mut record) {
        let record = String::from_utf8_lossy(&record[..length]).into_owned();
        let Some((prefix, rest)) = record.split_once(';') else { continue };
        let line = rest.lines().next().unwrap_or_default();
        let priority: u32 = prefix.split(',').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let level = priority & 7;
        let lower = line.to_lowercase();
        if level <= 4 || TELLING.iter().any(|word| lower.contains(word)) {
            lines.push(format!("<{level}>{line}"));
        }
    }
    lines
}

fn pci() -> Vec<PciFunction> {
    let at = "/sys/bus/pci/devices";
    let functions = names(at);
    functions
        .iter()
        .map(|address| PciFunction {
            address: address.clone(),
            class: text(format!("{at}/{address}/class")),
            device: hexadecimal(&text(format!("{at}/{address}/device"))),
            node: number(format!("{at}/{address}/numa_node")),
            interrupts: interrupts(&format!("{at}/{address}")),
        })
        .collect()
}

fn hexadecimal(text: &str) -> u32 {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default()
}

fn interrupts(function: &str) -> Vec<DeviceInterrupt> {
    let irqs = names(&format!("{function}/msi_irqs"));
    irqs.iter()
        .filter_map(|irq| {
            let at = format!("/proc/irq/{irq}");
            // Beside files there is a directory for each handler.
            let action = names(&at).into_iter().find(|name| Path::new(&at).join(name).is_dir())?;
            let cpus = text(format!("{at}/effective_affinity_list"));
            Some(DeviceInterrupt { irq: irq.parse().ok()?, action, cpus })
        })
        .collect()
}

fn names(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

fn numactl() -> String {
    match Command::new("/usr/bin/numactl").arg("-H").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
        Err(error) => format!("numactl: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::GuestReport;

    #[test]
    fn a_report_is_the_same_when_it_is_unpacked() {
        let report =
            GuestReport { kernel: "6.1".into(), cmdline: "quiet ".repeat(999), ..Default::default() };
        let packed = report.packed().unwrap();
        assert!(packed.len() < 999 && packed.is_ascii(), "{} characters", packed.len());
        assert_eq!(GuestReport::unpacked(&packed).unwrap().cmdline, report.cmdline);
        assert!(GuestReport::unpacked(&packed[8..]).is_err() && GuestReport::unpacked("?").is_err());
    }
}
