//! Reads a host from its sysfs and `/proc`. The files are not trusted.

use crate::attributes::AccessAttributes;
use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::distance::{Distance, DistanceMatrix};
use crate::host::files::{HostRoot, names, parse, refused, required, text, value};
use crate::host::meminfo::Meminfo;
use crate::host::zones::{self, Zones};
use crate::host::{HostTopology, HugePool, Pnode, cpus, device_memory};
use crate::ids::PnodeId;
use crate::set::CpuSet;
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// In sysfs: the pools of all nodes together.
const POOLS: &str = "kernel/mm/hugepages";

/// Most host nodes: the largest `NODES_SHIFT` that Linux is built with is 10.
pub const MAX_PNODES: usize = 1024;

/// Why files do not describe a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// A file that has to be there.
    #[error("{}: does not exist, must be there", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file that has the memory of a machine without NUMA.
    #[error(
        "{}: does not exist, must be there for a kernel without NUMA, which has no {}", path.display(), nodes.display()
    )]
    NoMeminfo {
        /// The file.
        path: PathBuf,
        /// The directory that kernels with NUMA have.
        nodes: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system error.
        error: String,
    },
    /// A value that cannot be.
    #[error("{}: `{value}` {rule}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The value, shortened.
        value: String,
        /// The rule.
        rule: &'static str,
    },
}

impl HostError {
    /// What kind of failure it is.
    pub fn diagnosis(&self) -> Diagnosis {
        let kind = match self {
            Self::Missing { .. } | Self::NoMeminfo { .. } => ErrorKind::Unsupported,
            Self::Io { .. } | Self::Value { .. } => ErrorKind::Host,
        };
        Diagnosis::new(kind, self.code())
    }

    /// The stable error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::NoMeminfo { .. } => "host_file_missing",
            Self::Io { .. } => "host_file_unreadable",
            Self::Value { .. } => "host_file_value",
        }
    }
}

impl HostTopology {
    /// Reads the host whose files are at `root`: `devices/system/node` and `devices/system/cpu` of its sysfs, and
    /// `zoneinfo` of its `/proc`. A kernel without NUMA is one node that has all CPUs, and its memory is in
    /// `/proc/meminfo`.
    ///
    /// Only online nodes and online CPUs count. Distances of the kernel's rows are those of the online nodes,
    /// ascending. Huge pages, HMAT figures and `zoneinfo` may be missing; everything else must be there.
    pub fn read(root: &HostRoot) -> Result<Self, HostError> {
        let online = cpus::online_cpus(&root.cpus())?;
        let zones = zones::read(&root.procfs().join("zoneinfo"))?.unwrap_or_default();
        match Self::has_nodes(root) {
            true => with_numa(root, online.as_ref(), &zones),
            false => without_numa(root, online, zones.get(&PnodeId(0))),
        }
    }

    /// Whether the kernel knows of nodes. A directory that may not be looked into is there.
    pub(super) fn has_nodes(root: &HostRoot) -> bool {
        root.nodes().try_exists().unwrap_or(true)
    }
}

fn with_numa(
    root: &HostRoot,
    online: Option<&CpuSet>,
    zones: &BTreeMap<PnodeId, Zones>,
) -> Result<HostTopology, HostError> {
    let node_root = root.nodes();
    let ids = cpus::online_nodes(&node_root)?;
    let mut pnodes: Vec<Pnode> = Vec::with_capacity(ids.len());
    let mut rows = Vec::with_capacity(ids.len());
    let mut seen = CpuSet::new();
    let mut cpus_are_told = false;
    for id in ids.iter() {
        let directory = node_root.join(format!("node{id}"));
        let told = cpus::of_node(&directory)?;
        cpus_are_told |= told.is_some();
        let cpus = told.unwrap_or_default();
        // The kernel's lists leave out CPUs that are offline.
        let cpus = online.map_or_else(|| cpus.clone(), |online| cpus.intersection(online));
        if let Some(twice) = cpus.intersection(&seen).first() {
            return Err(refused(&directory, &format!("cpu{twice}"), "is on another node already"));
        }
        seen = seen.union(&cpus);
        pnodes.push(read_pnode(id, cpus, &directory, zones.get(&id))?);
        rows.push(read_distances(&directory.join("distance"), rows.len(), ids.len())?);
    }
    if !cpus_are_told {
        let first = ids.first().unwrap_or(PnodeId(0));
        return Err(HostError::Missing { path: node_root.join(format!("node{first}/cpulist")) });
    }
    spread_reserved(&mut pnodes, &read_huge_pages(&root.sysfs().join(POOLS))?);
    let distances = DistanceMatrix::from_fn(pnodes.len(), |from, to| rows[from][to]);
    device_memory::mark(root.sysfs(), &mut pnodes, &distances)?;
    Ok(HostTopology { pnodes, distances, numa: true })
}

