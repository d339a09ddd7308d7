//! Which pnodes and host CPUs each vnode gets, and why. Carrying it out is `vmm`'s work.

mod cpus;
mod error;
mod room;

use crate::host::{HostTopology, Pnode};
use crate::ids::{PnodeId, VcpuId, VnodeId};
use crate::placement::room::Room;
use crate::set::{CpuSet, NodeSet};
use crate::spec::MemoryPolicy;
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

use cpus::Pins;

pub use error::PlacementError;

/// Where every vnode lies and where every vCPU may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// By vnode id.
    pub vnodes: Vec<VnodePlacement>,
}

/// Where one vnode lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VnodePlacement {
    /// The vnode.
    pub vnode: VnodeId,
    /// The pnodes that hold its memory: each has some, so Linux takes them in a policy. For a vnode without memory,
    /// the pnodes it belongs to.
    pub pnodes: NodeSet,
    /// The pnodes that its vCPUs are at home on: those asked for or chosen that have CPUs, or else the nearest.
    pub cpu_pnodes: NodeSet,
    /// The host CPUs of `cpu_pnodes`: threads that work for the vnode run there.
    pub cpus: CpuSet,
    /// The host CPUs that each of its vCPUs may run on.
    pub vcpus: BTreeMap<VcpuId, CpuSet>,
    /// Why these pnodes.
    pub why: Reason,
    /// What is not as wished.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shortfalls: Vec<Shortfall>,
}

/// Why a vnode lies where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// The user named the pnodes.
    Asked,
    /// The pnode with the most memory left, after the vnodes before this one.
    MostFreeMemory {
        /// What was left there.
        free: Bytes,
    },
    /// The pnode with the most huge pages of the wanted size left, after the vnodes before this one.
    MostFreeHugePages {
        /// How many were left there.
        free: u64,
    },
    /// A vnode without memory: the pnode with the most host CPUs not yet given to a vCPU of this VM.
    MostFreeCpus {
        /// How many were left.
        free: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::MostFreeMemory { free } => write!(f, "most free memory ({})", free.human()),
            Self::MostFreeHugePages { free } => write!(f, "most free huge pages ({free})"),
            Self::MostFreeCpus { free } => write!(f, "most free CPUs ({free})"),
        }
    }
}

/// Something that was wished and that this host does not have; the VM starts all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "shortfall", rename_all = "kebab-case")]
pub enum Shortfall {
    /// `affinity=hard`, but there are not enough CPUs left for one each: the vCPUs share all CPUs of their pnodes.
    SharedCpus {
        /// vCPUs of the vnode.
        vcpus: usize,
        /// CPUs that no vCPU of this VM was pinned to.
        left: usize,
    },
    /// None of the pnodes has CPUs: the vCPUs run on the nearest that has.
    CpusElsewhere {
        /// Without CPUs.
        pnodes: NodeSet,
        /// Where they run.
        nearest: PnodeId,
    },
    /// `policy=preferred` and none of the pnodes has memory: the nearest that has holds it.
    MemoryElsewhere {
        /// Without memory.
        pnodes: NodeSet,
        /// Where it lies.
        nearest: PnodeId,
    },
    /// `policy=preferred` and the pnodes have less than was asked: the rest lies elsewhere.
    MemorySpills {
        /// The vnode's memory.
        memory: Bytes,
        /// What its pnodes have.
        available: Bytes,
    },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedCpus { vcpus, left } => {
                write!(
                    f,
                    "its {vcpus} vCPUs share the CPUs of their pnodes, which have {left} left to pin to"
                )
            }
            Self::CpusElsewhere { pnodes, nearest } => {
                write!(
                    f,
                    "its vCPUs run on pnode {nearest}, the nearest with CPUs, as pnode {pnodes} has none"
                )
            }
            Self::MemoryElsewhere { pnodes, nearest } => {
                write!(
                    f,
                    "memory lies on pnode {nearest}, the nearest with memory, as pnode {pnodes} has none"
                )
            }
            Self::MemorySpills { memory, available } => {
                let (memory, available) = (memory.human(), available.human());
                write!(f, "of its {memory} only {available} fit on its pnodes, the rest lies elsewhere")
            }
        }
    }
}

impl Placement {
    /// Places the vnodes one after another, each on the pnodes asked for, or else on the one with the most room;
    /// what a vnode takes is gone for those after it. Fails when a strict wish cannot be kept, with the numbers.
    pub fn new(topology: &VmTopology, host: &HostTopology) -> Result<Self, PlacementError> {
        let mut room = Room::new(host);
        let pins = cpus::pinned(topology, host)?;
        // A CPU that one vCPU alone was pinned to is no other vCPU's.
        pins.values().filter(|cpus| cpus.len() == 1).for_each(|cpu| room.pin(cpu));
        let vnodes = topology.vnodes().iter().map(|vnode| place(vnode, host, &pins, &mut room));
        Ok(Self { vnodes: vnodes.collect::<Result<_, _>>()? })
    }
}

