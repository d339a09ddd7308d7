//! Where a guest's memory lies and where its vCPU threads may run, as the host's kernel says.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};

use super::spec::GuestSpec;
use crate::rangelist;
use crate::sys;

/// One mapping of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) name: String,
    /// As in numa_maps, without the flags between the two: `bind:0`, of `bind=static:0`.
    pub(crate) policy: String,
    /// KiB per node, as in numa_maps.
    pub(crate) kib: BTreeMap<u32, u64>,
    /// Size of its pages in KiB.
    pub(crate) page_kib: u64,
    writable: bool,
}

/// What the VMM calls its guest memory.
const RAM_NAME: &str = "guest-ram-v";
/// Smaller unnamed mappings are the VMM's own.
const LEAST_RAM: u64 = 16 << 20;

/// All mappings of `pid`.
pub(crate) fn areas(pid: u32) -> Result<Vec<Area>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let policies = fs::read_to_string(format!("/proc/{pid}/numa_maps"))?;
    let mut areas = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            bail!("odd line in maps: {line}")
        };
        let (start, end) = range.split_once('-').context("odd range in maps")?;
        areas.push(Area {
            start: u64::from_str_radix(start, 16)?,
            end: u64::from_str_radix(end, 16)?,
            writable: rights.starts_with("rw"),
            name: words.skip(3).collect::<Vec<_>>().join(" "),
            ..Area::default()
        });
    }
    for line in policies.lines() {
        let mut words = line.split_whitespace();
        let start = u64::from_str_radix(words.next().unwrap_or_default(), 16)?;
        let Some(area) = areas.iter_mut().find(|area| area.start == start) else { continue };
        area.policy = words.next().unwrap_or_default().replace("=static:", ":");
        let mut counts = BTreeMap::new();
        for word in words {
            if let Some(kib) = word.strip_prefix("kernelpagesize_kB=") {
                area.page_kib = kib.parse()?;
            } else if let Some((node, count)) = word.strip_prefix('N').and_then(|rest| rest.split_once('=')) {
                counts.insert(node.parse::<u32>()?, count.parse::<u64>()?);
            }
        }
        area.kib = counts.into_iter().map(|(node, count)| (node, count * area.page_kib.max(4))).collect();
    }
    Ok(areas)
}

/// The mappings of each vnode's memory: by name where the kernel keeps names, else by size.
pub(crate) fn guest_ram(pid: u32, spec: &GuestSpec) -> Result<Vec<Vec<Area>>> {
    let areas = areas(pid)?;
    let mut unnamed: Vec<Area> = areas
        .iter()
        .filter(|area| area.writable && area.name.is_empty() && area.end - area.start >= LEAST_RAM)
        .cloned()
        .collect();
    let mut ram = Vec::new();
    for (vnode, asked) in spec.vnodes.iter().enumerate() {
        let named: Vec<Area> =
            areas.iter().filter(|area| vnode_of_name(&area.name) == Some(vnode)).cloned().collect();
        let bytes = asked.mib << 20;
        ram.push(match (bytes, named.is_empty()) {
            (0, _) => Vec::new(),
            (_, false) => named,
            (_, true) => take_by_size(&mut unnamed, bytes)
                .with_context(|| format!("no mapping of vnode {vnode} ({} MiB) in {areas:#x?}", asked.mib))?,
        });
    }
    Ok(ram)
}

fn vnode_of_name(name: &str) -> Option<usize> {
    let digits = &name[name.find(RAM_NAME)? + RAM_NAME.len()..];
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// One mapping of that size, or two where the hole below 4 GiB splits the vnode.
fn take_by_size(areas: &mut Vec<Area>, bytes: u64) -> Option<Vec<Area>> {
    let size = |area: &Area| area.end - area.start;
    if let Some(index) = areas.iter().position(|area| size(area) == bytes) {
        return Some(vec![areas.remove(index)]);
    }
    for first in 0..areas.len() {
        for second in first + 1..areas.len() {
            if size(&areas[first]) + size(&areas[second]) == bytes {
                let second = areas.remove(second);
                return Some(vec![areas.remove(first), second]);
            }
        }
    }
    None
}

/// Pages of `areas` on each node, asked of the kernel one by one.
pub(crate) fn pages_by_node(pid: u32, areas: &[Area]) -> Result<BTreeMap<u32, u64>> {
    let mut counts = BTreeMap::new();
    for area in areas {
        let pages = usize::try_from((area.end - area.start) / 4096)?;
        for status in sys::page_nodes(pid, area.start, pages).context("move_pages")? {
            // Pages that are not there, or not ours alone, have a negative status.
            if let Ok(node) = u32::try_from(status) {
                *counts.entry(node).or_insert(0) += 1;
            }
        }
    }
    Ok(counts)
}

/// The CPUs each vCPU thread may run on.
pub(crate) fn vcpu_affinity(pid: u32) -> Result<BTreeMap<u32, Vec<u32>>> {
    let mut threads = BTreeMap::new();
    for (name, allowed) in threads_of(pid)? {
        if let Some(vcpu) = name.strip_prefix("vcpu").and_then(|number| number.parse().ok()) {
            threads.insert(vcpu, allowed);
        }
    }
    Ok(threads)
}

/// Name and allowed CPUs of each thread.
pub(crate) fn threads_of(pid: u32) -> Result<Vec<(String, Vec<u32>)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(entry?.path().join("status"))?;
        let value = |key: &str| {
            status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned()
        };
        threads.push((value("Name:"), rangelist::parse(&value("Cpus_allowed_list:"))?));
    }
    Ok(threads)
}

/// Clock ticks that the vCPU threads have run so far.
pub(crate) fn vcpu_ticks(pid: u32) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(entry?.path().join("stat"))?;
        // `ID (NAME) STATE ...`, with utime and stime eleven words after the state; see proc(5).
        let (before, after) = stat.rsplit_once(')').context("odd stat")?;
        if before.contains("(vcpu") {
            let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
            total += ticks.sum::<Result<u64, _>>()?;
        }
    }
    Ok(total)
}

/// KiB resident in all mappings but those of guest memory, which start at `ram`.
pub(crate) fn own_resident_kib(pid: u32, ram: &[u64]) -> Result<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut total = 0;
    let mut counted = true;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, _)) = first.split_once('-') {
            counted = !u64::from_str_radix(start, 16).is_ok_and(|start| ram.contains(&start));
        } else if first == "Rss:" && counted {
            total += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(total)
}
