//! Synthetic hosts for tests, written as a sysfs tree or built as a [`HostTopology`]. Not part of the program.

use crate::attributes::AccessAttributes;
use crate::distance::{Distance, DistanceMatrix};
use crate::host::{HostTopology, HugePool, Pnode};
use crate::ids::{PcpuId, PnodeId};
use crate::set::{CpuSet, NodeSet};
use crate::spec::{VmSpec, VnodeSpec};
use crate::topology::VmTopology;
use crate::units::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::{fs, io};

/// A VM with a vnode of 64 MiB for each list of vCPUs.
///
/// # Panics
/// If a list is none, or they are not those of a VM.
#[expect(clippy::unwrap_used, reason = "a test may stop")]
pub fn vm_of_vcpus(lists: &[&str]) -> VmTopology {
    let memory = Some(Bytes::mib(64));
    let vnode = |(id, list): (u32, &&str)| VnodeSpec {
        memory,
        vcpus: Some(list.parse().unwrap()),
        ..VnodeSpec::new(id)
    };
    let numa = (0..).zip(lists).map(vnode).collect();
    VmTopology::try_from(&VmSpec { numa, ..VmSpec::default() }).unwrap()
}

/// A host to be. Nodes are named by id in every method; a method that names an id that is not there does nothing.
#[derive(Debug, Clone)]
pub struct HostShape {
    nodes: BTreeMap<PnodeId, Node>,
    offline: CpuSet,
    distances: BTreeMap<(PnodeId, PnodeId), u8>,
    pattern: Pattern,
}

/// Distances of all nodes by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pattern {
    /// All 20 apart.
    #[default]
    Alike,
    /// Sockets of so many nodes: 12 inside, 32 outside.
    Sockets(u32),
    /// A ring of so many nodes: the farther, the more, up to 254.
    Ring(u32),
    /// Rows of so many nodes, and the steps between two.
    Mesh(u32),
    /// The corners of a cube of many dimensions.
    Cube,
    /// Any, and the same on every run.
    Random,
}

impl Pattern {
    /// The distance of two nodes.
    fn distance(self, a: u32, b: u32) -> u8 {
        let far = |steps: u32, each: u32| u8::try_from(10 + each * steps).unwrap_or(254).min(254);
        match self {
            _ if a == b => 10,
            Self::Alike => 20,
            Self::Sockets(size) if a / size == b / size => 12,
            Self::Sockets(_) => 32,
            Self::Ring(nodes) => far(a.abs_diff(b).min(nodes - a.abs_diff(b)), 4),
            Self::Mesh(row) => far((a / row).abs_diff(b / row) + (a % row).abs_diff(b % row), 10),
            Self::Cube => far((a ^ b).count_ones(), 10),
            Self::Random => far(1 + scattered(a.max(b), a.min(b)) % 240, 1),
        }
    }
}

/// A number out of two, the same on every run.
pub fn scattered(a: u32, b: u32) -> u32 {
    let mixed = a.wrapping_mul(64).wrapping_add(b).wrapping_mul(0x9E37_79B9)
        ^ a.wrapping_add(7 * b).wrapping_mul(0x85EB_CA6B);
    (mixed >> 13) ^ mixed
}

#[derive(Debug, Clone)]
struct Node {
    cpus: CpuSet,
    total: Bytes,
    free: Bytes,
    cache: Bytes,
    pools: BTreeMap<Bytes, HugePool>,
    attributes: Option<AccessAttributes>,
    device_memory: bool,
}

impl HostShape {
    /// `nodes` nodes from 0, all 20 apart, each with two CPUs, 4 GiB of memory of which 3 GiB are free and 512 MiB
    /// hold page cache, and empty pools of 2 MiB and 1 GiB pages.
    pub fn new(nodes: u32) -> Self {
        Self::with_ids(0..nodes)
    }

