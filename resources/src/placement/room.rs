//! The room left on each pnode by the vnodes placed so far. `placement` decides the order.

use crate::host::{HostTopology, HugePool, Pnode, pool_directory};
use crate::ids::PnodeId;
use crate::ledger::{Claim, Ledger, NodeClaim};
use crate::placement::{Free, PlacementError, Shortfall};
use crate::set::{CpuSet, NodeSet};
use crate::spec::MemoryPolicy;
use crate::topology::{MEMORY_UNIT, Vnode};
use crate::units::Bytes;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What is left.
pub struct Room {
    nodes: BTreeMap<PnodeId, NodeRoom>,
    /// CPUs that a vCPU is pinned to, of this VM or another.
    pinned: CpuSet,
    /// What was taken since it was asked for last.
    claim: Claim,
    /// Whether the host's kernel knows of nodes.
    numa: bool,
}

struct NodeRoom {
    memory: Bytes,
    pools: BTreeMap<Bytes, u64>,
    cpus: u64,
    /// vCPUs at home there.
    claimed: u64,
}

impl Room {
    /// Everything on the host that is not claimed by running VMs.
    pub fn new(host: &HostTopology, ledger: &Ledger) -> Self {
        let room = |pnode: &Pnode| {
            let left = |size: Bytes, pool: &HugePool| pool.left(ledger.untouched_pages(pnode.id, size));
            let pools = pnode.huge_pages.iter().filter(|_| pnode.memory_allowed && pnode.has_memory());
            NodeRoom {
                memory: pnode.available().saturating_sub(ledger.untouched_memory(pnode.id)),
                pools: pools.map(|(size, pool)| (*size, left(*size, pool))).collect(),
                cpus: pnode.cpus.len() as u64,
                claimed: ledger.vcpus(pnode.id),
            }
        };
        let nodes = host.pnodes().iter().map(|pnode| (pnode.id, room(pnode)));
        Self {
            nodes: nodes.collect(),
            pinned: ledger.pinned(),
            claim: Claim::default(),
            numa: host.has_numa(),
        }
    }

    /// What was taken since this was asked last.
    pub fn take_claim(&mut self) -> Claim {
        std::mem::take(&mut self.claim)
    }

