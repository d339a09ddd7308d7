//! Reads a host out of a sysfs tree: which files, what they mean. The tree is not trusted.

use crate::attributes::AccessAttributes;
use crate::distance::{Distance, DistanceMatrix};
use crate::host::device_memory;
use crate::host::sysfs::{names, parse, refused, required, text, value};
use crate::host::{HostTopology, HugePool, Pnode};
use crate::ids::PnodeId;
use crate::set::{CpuSet, NodeSet};
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most host nodes: the largest `NODES_SHIFT` that Linux is built with is 10.
pub const MAX_PNODES: usize = 1024;

/// Why a sysfs tree does not describe a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A file that has to be there.
    #[error("{}: does not exist, must be there on a kernel with NUMA", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// A value that cannot be.
    #[error("{}: `{value}` {rule}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What it says, shortened.
        value: String,
        /// What it should say.
        rule: &'static str,
    },
}

impl HostError {
    /// The stable name of the mistake.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "host_file_missing",
            Self::Io { .. } => "host_file_unreadable",
            Self::Value { .. } => "host_file_value",
        }
    }
}

impl HostTopology {
    /// Reads the host whose sysfs is at `root` (`/sys`): `devices/system/node` and `devices/system/cpu`.
    ///
    /// Only online nodes and online CPUs count. Distances of the kernel's rows are those of the online nodes,
    /// ascending. Huge pages and HMAT figures may be missing; everything else must be there.
    pub fn read(root: &Path) -> Result<Self, HostError> {
        let node_root = root.join("devices/system/node");
        let cpu_online = root.join("devices/system/cpu/online");
        let online: CpuSet = parse(&cpu_online, required(&cpu_online)?.trim(), "is not a list of CPUs")?;
        let nodes_online = node_root.join("online");
        let list = required(&nodes_online)?;
        let ids: NodeSet = parse(&nodes_online, list.trim(), "is not a list of nodes")?;
        if ids.is_empty() || ids.len() > MAX_PNODES {
            return Err(refused(&nodes_online, list.trim(), "must name 1 to 1024 nodes"));
        }
        let mut pnodes: Vec<Pnode> = Vec::with_capacity(ids.len());
        let mut rows = Vec::with_capacity(ids.len());
        let mut seen = CpuSet::new();
        for id in ids.iter() {
            let directory = node_root.join(format!("node{id}"));
            let pnode = read_pnode(id, &directory, &online)?;
            if let Some(twice) = pnode.cpus.intersection(&seen).first() {
                let path = directory.join("cpulist");
                return Err(refused(&path, &twice.to_string(), "is on another node already"));
            }
            seen = seen.union(&pnode.cpus);
            pnodes.push(pnode);
            rows.push(read_distances(&directory.join("distance"), rows.len(), ids.len())?);
        }
        let distances = DistanceMatrix::from_fn(pnodes.len(), |from, to| rows[from][to]);
        device_memory::mark(root, &mut pnodes, &distances)?;
        Ok(Self { pnodes, distances })
    }
}

fn read_pnode(id: PnodeId, directory: &Path, online: &CpuSet) -> Result<Pnode, HostError> {
    let cpulist = directory.join("cpulist");
    let cpus: CpuSet = parse(&cpulist, required(&cpulist)?.trim(), "is not a list of CPUs")?;
    let memory = Meminfo::read(&directory.join("meminfo"))?;
    Ok(Pnode {
        id,
        cpus: cpus.intersection(online),
        memory_total: memory.total,
        memory_free: memory.free.min(memory.total),
        memory_reclaimable: memory.reclaimable().min(memory.total.saturating_sub(memory.free)),
        memory_allowed: true,
        device_memory: false,
        huge_pages: read_huge_pages(&directory.join("hugepages"))?,
        attributes: read_attributes(directory)?,
    })
}

/// The lines of a node's `meminfo` that we use.
#[derive(Default)]
struct Meminfo {
    total: Bytes,
    free: Bytes,
    active_file: Bytes,
    inactive_file: Bytes,
    slab_reclaimable: Bytes,
}

