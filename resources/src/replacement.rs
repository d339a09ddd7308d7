//! Where a vnode of a running VM goes when it moves: whether the new pnodes can hold it and which CPUs its vCPUs get
//! there. First placement is `placement`'s, carrying it out is `vmm`'s work.

use crate::host::HostTopology;
use crate::ids::{PcpuId, PnodeId, VcpuId, VnodeId};
use crate::placement::{Placement, Reason, VnodePlacement};
use crate::set::{CpuSet, NodeSet};
use crate::spec::{Affinity, MemoryPolicy};
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Why a vnode cannot go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementError {
    /// No such vnode.
    #[error("vnode {0}: does not exist")]
    NoSuchVnode(VnodeId),
    /// Nowhere.
    #[error("pnode: the list is empty, must name a host node")]
    NoPnode,
    /// No such pnode.
    #[error("pnode {pnode}: does not exist, this host has {host}")]
    NoSuchPnode {
        /// As asked.
        pnode: PnodeId,
        /// Those there are.
        host: NodeSet,
    },
    /// A pnode without memory.
    #[error("pnode {0}: has no memory that this process may have")]
    NoMemory(PnodeId),
    /// Not enough of it.
    #[error("pnode {pnodes}: {asked} of vnode {vnode} have to come there, {} are available", .available.human_beside(*.asked))]
    Full {
        /// As asked.
        pnodes: NodeSet,
        /// Whose.
        vnode: VnodeId,
        /// What is not there yet and may be touched.
        asked: Bytes,
        /// What is there for it.
        available: Bytes,
    },
    /// Not enough pages in the pools.
    #[error(
        "pnode {pnodes}: {asked} pages of {size} of vnode {vnode} have to come there, its pool has {free} free"
    )]
    PoolShort {
        /// As asked.
        pnodes: NodeSet,
        /// Whose.
        vnode: VnodeId,
        /// The page size.
        size: Bytes,
        /// Pages needed.
        asked: u64,
        /// Pages free.
        free: u64,
    },
    /// No CPUs anywhere.
    #[error("pnode {0}: no host node has CPUs that this process may run on")]
    NoCpus(NodeSet),
}

impl ReplacementError {
    /// The stable name of the mistake.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchVnode(_) => "no_such_vnode",
            Self::NoPnode => "no_pnode",
            Self::NoSuchPnode { .. } => "no_such_pnode",
            Self::NoMemory(_) => "no_memory_on_pnode",
            Self::Full { .. } => "pnode_full",
            Self::PoolShort { .. } => "pool_short",
            Self::NoCpus(_) => "no_cpus",
        }
    }
}

/// Where `vnode` lies after it moved to `to`. `there` is what of it lies on those pnodes already.
pub fn replace(
    topology: &VmTopology,
    now: &Placement,
    host: &HostTopology,
    vnode: VnodeId,
    to: &NodeSet,
    there: Bytes,
) -> Result<VnodePlacement, ReplacementError> {
    let wanted = topology.vnode(vnode).ok_or(ReplacementError::NoSuchVnode(vnode))?;
    if to.is_empty() {
        return Err(ReplacementError::NoPnode);
    }
    for pnode in to.iter() {
        let found = host.pnode(pnode).ok_or(ReplacementError::NoSuchPnode { pnode, host: host.ids() })?;
        if wanted.memory > Bytes::ZERO && !found.has_memory() {
            return Err(ReplacementError::NoMemory(pnode));
        }
    }
    check_room(wanted, host, to, there)?;
    let cpu_pnodes = home(host, to)?;
    let cpus: CpuSet =
        host.pnodes().iter().filter(|p| cpu_pnodes.contains(p.id)).flat_map(|p| p.cpus.iter()).collect();
    let vcpus = vcpus(wanted, now, host, &cpus);
    let why = Reason::Asked;
    Ok(VnodePlacement { vnode, pnodes: to.clone(), cpu_pnodes, cpus, vcpus, why, shortfalls: Vec::new() })
}

fn check_room(
    vnode: &Vnode,
    host: &HostTopology,
    to: &NodeSet,
    there: Bytes,
) -> Result<(), ReplacementError> {
    let pnodes = || to.iter().filter_map(|id| host.pnode(id));
    let asked = vnode.memory.saturating_sub(there);
    if let Some(size) = vnode.pages.pool() {
        let free: u64 = pnodes().filter_map(|p| p.huge_pages.get(&size)).map(|pool| pool.free).sum();
        let asked = asked.get() / size.get();
        if asked > free {
            return Err(ReplacementError::PoolShort {
                pnodes: to.clone(),
                vnode: vnode.id,
                size,
                asked,
                free,
            });
        }
        return Ok(());
    }
    let available = pnodes().fold(Bytes::ZERO, |sum, pnode| sum.saturating_add(pnode.available()));
    match vnode.policy {
        MemoryPolicy::Preferred => Ok(()),
        MemoryPolicy::Bind | MemoryPolicy::Interleave if asked <= available => Ok(()),
        MemoryPolicy::Bind | MemoryPolicy::Interleave => {
            Err(ReplacementError::Full { pnodes: to.clone(), vnode: vnode.id, asked, available })
        }
    }
}