    /// As [`new`](Self::new), with these ids; CPUs are numbered without holes.
    pub fn with_ids(ids: impl IntoIterator<Item = u32>) -> Self {
        let ids: NodeSet = ids.into_iter().map(PnodeId).collect();
        let node = |first: u32| Node {
            cpus: [PcpuId(first), PcpuId(first + 1)].into_iter().collect(),
            total: Bytes::gib(4),
            free: Bytes::gib(3),
            cache: Bytes::mib(512),
            pools: [Bytes::mib(2), Bytes::gib(1)].map(|size| (size, HugePool::default())).into(),
            attributes: None,
            device_memory: false,
        };
        let nodes = (0..).step_by(2).zip(ids.iter()).map(|(cpu, id)| (id, node(cpu))).collect();
        Self { nodes, offline: CpuSet::new(), distances: BTreeMap::new(), pattern: Pattern::Alike }
    }

    fn node(mut self, id: u32, change: impl FnOnce(&mut Node)) -> Self {
        if let Some(node) = self.nodes.get_mut(&PnodeId(id)) {
            change(node);
        }
        self
    }

    /// CPUs of a node as a list, `""` for none. Panics on what is not a list.
    pub fn cpus(self, id: u32, list: &str) -> Self {
        self.node(id, |node| node.cpus = cpuset(list))
    }

    /// CPUs that are offline, as a list. Panics on what is not a list.
    pub fn offline(mut self, list: &str) -> Self {
        self.offline = cpuset(list);
        self
    }

    /// Memory of a node, three quarters of it free and an eighth page cache.
    pub fn memory(self, id: u32, total: Bytes) -> Self {
        self.node(id, |node| {
            node.total = total;
            node.free = Bytes((total.get() / 4 * 3) & !1023);
            node.cache = Bytes((total.get() / 8) & !1023);
        })
    }

    /// Free memory and page cache of a node.
    pub fn free(self, id: u32, free: Bytes, cache: Bytes) -> Self {
        self.node(id, |node| (node.free, node.cache) = (free, cache))
    }

    /// A pool of huge pages of a node.
    pub fn pool(self, id: u32, size: Bytes, total: u64, free: u64) -> Self {
        self.node(id, |node| {
            node.pools.insert(size, HugePool { total, free, reserved: 0 });
        })
    }

    /// A node without CPUs whose memory is a device's; the tree says so by memory tiers.
    pub fn device_memory(self, id: u32) -> Self {
        self.node(id, |node| (node.cpus, node.device_memory) = (CpuSet::new(), true))
    }

    /// What firmware tells of a node's memory.
    pub fn attributes(self, id: u32, attributes: AccessAttributes) -> Self {
        self.node(id, |node| node.attributes = Some(attributes))
    }

    /// The distance of two nodes, both ways.
    pub fn distance(mut self, from: u32, to: u32, value: u8) -> Self {
        self.distances.insert((PnodeId(from), PnodeId(to)), value);
        self.distances.insert((PnodeId(to), PnodeId(from)), value);
        self
    }

    /// The distances of all nodes for which none was given.
    pub fn pattern(self, pattern: Pattern) -> Self {
        Self { pattern, ..self }
    }

    /// Nodes of 2 to 7.5 GiB with 1 to 4 CPUs, in no order.
    pub fn uneven(self) -> Self {
        let ids: Vec<u32> = self.nodes.keys().map(|id| id.0).collect();
        ids.into_iter().fold(self, |host, id| {
            let memory = Bytes::mib(2048 + 512 * u64::from(scattered(id, 99) % 12));
            let first = id * 8;
            host.memory(id, memory).cpus(id, &format!("{first}-{}", first + scattered(id, 3) % 4))
        })
    }

