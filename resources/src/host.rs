//! The host: pnodes, their CPUs, memory, huge pages and distances, from sysfs and `/proc`. `host::read` reads the
//! files; `placement` assigns the resources.

mod cpus;
mod device_memory;
mod files;
mod free;
mod meminfo;
mod mirror;
mod read;
mod zones;

use crate::attributes::AccessAttributes;
use crate::distance::{Distance, DistanceMatrix};
use crate::ids::PnodeId;
use crate::set::{CpuSet, NodeSet};
use crate::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

pub use files::HostRoot;
pub use free::PnodeFree;
pub use read::HostError;

/// The nodes of a host and how far apart they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostTopology {
    pnodes: Vec<Pnode>,
    distances: DistanceMatrix,
    /// Whether its kernel knows of nodes.
    numa: bool,
}

/// One host node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pnode {
    /// Its number in sysfs; there may be holes between them.
    pub id: PnodeId,
    /// Its CPUs that are online and that this process may use; empty for a node with memory only.
    pub cpus: CpuSet,
    /// All its memory, huge page pools included; zero for a node with CPUs only.
    pub memory_total: Bytes,
    /// Free memory.
    pub memory_free: Bytes,
    /// Memory that the kernel gives up when asked for more: all of the page cache (`Active(file)` and
    /// `Inactive(file)`) and half of the reclaimable slab, of which the other half is in use as a rule.
    pub memory_reclaimable: Bytes,
    /// Memory that the kernel keeps free: it reclaims and then kills rather than hand out more. The `high` watermarks of
    /// its zones and what these protect from ordinary allocations (`/proc/zoneinfo`), or else
    /// [an estimate](Self::kept_by_estimate).
    pub memory_kept: Bytes,
    /// Whether this process may have memory here (`Mems_allowed` in `/proc/self/status`).
    pub memory_allowed: bool,
    /// Whether this is memory of a device, as of CXL or a GPU: no rule chooses it unless it is asked for.
    pub device_memory: bool,
    /// Pools of huge pages by page size.
    pub huge_pages: BTreeMap<Bytes, HugePool>,
    /// Latency and bandwidth of its memory as seen from the nearest CPUs, where firmware tells all four figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<AccessAttributes>,
}

/// Huge pages of one size on one pnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct HugePool {
    /// Pages in the pool.
    pub total: u64,
    /// Free pages in the pool.
    pub free: u64,
    /// Free pages that mappings have reserved and not touched, as far as they must be of this pnode: the kernel counts
    /// them for all nodes together (`resv_hugepages`). Those of living VMs are among them.
    pub reserved: u64,
}

impl HugePool {
    /// Free pages minus `promised` ones, which are not touched yet and may be among the reserved.
    pub fn left(&self, promised: u64) -> u64 {
        self.free.min(self.total).saturating_sub(promised.max(self.reserved))
    }
}

impl Pnode {
    /// Whether there is memory here at all; Linux's policies refuse nodes without.
    pub fn has_memory(&self) -> bool {
        self.memory_total > Bytes::ZERO
    }

    /// Memory that a VM can have here: free and reclaimable, less what the kernel keeps; nothing where this process may
    /// not have memory.
    pub fn available(&self) -> Bytes {
        if !self.memory_allowed {
            return Bytes::ZERO;
        }
        self.memory_free.saturating_add(self.memory_reclaimable).saturating_sub(self.memory_kept)
    }

    /// What the kernel keeps free of a node of this size where no `zoneinfo` tells: 128 MiB and 1/256 of it, but at most
    /// 1/25. That is what a kernel does that nobody tuned (`vm.min_free_kbytes`, `vm.watermark_scale_factor`):
    ///
    /// - with transparent huge pages on, `min_free_kbytes` is raised to about 66 MiB on x86 (`mm/khugepaged.c`), `high`
    ///   is 1.5 times a node's part of that, or 0.2 % of the node above it if that is more (`mm/page_alloc.c`), and
    ///   the kernel caps it at 5 % of memory, which is where small nodes end (4 % was measured on 1 GiB);
    /// - zone DMA32 keeps 1/256 of the zones above it (`lowmem_reserve_ratio`) on the node that has it.
    pub fn kept_by_estimate(total: Bytes) -> Bytes {
        Bytes((total.get() / 25).min((128 << 20) + total.get() / 256))
    }
}

