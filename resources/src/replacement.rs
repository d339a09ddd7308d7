//! Moves of vnodes of a running VM: whether the new pnodes have room, and the CPUs of its vCPUs there; also moves of
//! vCPUs alone. First placement is in `placement`; `vmm` carries moves out.

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::host::HostTopology;
use crate::ids::{PnodeId, VnodeId};
use crate::ledger::{Claim, Ledger, NodeClaim};
use crate::placement::room::Room;
use crate::placement::{Placement, PlacementError, Reason, VnodePlacement, cpus, place_together, with_cpus};
use crate::set::{CpuSet, NodeSet};
use crate::spec::Affinity;
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;
use std::collections::BTreeMap;

/// Why a vnode cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementError {
    /// No such vnode.
    #[error("vnode {0}: does not exist")]
    NoSuchVnode(VnodeId),
    /// An empty list.
    #[error("pnode: the list is empty, must name a host node")]
    NoPnode,
    /// No such pnode.
    #[error("pnode {pnode}: does not exist, this host has {host}")]
    NoSuchPnode {
        /// As requested.
        pnode: PnodeId,
        /// The existing ones.
        host: NodeSet,
    },
    /// A pnode without memory.
    #[error("pnode {0}: has no memory that this process may use")]
    NoMemory(PnodeId),
    /// Not enough of it.
    #[error("pnode {pnodes}: {asked} of vnode {vnode} must fit there, {} are available", .available.human_beside(*.asked))]
    Full {
        /// As requested.
        pnodes: NodeSet,
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// Memory that is not there yet.
        asked: Bytes,
        /// Memory available there.
        available: Bytes,
    },
    /// Not enough pages in the pools.
    #[error(
        "pnode {pnodes}: {asked} pages of {size} of vnode {vnode} must fit there, its pool has {free} free"
    )]
    PoolShort {
        /// As requested.
        pnodes: NodeSet,
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// The page size.
        size: Bytes,
        /// Pages needed.
        asked: u64,
        /// Pages free.
        free: u64,
    },
    /// A vnode cannot be swapped with itself.
    #[error("vnode {0}: is given twice, must be two different vnodes")]
    SwapWithItself(VnodeId),
    /// The vnodes of a pnode fit nowhere else.
    #[error("pnode {pnode}: cannot be evacuated: {why}")]
    Nowhere {
        /// The pnode.
        pnode: PnodeId,
        /// What is missing elsewhere.
        why: Box<PlacementError>,
    },
    /// No CPUs anywhere.
    #[error("pnode {0}: no host node has CPUs that this process may run on")]
    NoCpus(NodeSet),
}

impl ReplacementError {
    /// The kind of error, its code and its field.
    pub fn diagnosis(&self) -> Diagnosis {
        let kind = match self {
            Self::NoSuchVnode(_) => ErrorKind::NotFound,
            Self::NoPnode | Self::NoSuchPnode { .. } | Self::NoMemory(_) => ErrorKind::Invalid,
            Self::SwapWithItself(_) => {
                return Diagnosis::new(ErrorKind::Invalid, self.code()).at("vnodes");
            }
            Self::NoCpus(_) => ErrorKind::Forbidden,
            Self::Full { .. } | Self::PoolShort { .. } | Self::Nowhere { .. } => ErrorKind::NoRoom,
        };
        let diagnosis = Diagnosis::new(kind, self.code());
        if kind == ErrorKind::NotFound { diagnosis } else { diagnosis.at("pnode") }
    }

    /// The stable error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchVnode(_) => "no_such_vnode",
            Self::NoPnode => "no_pnode",
            Self::NoSuchPnode { .. } => "no_such_pnode",
            Self::NoMemory(_) => "no_memory_on_pnode",
            Self::Full { .. } => "pnode_full",
            Self::PoolShort { .. } => "pool_short",
            Self::SwapWithItself(_) => "swap_with_itself",
            Self::Nowhere { .. } => "nowhere_else",
            Self::NoCpus(_) => "no_cpus",
        }
    }
}

/// What has to be known of a vnode that is to move.
#[derive(Debug, Clone, Copy)]
pub struct Mover<'a> {
    /// The vnode or vCPU.
    pub vnode: VnodeId,
    /// How its vCPUs are held.
    pub affinity: Affinity,
    /// What of it lies where.
    pub residency: &'a BTreeMap<PnodeId, Bytes>,
    /// The claims of all others: other VMs, and the other vnodes of this one.
    pub ledger: &'a Ledger,
}