    /// Writes the sysfs tree; `root` is what `/sys` would be.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let cpu_root = root.join("devices/system/cpu");
        let node_root = root.join("devices/system/node");
        fs::create_dir_all(&cpu_root)?;
        fs::create_dir_all(&node_root)?;
        let all: CpuSet = self.nodes.values().flat_map(|node| node.cpus.iter()).collect();
        fs::write(cpu_root.join("online"), format!("{}\n", all.difference(&self.offline)))?;
        fs::write(cpu_root.join("offline"), format!("{}\n", all.intersection(&self.offline)))?;
        let ids: NodeSet = self.nodes.keys().copied().collect();
        fs::write(node_root.join("online"), format!("{ids}\n"))?;
        let tiers: [NodeSet; 2] = [false, true].map(|device| {
            self.nodes.iter().filter(|(_, n)| n.device_memory == device).map(|(id, _)| *id).collect()
        });
        for (tier, nodes) in
            ["memory_tier4", "memory_tier22"].iter().zip(&tiers).filter(|_| !tiers[1].is_empty())
        {
            let tier = root.join("devices/virtual/memory_tiering").join(tier);
            fs::create_dir_all(&tier)?;
            fs::write(tier.join("nodelist"), format!("{nodes}\n"))?;
        }
        for (id, node) in &self.nodes {
            self.write_node(*id, node, &node_root.join(format!("node{id}")))?;
        }
        Ok(())
    }

    fn write_node(&self, id: PnodeId, node: &Node, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("cpulist"), format!("{}\n", node.cpus.difference(&self.offline)))?;
        let row: Vec<String> = self.nodes.keys().map(|to| self.between(id, *to).to_string()).collect();
        fs::write(directory.join("distance"), format!("{}\n", row.join(" ")))?;
        let lines = [
            ("MemTotal", node.total),
            ("MemFree", node.free),
            ("MemUsed", node.total.saturating_sub(node.free)),
            ("Active", Bytes(node.cache.get() / 2)),
            ("Active(anon)", Bytes::ZERO),
            ("Active(file)", Bytes(node.cache.get() / 2)),
            ("Inactive(file)", Bytes(node.cache.get() / 2)),
            ("SReclaimable", Bytes::ZERO),
        ];
        let mut meminfo = String::new();
        for (key, amount) in lines {
            let key = format!("{key}:");
            // Writing to a String cannot fail.
            let _ = writeln!(meminfo, "Node {id} {key:<16}{:>8} kB", amount.get() / 1024);
        }
        fs::write(directory.join("meminfo"), meminfo)?;
        for (size, pool) in &node.pools {
            let pool_root = directory.join(format!("hugepages/hugepages-{}kB", size.get() / 1024));
            fs::create_dir_all(&pool_root)?;
            fs::write(pool_root.join("nr_hugepages"), format!("{}\n", pool.total))?;
            fs::write(pool_root.join("free_hugepages"), format!("{}\n", pool.free))?;
        }
        if let Some(attributes) = node.attributes {
            let initiators = directory.join("access0/initiators");
            fs::create_dir_all(&initiators)?;
            for (file, figure) in [
                ("read_latency", attributes.read_latency_ns),
                ("write_latency", attributes.write_latency_ns),
                ("read_bandwidth", attributes.read_bandwidth_mib),
                ("write_bandwidth", attributes.write_bandwidth_mib),
            ] {
                fs::write(initiators.join(file), format!("{figure}\n"))?;
            }
        }
        Ok(())
    }

    fn between(&self, from: PnodeId, to: PnodeId) -> u8 {
        self.distances.get(&(from, to)).copied().unwrap_or_else(|| self.pattern.distance(from.0, to.0))
    }

    /// The host as reading the tree gives it. Panics on a distance below 10 and on a host without nodes.
    pub fn topology(&self) -> HostTopology {
        let ids: Vec<PnodeId> = self.nodes.keys().copied().collect();
        let pnode = |(id, node): (&PnodeId, &Node)| Pnode {
            id: *id,
            cpus: node.cpus.difference(&self.offline),
            memory_total: node.total,
            memory_free: node.free,
            memory_reclaimable: node.cache.min(node.total.saturating_sub(node.free)),
            memory_kept: Pnode::kept_by_estimate(node.total),
            memory_allowed: true,
            device_memory: node.device_memory,
            huge_pages: node.pools.clone(),
            attributes: node.attributes,
        };
        let distances =
            DistanceMatrix::from_fn(ids.len(), |from, to| match self.between(ids[from], ids[to]) {
                10 => Distance::LOCAL,
                value => Distance::remote(u64::from(value)).expect("a distance is at least 10"),
            });
        HostTopology::new(self.nodes.iter().map(pnode).collect(), distances).expect("a host has nodes")
    }
}

fn cpuset(list: &str) -> CpuSet {
    list.parse().expect("a list of CPUs")
}
