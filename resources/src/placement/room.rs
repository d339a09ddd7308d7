//! What the vnodes placed so far have left of each pnode. Which pnode comes next is `placement`'s choice.

use crate::host::{HostTopology, HugePool};
use crate::ids::PnodeId;
use crate::placement::{PlacementError, Shortfall};
use crate::set::{CpuSet, NodeSet};
use crate::spec::MemoryPolicy;
use crate::topology::Vnode;
use crate::units::Bytes;
use std::collections::BTreeMap;

/// What is left.
pub struct Room {
    nodes: BTreeMap<PnodeId, NodeRoom>,
    /// CPUs that a vCPU of this VM is pinned to.
    pinned: CpuSet,
}

struct NodeRoom {
    memory: Bytes,
    pools: BTreeMap<Bytes, u64>,
    cpus: usize,
}

impl Room {
    /// All of the host.
    pub fn new(host: &HostTopology) -> Self {
        let free = |(size, pool): (&Bytes, &HugePool)| (*size, pool.free.min(pool.total));
        let nodes = host.pnodes().iter().map(|pnode| {
            let pools = match pnode.memory_allowed {
                true => pnode.huge_pages.iter().map(free).collect(),
                false => BTreeMap::new(),
            };
            (pnode.id, NodeRoom { memory: pnode.available(), pools, cpus: pnode.cpus.len() })
        });
        Self { nodes: nodes.collect(), pinned: CpuSet::new() }
    }

    /// Ordinary memory left on one pnode.
    pub fn memory(&self, id: PnodeId) -> Bytes {
        self.nodes.get(&id).map_or(Bytes::ZERO, |node| node.memory)
    }

    /// Huge pages of one size left on one pnode.
    pub fn huge_pages(&self, id: PnodeId, size: Bytes) -> u64 {
        self.nodes.get(&id).and_then(|node| node.pools.get(&size)).copied().unwrap_or(0)
    }

    /// CPUs of one pnode less the vCPUs that are at home there.
    pub fn cpus(&self, id: PnodeId) -> usize {
        self.nodes.get(&id).map_or(0, |node| node.cpus)
    }

    /// CPUs that no vCPU is pinned to, out of `cpus`.
    pub fn unpinned(&self, cpus: &CpuSet) -> CpuSet {
        cpus.difference(&self.pinned)
    }

    /// Notes that a vCPU is pinned to each of `cpus`.
    pub fn pin(&mut self, cpus: &CpuSet) {
        self.pinned = self.pinned.union(cpus);
    }

    /// Notes that `vcpus` vCPUs are at home on `pnodes`, spread evenly.
    pub fn take_cpus(&mut self, pnodes: &NodeSet, vcpus: usize) {
        let share = vcpus.div_ceil(pnodes.len().max(1));
        for id in pnodes.iter() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.cpus = node.cpus.saturating_sub(share);
            }
        }
    }

    /// Takes a vnode's memory from its pnodes, or says what is missing.
    ///
    /// Bound memory may lie on any of its pnodes; as the kernel fills one before the next, it is taken from the
    /// lowest first. Interleaved memory is taken in equal shares. Preferred memory goes elsewhere when its pnodes
    /// are full, but only ordinary memory: huge pages have to be on its pnodes.
    pub fn take_memory(
        &mut self,
        vnode: &Vnode,
        pnodes: &NodeSet,
        shortfalls: &mut Vec<Shortfall>,
    ) -> Result<(), PlacementError> {
        if vnode.memory == Bytes::ZERO {
            return Ok(());
        }
        let (unit, need) = match vnode.pages.pool() {
            Some(size) => (Unit::Pages(size), vnode.memory.get() / size.get()),
            None => (Unit::Memory, vnode.memory.get()),
        };
        match vnode.policy {
            MemoryPolicy::Bind => self.take_within(vnode, pnodes, unit, need),
            MemoryPolicy::Interleave => self.take_shares(vnode, pnodes, unit, need),
            MemoryPolicy::Preferred => match unit {
                Unit::Pages(_) => self.take_within(vnode, pnodes, unit, need),
                Unit::Memory => self.take_preferred(vnode, pnodes, shortfalls),
            },
        }
    }

    fn take_within(
        &mut self,
        vnode: &Vnode,
        pnodes: &NodeSet,
        unit: Unit,
        need: u64,
    ) -> Result<(), PlacementError> {
        let left = pnodes.iter().fold(0u64, |sum, id| sum.saturating_add(self.left(id, unit)));
        if left < need {
            return Err(unit.shortage(vnode, pnodes, need, left));
        }
        self.take(pnodes.iter(), unit, need);
        Ok(())
    }

    fn take_shares(
        &mut self,
        vnode: &Vnode,
        pnodes: &NodeSet,
        unit: Unit,
        need: u64,
    ) -> Result<(), PlacementError> {
        let share = need.div_ceil((pnodes.len() as u64).max(1));
        if let Some(id) = pnodes.iter().find(|id| self.left(*id, unit) < share) {
            let one = NodeSet::one(id);
            return Err(unit.shortage(vnode, &one, share, self.left(id, unit)));
        }
        for id in pnodes.iter() {
            self.take([id].into_iter(), unit, share);
        }
        Ok(())
    }

    fn take_preferred(
        &mut self,
        vnode: &Vnode,
        pnodes: &NodeSet,
        shortfalls: &mut Vec<Shortfall>,
    ) -> Result<(), PlacementError> {
        let need = vnode.memory.get();
        let sum =
            |ids: &NodeSet| ids.iter().fold(0u64, |sum, id| sum.saturating_add(self.left(id, Unit::Memory)));
        let all: NodeSet = self.nodes.keys().copied().collect();
        let (here, anywhere) = (sum(pnodes), sum(&all));
        if anywhere < need {
            return Err(Unit::Memory.shortage(vnode, &all, need, anywhere));
        }
        if here < need {
            shortfalls.push(Shortfall::MemorySpills { memory: vnode.memory, available: Bytes(here) });
        }
        let elsewhere = all.difference(pnodes);
        self.take(pnodes.iter().chain(elsewhere.iter()), Unit::Memory, need);
        Ok(())
    }

    fn left(&self, id: PnodeId, unit: Unit) -> u64 {
        match unit {
            Unit::Memory => self.memory(id).get(),
            Unit::Pages(size) => self.huge_pages(id, size),
        }
    }

    fn take(&mut self, ids: impl Iterator<Item = PnodeId>, unit: Unit, mut need: u64) {
        for id in ids {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let left = match unit {
                Unit::Memory => &mut node.memory.0,
                Unit::Pages(size) => node.pools.entry(size).or_default(),
            };
            let taken = need.min(*left);
            *left -= taken;
            need -= taken;
        }
    }
}

/// What memory is counted in.
#[derive(Clone, Copy)]
enum Unit {
    /// Bytes of ordinary memory.
    Memory,
    /// Huge pages of this size.
    Pages(Bytes),
}

impl Unit {
    fn shortage(self, vnode: &Vnode, pnodes: &NodeSet, need: u64, left: u64) -> PlacementError {
        let (vnode, policy, pnodes) = (vnode.id, vnode.policy, pnodes.clone());
        match self {
            Self::Memory => {
                PlacementError::Memory { vnode, pnodes, policy, asked: Bytes(need), available: Bytes(left) }
            }
            Self::Pages(size) => {
                PlacementError::HugePages { vnode, pnodes, policy, size, asked: need, available: left }
            }
        }
    }
}