impl Meminfo {
    fn read(path: &Path) -> Result<Self, HostError> {
        let mut found = Self::default();
        let (mut has_total, mut has_free) = (false, false);
        for line in required(path)?.lines() {
            // `Node 0 MemTotal:        4679456 kB`
            let Some((key, amount)) = line.split_once(':') else { continue };
            let field = match key.split_whitespace().last() {
                Some("MemTotal") => &mut found.total,
                Some("MemFree") => &mut found.free,
                Some("Active(file)") => &mut found.active_file,
                Some("Inactive(file)") => &mut found.inactive_file,
                Some("SReclaimable") => &mut found.slab_reclaimable,
                Some(_) | None => continue,
            };
            has_total |= key.ends_with("MemTotal");
            has_free |= key.ends_with("MemFree");
            let kib = amount.trim().strip_suffix("kB").and_then(|n| n.trim().parse::<u64>().ok());
            let bytes = kib.and_then(|kib| kib.checked_mul(1024)).map(Bytes);
            *field = bytes.ok_or_else(|| refused(path, line.trim(), "is not a number of kB"))?;
        }
        match (has_total, has_free) {
            (true, true) => Ok(found),
            _ => Err(refused(path, "the file", "must have lines MemTotal and MemFree")),
        }
    }

    fn reclaimable(&self) -> Bytes {
        let cache = self.active_file.saturating_add(self.inactive_file);
        cache.saturating_add(Bytes(self.slab_reclaimable.get() / 2))
    }
}

fn read_distances(path: &Path, row: usize, nodes: usize) -> Result<Vec<Distance>, HostError> {
    let text = required(path)?;
    let mut distances = Vec::with_capacity(nodes);
    for word in text.split_whitespace().take(nodes + 1) {
        let value: u64 = parse(path, word, "is not a number")?;
        let distance = if value == 10 { Some(Distance::LOCAL) } else { Distance::remote(value) };
        distances.push(distance.ok_or_else(|| refused(path, word, "must be 10 to 255"))?);
    }
    if distances.len() != nodes {
        return Err(refused(path, text.trim(), "must have one distance per online node"));
    }
    if distances[row] != Distance::LOCAL {
        return Err(refused(path, text.trim(), "must be 10 to the node itself"));
    }
    Ok(distances)
}

fn read_huge_pages(directory: &Path) -> Result<BTreeMap<Bytes, HugePool>, HostError> {
    let mut pools = BTreeMap::new();
    for name in names(directory)? {
        let Some(kib) = name.strip_prefix("hugepages-").and_then(|name| name.strip_suffix("kB")) else {
            continue;
        };
        let path = directory.join(&name);
        let size = kib.parse::<u64>().ok().and_then(|kib| kib.checked_mul(1024)).filter(|size| *size > 0);
        let size = size.ok_or_else(|| refused(&path, kib, "is not a number of kB"))?;
        let count = |file: &str| value::<u64>(&path.join(file), "is not a number of pages");
        let total = count("nr_hugepages")?.unwrap_or(0);
        let free = count("free_hugepages")?.unwrap_or(0);
        pools.insert(Bytes(size), HugePool { total, free });
    }
    Ok(pools)
}

/// `access1` is what CPUs see, `access0` what the best of CPUs and other initiators sees; older kernels have only
/// the latter. Kernels write 0 for what the firmware does not tell.
fn read_attributes(directory: &Path) -> Result<Option<AccessAttributes>, HostError> {
    for class in ["access1", "access0"] {
        let initiators = directory.join(class).join("initiators");
        let figure = |file: &str| -> Result<Option<u32>, HostError> {
            let path = initiators.join(file);
            let Some(text) = text(&path)? else { return Ok(None) };
            let figure: u32 = parse(&path, text.trim(), "is not a number")?;
            Ok(Some(figure).filter(|figure| *figure > 0))
        };
        let figures = (
            figure("read_latency")?,
            figure("write_latency")?,
            figure("read_bandwidth")?,
            figure("write_bandwidth")?,
        );
        if let (
            Some(read_latency_ns),
            Some(write_latency_ns),
            Some(read_bandwidth_mib),
            Some(write_bandwidth_mib),
        ) = figures
        {
            return Ok(Some(AccessAttributes {
                read_latency_ns,
                write_latency_ns,
                read_bandwidth_mib,
                write_bandwidth_mib,
            }));
        }
    }
    Ok(None)
}