fn place(
    vnode: &Vnode,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
) -> Result<VnodePlacement, PlacementError> {
    let mut shortfalls = Vec::new();
    let (home, why) = match &vnode.asked {
        Some(asked) => (asked.clone(), Reason::Asked),
        None => choose(vnode, host, pins, room)?,
    };
    check_exists(vnode, &home, host)?;
    let pnodes = memory_pnodes(vnode, &home, host, &mut shortfalls)?;
    room.take_memory(vnode, &pnodes, &mut shortfalls)?;
    let cpu_pnodes = cpus::home(vnode, &home, host, &mut shortfalls)?;
    let cpus: CpuSet = host
        .pnodes()
        .iter()
        .filter(|pnode| cpu_pnodes.contains(pnode.id))
        .flat_map(|pnode| pnode.cpus.iter())
        .collect();
    let vcpus = cpus::spread(vnode, &cpu_pnodes, host, pins, room, &mut shortfalls);
    Ok(VnodePlacement { vnode: vnode.id, pnodes, cpu_pnodes, cpus, vcpus, why, shortfalls })
}

fn check_exists(vnode: &Vnode, home: &NodeSet, host: &HostTopology) -> Result<(), PlacementError> {
    match home.iter().find(|id| host.pnode(*id).is_none()) {
        Some(pnode) => Err(PlacementError::NoSuchPnode { vnode: vnode.id, pnode, host: host.ids() }),
        None => Ok(()),
    }
}

/// Where the memory of a vnode lies: Linux's policies take only nodes with memory, and this process must be allowed
/// to have memory there. A preference without any such node moves to the nearest.
fn memory_pnodes(
    vnode: &Vnode,
    home: &NodeSet,
    host: &HostTopology,
    shortfalls: &mut Vec<Shortfall>,
) -> Result<NodeSet, PlacementError> {
    if vnode.memory == Bytes::ZERO {
        return Ok(home.clone());
    }
    let usable = |pnode: &Pnode| pnode.has_memory() && pnode.memory_allowed;
    let pnodes: NodeSet = home.iter().filter(|id| host.pnode(*id).is_some_and(usable)).collect();
    if pnodes == *home {
        return Ok(pnodes);
    }
    let strict = match vnode.policy {
        MemoryPolicy::Bind | MemoryPolicy::Interleave => true,
        MemoryPolicy::Preferred => false,
    };
    if strict && let Some(pnode) = home.difference(&pnodes).iter().find_map(|id| host.pnode(id)) {
        let (vnode, policy) = (vnode.id, vnode.policy);
        return Err(match pnode.has_memory() {
            true => PlacementError::MemoryForbidden { vnode, pnode: pnode.id, policy },
            false => PlacementError::NoMemory { vnode, pnode: pnode.id, policy },
        });
    }
    if !pnodes.is_empty() {
        return Ok(pnodes);
    }
    let nearest = host.nearest(home, usable).ok_or(PlacementError::NoMemoryAnywhere { vnode: vnode.id })?.id;
    shortfalls.push(Shortfall::MemoryElsewhere { pnodes: home.clone(), nearest });
    Ok(NodeSet::one(nearest))
}

/// The pnode with the most room for a vnode that named none: among those with CPUs that its vCPUs are pinned to, if
/// any are.
fn choose(
    vnode: &Vnode,
    host: &HostTopology,
    pins: &Pins,
    room: &Room,
) -> Result<(NodeSet, Reason), PlacementError> {
    let pinned: Vec<&CpuSet> = vnode.vcpus.iter().filter_map(|vcpu| pins.get(&vcpu)).collect();
    let for_its_vcpus = |pnode: &Pnode| match pinned.is_empty() {
        true => !pnode.cpus.is_empty(),
        false => pinned.iter().any(|cpus| !cpus.intersection(&pnode.cpus).is_empty()),
    };
    let most = |wanted: &dyn Fn(&Pnode) -> bool, left: &dyn Fn(PnodeId) -> u64| {
        let candidates = host.pnodes().iter().filter(|pnode| wanted(pnode));
        // Of equals max_by_key takes the last: so the lowest id.
        candidates.rev().map(|pnode| (left(pnode.id), pnode.id)).max_by_key(|(left, _)| *left)
    };
    if vnode.memory == Bytes::ZERO {
        let left = |id: PnodeId| room.cpus(id) as u64;
        let (free, id) = most(&for_its_vcpus, &left).ok_or(PlacementError::NoCpus { vnode: vnode.id })?;
        return Ok((
            NodeSet::one(id),
            Reason::MostFreeCpus { free: usize::try_from(free).unwrap_or(usize::MAX) },
        ));
    }
    let usable = |pnode: &Pnode| pnode.has_memory() && pnode.memory_allowed;
    let with_cpus = |pnode: &Pnode| usable(pnode) && (vnode.vcpus.is_empty() || for_its_vcpus(pnode));
    let (need, pool) = match vnode.pages.pool() {
        Some(size) => (vnode.memory.get() / size.get(), Some(size)),
        None => (vnode.memory.get(), None),
    };
    let left = |id: PnodeId| match pool {
        Some(size) => room.huge_pages(id, size),
        None => room.memory(id).get(),
    };
    let near = most(&with_cpus, &left);
    let any = most(&usable, &left);
    let fits = |found: &Option<(u64, PnodeId)>| found.is_some_and(|(left, _)| left >= need);
    let found = if fits(&near) || !fits(&any) { near.or(any) } else { any };
    let (free, id) = found.ok_or(PlacementError::NoMemoryAnywhere { vnode: vnode.id })?;
    let why = match pool {
        Some(_) => Reason::MostFreeHugePages { free },
        None => Reason::MostFreeMemory { free: Bytes(free) },
    };
    Ok((NodeSet::one(id), why))
}

#[cfg(test)]
mod tests;