/// The pnodes out of `to` that have CPUs, or else the nearest that has.
fn home(host: &HostTopology, to: &NodeSet) -> Result<NodeSet, ReplacementError> {
    let own: NodeSet = to.iter().filter(|id| host.pnode(*id).is_some_and(|p| !p.cpus.is_empty())).collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let nearest = host.nearest(to, |pnode| !pnode.cpus.is_empty());
    nearest.map(|pnode| NodeSet::one(pnode.id)).ok_or_else(|| ReplacementError::NoCpus(to.clone()))
}

/// Hard vCPUs get CPUs that no other vnode's vCPU is pinned to, as long as there are enough for the whole vnode.
fn vcpus(vnode: &Vnode, now: &Placement, host: &HostTopology, cpus: &CpuSet) -> BTreeMap<VcpuId, CpuSet> {
    let everyone = |cpus: &CpuSet| vnode.vcpus.iter().map(|vcpu| (vcpu, cpus.clone())).collect();
    match vnode.affinity {
        Affinity::None => everyone(&host.cpus()),
        Affinity::Soft => everyone(cpus),
        Affinity::Hard => {
            let others = now.vnodes.iter().filter(|p| p.vnode != vnode.id).flat_map(|p| p.vcpus.values());
            let pinned: BTreeSet<PcpuId> =
                others.filter(|set| set.len() == 1).filter_map(CpuSet::first).collect();
            let free: Vec<PcpuId> = cpus.iter().filter(|cpu| !pinned.contains(cpu)).collect();
            if free.len() < vnode.vcpus.len() {
                return everyone(cpus);
            }
            vnode.vcpus.iter().zip(free).map(|(vcpu, cpu)| (vcpu, CpuSet::one(cpu))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ReplacementError, replace};
    use crate::placement::Terms;
    use crate::test_host::HostShape;
    use crate::{
        Affinity, Bytes, Fit, HostTopology, Placement, PlacementPolicy, PnodeId, VmSpec, VmTopology, VnodeId,
        VnodeSpec,
    };

    fn vm(affinity: Affinity, host: &HostTopology) -> (VmTopology, Placement) {
        let vnode = |id: u32| VnodeSpec {
            memory: Some(Bytes::gib(1)),
            vcpus: Some(format!("{}-{}", id * 2, id * 2 + 1).parse().unwrap()),
            pnode: Some(id.to_string().parse().unwrap()),
            affinity: Some(affinity),
            ..VnodeSpec::new(id)
        };
        let topology =
            VmTopology::try_from(&VmSpec { numa: vec![vnode(0), vnode(1)], ..VmSpec::default() }).unwrap();
        let ledger = crate::Ledger::new();
        let terms = Terms { policy: PlacementPolicy::Auto, fit: Fit::Prefer, ledger: &ledger };
        let placement = Placement::new(&topology, host, &terms).unwrap();
        (topology, placement)
    }

    #[test]
    fn a_vnode_takes_its_vcpus_along() {
        let host = HostShape::new(2).topology();
        let (topology, now) = vm(Affinity::Soft, &host);
        let to = "1".parse().unwrap();
        let moved = replace(&topology, &now, &host, VnodeId(0), &to, Bytes::ZERO).unwrap();
        let cpus = &host.pnode(PnodeId(1)).unwrap().cpus;
        assert_eq!(moved.pnodes, to);
        assert!(moved.vcpus.values().all(|set| set == cpus));
    }

    #[test]
    fn pinned_vcpus_do_not_share_while_there_are_cpus() {
        let host = HostShape::new(2).cpus(0, "0-3").cpus(1, "4-7").topology();
        let (topology, now) = vm(Affinity::Hard, &host);
        let moved = replace(&topology, &now, &host, VnodeId(0), &"1".parse().unwrap(), Bytes::ZERO).unwrap();
        let cpus: Vec<String> = moved.vcpus.values().map(ToString::to_string).collect();
        assert_eq!(cpus, ["6", "7"]);
        let host = HostShape::new(2).topology();
        let (topology, now) = vm(Affinity::Hard, &host);
        let moved = replace(&topology, &now, &host, VnodeId(0), &"1".parse().unwrap(), Bytes::ZERO).unwrap();
        assert!(moved.vcpus.values().all(|set| *set == moved.cpus));
    }

    #[test]
    fn what_is_there_already_needs_no_room() {
        let host = HostShape::new(2).free(1, Bytes::mib(600), Bytes::ZERO).topology();
        let (topology, now) = vm(Affinity::Soft, &HostShape::new(2).topology());
        let ask = |there| replace(&topology, &now, &host, VnodeId(0), &"1".parse().unwrap(), there);
        assert!(matches!(ask(Bytes::ZERO), Err(ReplacementError::Full { .. })));
        assert!(ask(Bytes::mib(900)).is_ok());
    }

    #[test]
    fn a_pnode_that_is_not_there_is_refused() {
        let host = HostShape::new(2).topology();
        let (topology, now) = vm(Affinity::Soft, &host);
        let error =
            replace(&topology, &now, &host, VnodeId(0), &"7".parse().unwrap(), Bytes::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "pnode 7: does not exist, this host has 0-1");
    }
}