/// What has to be known of several.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What of each vnode that moves lies where.
    pub residency: &'a BTreeMap<VnodeId, BTreeMap<PnodeId, Bytes>>,
    /// The claims of all others: other VMs, and the vnodes of this one that do not move.
    pub ledger: &'a Ledger,
}

/// Where two vnodes lie after each moved into the other's place. Each has the room that the other leaves, if both have
/// the same kind of memory.
pub fn swap(
    topology: &VmTopology,
    host: &HostTopology,
    now: &Placement,
    vnodes: [VnodeId; 2],
    seen: &Seen<'_>,
) -> Result<Vec<VnodePlacement>, ReplacementError> {
    let [a, b] = vnodes;
    let found = |id: VnodeId| topology.vnode(id).ok_or(ReplacementError::NoSuchVnode(id));
    let at = |id: VnodeId| now.vnodes.get(id.index()).ok_or(ReplacementError::NoSuchVnode(id));
    if a == b {
        return Err(ReplacementError::SwapWithItself(a));
    }
    let alike = found(a)?.pages.pool() == found(b)?.pages.pool();
    let credit = |id: VnodeId| {
        let both = seen.residency.iter().filter(|(vnode, _)| alike || **vnode == id);
        let mut sum: BTreeMap<PnodeId, Bytes> = BTreeMap::new();
        for (pnode, bytes) in both.flat_map(|(_, on)| on) {
            let here = sum.entry(*pnode).or_default();
            *here = here.saturating_add(*bytes);
        }
        sum
    };
    let first = Mover { vnode: a, affinity: at(a)?.affinity, residency: &credit(a), ledger: seen.ledger };
    let first = replace(topology, host, &first, &at(b)?.pnodes)?;
    let mut ledger = seen.ledger.clone();
    ledger.add(&first.claim, &Claim::default());
    let second = Mover { vnode: b, affinity: at(b)?.affinity, residency: &credit(b), ledger: &ledger };
    let second = replace(topology, host, &second, &at(a)?.pnodes)?;
    Ok(vec![first, second])
}

/// Where `vnodes` lie after nothing of them is on `pnode` any more: together in the best places, as `auto` would have
/// it beside the vnodes that stay.
pub fn evacuate(
    topology: &VmTopology,
    host: &HostTopology,
    now: &Placement,
    pnode: PnodeId,
    vnodes: &[VnodeId],
    seen: &Seen<'_>,
) -> Result<Vec<VnodePlacement>, ReplacementError> {
    let others: NodeSet = host.ids().iter().filter(|id| *id != pnode).collect();
    let cpus = host.pnodes().iter().filter(|p| p.id != pnode).flat_map(|p| p.cpus.iter()).collect();
    let host = host.clone().restricted_to(&cpus, &others);
    let mut room = Room::new(&host, seen.ledger);
    let mut moving = Vec::with_capacity(vnodes.len());
    for &id in vnodes {
        let at = now.vnodes.get(id.index()).ok_or(ReplacementError::NoSuchVnode(id))?;
        let vnode = held(topology, id, at.affinity)?;
        // What a vnode has elsewhere it keeps, or leaves to another of them.
        for (on, bytes) in seen.residency.get(&id).into_iter().flatten().filter(|(on, _)| **on != pnode) {
            room.credit(*on, &vnode, *bytes);
        }
        moving.push(vnode);
    }
    let given: Vec<VnodePlacement> =
        now.vnodes.iter().filter(|at| !vnodes.contains(&at.vnode)).cloned().collect();
    let nowhere = |why| ReplacementError::Nowhere { pnode, why: Box::new(why) };
    let moving: Vec<&Vnode> = moving.iter().collect();
    place_together(topology, &host, &moving, &given, room, seen.ledger).map_err(nowhere)
}