    /// Adds memory that a vnode has of a pnode already to what is left for it: in bytes, or in pages of its pool.
    pub fn credit(&mut self, id: PnodeId, vnode: &Vnode, bytes: Bytes) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match vnode.pages.pool() {
            None => node.memory = node.memory.saturating_add(bytes),
            Some(size) => {
                let pages = node.pools.entry(size).or_default();
                *pages = pages.saturating_add(bytes.get() / size.get());
            }
        }
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
    pub fn cpus(&self, id: PnodeId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.cpus.saturating_sub(node.claimed))
    }

    /// What is left on one pnode of what a vnode takes.
    pub fn free(&self, id: PnodeId, vnode: &Vnode) -> Free {
        match (vnode.memory, vnode.pages.pool()) {
            (Bytes::ZERO, _) => Free::Cpus(self.cpus(id)),
            (_, Some(size)) => Free::HugePages(self.huge_pages(id, size)),
            (_, None) => Free::Memory(self.memory(id)),
        }
    }

    /// Whether one pnode has room for a vnode's memory.
    pub fn holds(&self, id: PnodeId, vnode: &Vnode) -> bool {
        let need = vnode.memory.get() / vnode.pages.pool().map_or(1, Bytes::get);
        vnode.memory == Bytes::ZERO || self.free(id, vnode).amount() >= need
    }

    /// vCPUs at home on one pnode.
    pub fn claimed(&self, id: PnodeId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.claimed)
    }

    /// CPUs that no vCPU is pinned to, out of `cpus`.
    pub fn unpinned(&self, cpus: &CpuSet) -> CpuSet {
        cpus.difference(&self.pinned)
    }

    /// Notes that a vCPU is pinned to each of `cpus`, which are CPUs of `pnode`.
    pub fn pin(&mut self, pnode: PnodeId, cpus: &CpuSet) {
        if cpus.is_empty() {
            return;
        }
        self.pinned = self.pinned.union(cpus);
        self.claim.add(pnode, &NodeClaim { pinned: cpus.clone(), ..NodeClaim::default() });
    }

    /// Notes that `vcpus` vCPUs are at home on `pnodes`: one after the other where most CPUs are unclaimed, and when
    /// none is, where the fewest vCPUs are for each CPU.
    pub fn take_cpus(&mut self, pnodes: &NodeSet, vcpus: usize) {
        // vCPUs per CPU as a number to compare, in 1/65536.
        let load = |node: &NodeRoom| (node.claimed << 16) / node.cpus.max(1);
        for _ in 0..vcpus {
            let homes = pnodes.iter().filter_map(|id| Some((id, self.nodes.get(&id)?)));
            let rank = |(id, node): &(PnodeId, &NodeRoom)| {
                (Reverse(node.cpus.saturating_sub(node.claimed)), load(node), *id)
            };
            if let Some((id, _)) = homes.min_by_key(rank) {
                self.settle(id, 1);
            }
        }
    }

    /// Notes that `vcpus` vCPUs are at home on one pnode.
    pub fn settle(&mut self, pnode: PnodeId, vcpus: u64) {
        if vcpus == 0 {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&pnode) {
            node.claimed = node.claimed.saturating_add(vcpus);
        }
        self.claim.add(pnode, &NodeClaim { vcpus, ..NodeClaim::default() });
    }

    /// Takes a vnode's memory where it was decided to lie, so much of each pnode.
    pub fn take_exactly(&mut self, vnode: &Vnode, shares: &[(PnodeId, u64)]) {
        let unit = vnode.pages.pool().map_or(Unit::Memory, Unit::Pages);
        for (id, share) in shares {
            self.take([*id].into_iter(), unit, *share);
        }
    }

    /// Takes a vnode's memory from its pnodes, or says what is missing.
    ///
    /// Bound memory lies on each of its pnodes in a part, equal ones as far as there is room; it is bound there part by
    /// part. Interleaved memory is taken in equal shares. Preferred memory goes elsewhere when its pnodes
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
        let grain = if pnodes.len() > 1 { unit.grain() } else { 1 };
        let left = |id: PnodeId| self.left(id, unit) / grain * grain;
        let mut rooms: Vec<(u64, PnodeId)> = pnodes.iter().map(|id| (left(id), id)).collect();
        let all = rooms.iter().fold(0u64, |sum, (room, _)| sum.saturating_add(*room));
        if all < need {
            return Err(self.shortage(unit, vnode, pnodes, need, all));
        }
        // The fullest first: what they cannot take is shared by the others.
        rooms.sort_unstable();
        let (mut rest, mut takers) = (need, rooms.len() as u64);
        for (room, id) in rooms {
            let part = (rest / grain).div_ceil(takers).saturating_mul(grain).min(room).min(rest);
            self.take([id].into_iter(), unit, part);
            rest -= part;
            takers -= 1;
        }
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
            return Err(self.shortage(unit, vnode, &one, share, self.left(id, unit)));
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
            return Err(self.shortage(Unit::Memory, vnode, &all, need, anywhere));
        }
        if here < need {
            shortfalls.push(Shortfall::MemorySpills { memory: vnode.memory, available: Bytes(here) });
        }
        let elsewhere = all.difference(pnodes);
        self.take(pnodes.iter().chain(elsewhere.iter()), Unit::Memory, need);
        Ok(())
    }

    fn shortage(&self, unit: Unit, vnode: &Vnode, pnodes: &NodeSet, need: u64, left: u64) -> PlacementError {
        let (vnode, policy, pnodes) = (vnode.id, vnode.policy, pnodes.clone());
        match unit {
            Unit::Memory => {
                PlacementError::Memory { vnode, pnodes, policy, asked: Bytes(need), available: Bytes(left) }
            }
            Unit::Pages(size) => {
                let pool = pool_directory(self.numa, pnodes.first(), size);
                PlacementError::HugePages { vnode, pnodes, policy, size, asked: need, available: left, pool }
            }
        }
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
            let (memory, huge_pages) = match unit {
                Unit::Memory => (Bytes(taken), BTreeMap::new()),
                Unit::Pages(size) => (Bytes::ZERO, BTreeMap::from([(size, taken)])),
            };
            if taken > 0 {
                self.claim.add(id, &NodeClaim { memory, huge_pages, ..NodeClaim::default() });
            }
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
    /// What parts of a vnode are multiples of.
    fn grain(self) -> u64 {
        match self {
            Self::Memory => MEMORY_UNIT.get(),
            Self::Pages(_) => 1,
        }
    }
}