fn without_numa(
    root: &HostRoot,
    online: Option<CpuSet>,
    zones: Option<&Zones>,
) -> Result<HostTopology, HostError> {
    let cpus = online.ok_or_else(|| HostError::Missing { path: root.cpus().join("online") })?;
    let path = root.procfs().join("meminfo");
    let meminfo =
        text(&path)?.ok_or_else(|| HostError::NoMeminfo { path: path.clone(), nodes: root.nodes() })?;
    let memory = Meminfo::of(&path, &meminfo)?;
    let pools = read_huge_pages(&root.sysfs().join(POOLS))?;
    let pnodes = vec![pnode(PnodeId(0), cpus, &memory, zones, pools, None)];
    Ok(HostTopology { pnodes, distances: DistanceMatrix::from_fn(1, |_, _| Distance::LOCAL), numa: false })
}

fn read_pnode(
    id: PnodeId,
    cpus: CpuSet,
    directory: &Path,
    zones: Option<&Zones>,
) -> Result<Pnode, HostError> {
    let path = directory.join("meminfo");
    let memory = Meminfo::of(&path, &required(&path)?)?;
    let pools = read_huge_pages(&directory.join("hugepages"))?;
    Ok(pnode(id, cpus, &memory, zones, pools, read_attributes(directory)?))
}

fn pnode(
    id: PnodeId,
    cpus: CpuSet,
    memory: &Meminfo,
    zones: Option<&Zones>,
    huge_pages: BTreeMap<Bytes, HugePool>,
    attributes: Option<AccessAttributes>,
) -> Pnode {
    let kept = zones.and_then(|zones| zones.kept(memory.total));
    Pnode {
        id,
        cpus,
        memory_total: memory.total,
        memory_free: memory.free.min(memory.total),
        memory_reclaimable: memory.reclaimable().min(memory.total.saturating_sub(memory.free)),
        memory_kept: kept.unwrap_or_else(|| Pnode::kept_by_estimate(memory.total)),
        memory_allowed: true,
        device_memory: false,
        huge_pages,
        attributes,
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
        return Err(refused(path, &text, "must have one distance per online node"));
    }
    if distances[row] != Distance::LOCAL {
        return Err(refused(path, &text, "must be 10 to the node itself"));
    }
    Ok(distances)
}

/// Pages that mappings have reserved lie on whichever nodes they will be touched on: on each at least those that the
/// others have no free page for.
fn spread_reserved(pnodes: &mut [Pnode], all: &BTreeMap<Bytes, HugePool>) {
    for (size, of_all) in all {
        let free = |pnode: &Pnode| pnode.huge_pages.get(size).map_or(0, |pool| pool.free);
        let total = pnodes.iter().map(free).fold(0, u64::saturating_add);
        for pool in pnodes.iter_mut().filter_map(|pnode| pnode.huge_pages.get_mut(size)) {
            let elsewhere = total.saturating_sub(pool.free);
            pool.reserved = of_all.reserved.saturating_sub(elsewhere).min(pool.free);
        }
    }
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
        // Only all nodes together have the figure.
        let reserved = count("resv_hugepages")?.unwrap_or(0);
        let free = count("free_hugepages")?.unwrap_or(0);
        pools.insert(Bytes(size), HugePool { total, free, reserved });
    }
    Ok(pools)
}

/// `access1` is what CPUs see, `access0` what the best of CPUs and other initiators sees; older kernels have only
/// the latter. Kernels write 0 for what the firmware does not tell.
fn read_attributes(directory: &Path) -> Result<Option<AccessAttributes>, HostError> {
    for class in ["access1", "access0"] {
        let initiators = directory.join(class).join("initiators");
        let figure = |file: &str| -> Result<Option<u32>, HostError> {
            let figure: Option<u32> = value(&initiators.join(file), "is not a number")?;
            Ok(figure.filter(|figure| *figure > 0))
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