/// Where a vnode lies after it moved to `to`, and what it takes there. What of it is there already needs no room.
pub fn replace(
    topology: &VmTopology,
    host: &HostTopology,
    mover: &Mover<'_>,
    to: &NodeSet,
) -> Result<VnodePlacement, ReplacementError> {
    let wanted = &held(topology, mover.vnode, mover.affinity)?;
    for found in all_of(to, host)? {
        let pnode = found.id;
        if wanted.memory > Bytes::ZERO && !(found.has_memory() && found.memory_allowed) {
            return Err(ReplacementError::NoMemory(pnode));
        }
    }
    let mut room = Room::new(host, mover.ledger);
    for (pnode, bytes) in mover.residency {
        room.credit(*pnode, wanted, *bytes);
    }
    let mut shortfalls = Vec::new();
    let no_cpus = |_: PlacementError| ReplacementError::NoCpus(to.clone());
    let pins = cpus::pinned_there(topology, host);
    room.take_memory(wanted, to, &mut shortfalls).map_err(|error| refusal(error, wanted, mover, to))?;
    let cpu_pnodes = cpus::home(wanted, to, host, &mut shortfalls).map_err(no_cpus)?;
    shortfalls.extend(cpus::lost(wanted, topology, &pins));
    Ok(with_cpus(wanted, to.clone(), cpu_pnodes, host, &pins, &mut room, Reason::Asked, shortfalls))
}

/// Where a vnode lies after its vCPUs went to the CPUs of `home`, held as `affinity` says; its memory stays. Pinned vCPUs
/// stay too. `ledger` is what all others were promised.
pub fn rehome(
    topology: &VmTopology,
    host: &HostTopology,
    now: &VnodePlacement,
    (affinity, home): (Affinity, &NodeSet),
    ledger: &Ledger,
) -> Result<VnodePlacement, ReplacementError> {
    let vnode = held(topology, now.vnode, affinity)?;
    all_of(home, host)?;
    let mut shortfalls = Vec::new();
    let no_cpus = |_: PlacementError| ReplacementError::NoCpus(home.clone());
    let cpu_pnodes = cpus::home(&vnode, home, host, &mut shortfalls).map_err(no_cpus)?;
    let pins = cpus::pinned_there(topology, host);
    shortfalls.extend(cpus::lost(&vnode, topology, &pins));
    let (mut room, pnodes, why) = (Room::new(host, ledger), now.pnodes.clone(), now.why.clone());
    let mut at = with_cpus(&vnode, pnodes, cpu_pnodes, host, &pins, &mut room, why, shortfalls);
    at.parts.clone_from(&now.parts);
    for (pnode, node) in &now.claim.pnodes {
        let memory = NodeClaim { vcpus: 0, pinned: CpuSet::new(), ..node.clone() };
        if memory != NodeClaim::default() {
            at.claim.add(*pnode, &memory);
        }
    }
    Ok(at)
}

/// The vnode with its vCPUs held as they are now.
fn held(topology: &VmTopology, id: VnodeId, affinity: Affinity) -> Result<Vnode, ReplacementError> {
    let vnode = topology.vnode(id).ok_or(ReplacementError::NoSuchVnode(id))?;
    Ok(Vnode { affinity, ..vnode.clone() })
}

/// The pnodes of a list: one at least, and all there.
fn all_of<'a>(
    pnodes: &NodeSet,
    host: &'a HostTopology,
) -> Result<Vec<&'a crate::host::Pnode>, ReplacementError> {
    if pnodes.is_empty() {
        return Err(ReplacementError::NoPnode);
    }
    let found =
        |pnode| host.pnode(pnode).ok_or_else(|| ReplacementError::NoSuchPnode { pnode, host: host.ids() });
    pnodes.iter().map(found).collect()
}

/// What `placement` says of a vnode that is not there yet, for one that is there in part.
fn refusal(error: PlacementError, vnode: &Vnode, mover: &Mover<'_>, to: &NodeSet) -> ReplacementError {
    let there = |pnodes: &NodeSet| {
        let here = mover.residency.iter().filter(|(pnode, _)| pnodes.contains(**pnode));
        here.fold(Bytes::ZERO, |sum, (_, bytes)| sum.saturating_add(*bytes))
    };
    match error {
        PlacementError::Memory { pnodes, asked, available, .. } => {
            let there = there(&pnodes);
            let (asked, available) = (asked.saturating_sub(there), available.saturating_sub(there));
            ReplacementError::Full { pnodes, vnode: vnode.id, asked, available }
        }
        PlacementError::HugePages { pnodes, size, asked, available, .. } => {
            let there = there(&pnodes).get() / size.get();
            let (asked, free) = (asked.saturating_sub(there), available.saturating_sub(there));
            ReplacementError::PoolShort { pnodes, vnode: vnode.id, size, asked, free }
        }
        // Nothing else comes of taking memory.
        _ => ReplacementError::NoMemory(to.first().unwrap_or(PnodeId(0))),
    }
}

#[cfg(test)]
mod tests;