impl HostTopology {
    /// Puts a host together from its nodes and the distances between them, both ascending by id.
    /// `None` when there are no nodes, ids do not ascend, or the matrix has another size.
    pub fn new(pnodes: Vec<Pnode>, distances: DistanceMatrix) -> Option<Self> {
        let ascending = pnodes.windows(2).all(|pair| pair[0].id < pair[1].id);
        (!pnodes.is_empty() && ascending && distances.nodes() == pnodes.len()).then_some(Self {
            pnodes,
            distances,
            numa: true,
        })
    }

    /// Whether its kernel knows of nodes and has memory policies; else it is one pnode, and all memory lies there.
    pub fn has_numa(&self) -> bool {
        self.numa
    }

    /// The host with no more memory than it had `before`. Who asks processes what they have in between finds less room for
    /// what they gave back meanwhile, and never too much.
    #[must_use]
    pub fn no_more_than(mut self, before: &Self) -> Self {
        for pnode in &mut self.pnodes {
            let Some(before) = before.pnode(pnode.id) else { continue };
            let more = pnode.available().saturating_sub(before.available());
            pnode.memory_free = pnode.memory_free.saturating_sub(more);
            for (size, pool) in &mut pnode.huge_pages {
                let Some(before) = before.huge_pages.get(size) else { continue };
                pool.free = pool.free.min(before.free);
                pool.reserved = pool.reserved.max(before.reserved);
            }
        }
        self
    }

    /// All online pnodes, ascending by id.
    pub fn pnodes(&self) -> &[Pnode] {
        &self.pnodes
    }

    /// One pnode.
    pub fn pnode(&self, id: PnodeId) -> Option<&Pnode> {
        self.pnodes.get(self.position(id)?)
    }

    /// Where a pnode stands in [`pnodes`](Self::pnodes) and in the rows of [`distances`](Self::distances).
    pub fn position(&self, id: PnodeId) -> Option<usize> {
        self.pnodes.binary_search_by_key(&id, |pnode| pnode.id).ok()
    }

    /// The ids of all pnodes.
    pub fn ids(&self) -> NodeSet {
        self.pnodes.iter().map(|pnode| pnode.id).collect()
    }

    /// All CPUs of all pnodes.
    pub fn cpus(&self) -> CpuSet {
        CpuSet::of_all(self.pnodes.iter().map(|pnode| &pnode.cpus))
    }

    /// SLIT distances by position in [`pnodes`](Self::pnodes), as the kernel has them: emulated nodes of one real
    /// node can be 10 apart (`numa=fake`).
    pub fn distances(&self) -> &DistanceMatrix {
        &self.distances
    }

    /// The distance between two pnodes; `None` when one is not there.
    pub fn distance(&self, from: PnodeId, to: PnodeId) -> Option<Distance> {
        self.distances.get(self.position(from)?, self.position(to)?)
    }

    /// The pnode nearest to any of `from` that fits `wanted`; ties go to the lowest id.
    pub fn nearest(&self, from: &NodeSet, wanted: impl Fn(&Pnode) -> bool) -> Option<&Pnode> {
        let away = |pnode: &Pnode| from.iter().filter_map(|id| self.distance(id, pnode.id)).min();
        self.pnodes.iter().filter(|pnode| wanted(pnode)).min_by_key(|pnode| (away(pnode), pnode.id))
    }

    /// The same host as a process sees it that may run on `cpus` and have memory on `nodes` only.
    pub fn restricted_to(mut self, cpus: &CpuSet, nodes: &NodeSet) -> Self {
        for pnode in &mut self.pnodes {
            pnode.cpus = pnode.cpus.intersection(cpus);
            pnode.memory_allowed &= nodes.contains(pnode.id);
        }
        self
    }
}

/// The directory below `/sys` of a pnode's pool of huge pages, or of that of a machine without NUMA.
pub(crate) fn pool_directory(numa: bool, pnode: Option<PnodeId>, size: Bytes) -> String {
    let of = match (numa, pnode) {
        (true, Some(pnode)) => format!("devices/system/node/node{pnode}"),
        (true, None) | (false, _) => "kernel/mm".to_owned(),
    };
    format!("{of}/hugepages/hugepages-{}kB", size.get() / 1024)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;
