//! Which pnodes and host CPUs each vnode gets, and why. Carrying it out is `vmm`'s work.
//!
//! Vnodes that name pnodes come first, in the order of their ids; `decide` chooses for the others together.

mod budget;
mod choose;
pub(crate) mod cpus;
mod decide;
mod error;
pub mod explain;
mod greedy;
mod lay;
mod miss;
mod pack;
mod pairs;
mod problem;
mod reason;
pub(crate) mod room;
mod spread;

use crate::host::{HostTopology, Pnode};
use crate::ids::{PnodeId, VcpuId, VnodeId};
use crate::ledger::{Claim, Ledger, NodeClaim};
use crate::placement::budget::Budget;
use crate::placement::cpus::Pins;
use crate::placement::decide::Question;
use crate::placement::pairs::Pairs;
use crate::placement::problem::{Amounts, CPUS};
use crate::placement::room::Room;
use crate::set::{CpuSet, NodeSet};
use crate::spec::{Affinity, Fit, MemoryPolicy, PlacementPolicy};
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;
use serde::Serialize;
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;

pub use budget::{Effort, MAX_BYTES, MAX_WORK};
pub use error::PlacementError;
pub use explain::Decision;
pub use reason::{Free, Reason, Shortfall};

/// The rules to place by, and what others have.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How pnodes are chosen for vnodes that name none.
    pub policy: PlacementPolicy,
    /// What happens when these fit nowhere as they are.
    pub fit: Fit,
    /// The claims of running VMs.
    pub ledger: &'a Ledger,
}

/// What the placements of one plan on one host share: their budget, and the host's distances in a compact form.
#[derive(Debug, Default)]
pub struct Workspace {
    budget: Budget,
    pairs: OnceCell<Rc<Pairs>>,
}

impl Workspace {
    /// What was used so far.
    pub fn effort(&self) -> Effort {
        self.budget.effort()
    }

    /// Whether all of the work is done.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }

    fn pairs(&self, host: &HostTopology) -> Rc<Pairs> {
        let of = |from, to| host.distances().get(from, to).map_or(255, |distance| u16::from(distance.get()));
        let count = host.pnodes().len();
        let all = || Rc::new(Pairs::from_fn(count, |a, b| of(a, b) + of(b, a)));
        self.pairs.get_or_init(all).clone()
    }
}

/// Where every vnode lies and where every vCPU may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// By vnode id.
    pub vnodes: Vec<VnodePlacement>,
    /// How the pnodes of vnodes that named none were chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// What the VM takes of each pnode.
    pub claim: Claim,
}

/// Memory of a vnode on one pnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPart {
    /// Where.
    pub pnode: PnodeId,
    /// How much.
    pub size: Bytes,
}

/// Where one vnode lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VnodePlacement {
    /// The vnode.
    pub vnode: VnodeId,
    /// The pnodes that hold its memory: each has some, so Linux takes them in a policy. For a vnode without memory,
    /// the pnodes it belongs to.
    pub pnodes: NodeSet,
    /// How much of its memory lies on each of `pnodes`, in this order of its addresses, if it is bound to several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<MemoryPart>,
    /// The pnodes that its vCPUs are at home on: those asked for or chosen that have CPUs, or else the nearest.
    pub cpu_pnodes: NodeSet,
    /// The host CPUs of `cpu_pnodes`: threads that work for the vnode run there.
    pub cpus: CpuSet,
    /// The host CPUs that each of its vCPUs may run on.
    pub vcpus: BTreeMap<VcpuId, CpuSet>,
    /// How its vCPUs are held there: as asked for at start, or since.
    #[serde(skip)]
    pub affinity: Affinity,
    /// Why these pnodes.
    pub why: Reason,
    /// Differences from the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shortfalls: Vec<Shortfall>,
    /// What the vnode takes of each pnode.
    #[serde(skip)]
    pub claim: Claim,
}

impl Placement {
    /// Places the vnodes that name pnodes there, one after another, and the others where `terms` has it; what a
    /// vnode takes is gone for those after it. Fails when a strict wish cannot be kept, with the numbers.
    pub fn new(
        topology: &VmTopology,
        host: &HostTopology,
        terms: &Terms<'_>,
        workspace: &Workspace,
    ) -> Result<Self, PlacementError> {
        let mut room = Room::new(host, terms.ledger);
        let pins = cpus::pinned(topology, host)?;
        // A CPU that one vCPU alone was pinned to is no other vCPU's.
        for cpus in pins.values().filter(|cpus| cpus.len() == 1) {
            let home = host.pnodes().iter().filter(|pnode| pnode.cpus.meets(cpus));
            home.for_each(|pnode| room.pin(pnode.id, cpus));
        }
        // Counted with the vnodes of these vCPUs.
        room.take_claim();
        let mut placed = Vec::with_capacity(topology.vnodes().len());
        for vnode in topology.vnodes() {
            if let Some(asked) = &vnode.asked {
                placed.push(place_asked(vnode, asked, host, &pins, &mut room)?);
            }
        }
        let mut vnodes: Vec<&Vnode> =
            topology.vnodes().iter().filter(|vnode| vnode.asked.is_none()).collect();
        check_usable(&vnodes, host, topology.takes_device_memory())?;
        for vnode in std::mem::take(&mut vnodes) {
            match follow_pins(vnode, host, &pins, &mut room)? {
                Some(at) => placed.push(at),
                None => vnodes.push(vnode),
            }
        }
        let mut decision = None;
        if !vnodes.is_empty() {
            let given = &placed;
            let question = Question {
                topology,
                vnodes: &vnodes,
                given,
                host,
                room: &room,
                pins: &pins,
                terms,
                workspace,
            };
            let decided = question.decide()?;
            for (vnode, shares) in vnodes.iter().zip(&decided.shares) {
                placed.push(place_chosen(vnode, shares, host, &pins, &mut room, terms.policy)?);
            }
            decision = Some(decided.decision);
        }
        placed.sort_by_key(|at| at.vnode);
        let claim = placed.iter().map(|at| &at.claim).sum();
        Ok(Self { vnodes: placed, decision, claim })
    }
}

/// A vnode whose vCPUs are pinned lies where most of these pins are, if it has room there: of equals where most is
/// free, then the lowest. What has none is decided on like the others.
fn follow_pins(
    vnode: &Vnode,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
) -> Result<Option<VnodePlacement>, PlacementError> {
    let pinned: Vec<&CpuSet> = vnode.vcpus.iter().filter_map(|vcpu| pins.get(&vcpu)).collect();
    let here = |pnode: &Pnode| pinned.iter().filter(|cpus| cpus.meets(&pnode.cpus)).count();
    let usable = |pnode: &&Pnode| {
        let memory = vnode.memory == Bytes::ZERO || (pnode.has_memory() && pnode.memory_allowed);
        memory && here(pnode) > 0 && room.holds(pnode.id, vnode)
    };
    let rank = |pnode: &&Pnode| (here(pnode), room.free(pnode.id, vnode).amount(), Reverse(pnode.id));
    let Some(pnode) = host.pnodes().iter().filter(usable).max_by_key(rank) else { return Ok(None) };
    let (home, free) = (NodeSet::one(pnode.id), room.free(pnode.id, vnode));
    let mut shortfalls = Vec::new();
    room.take_memory(vnode, &home, &mut shortfalls)?;
    let why = Reason::Pinned { free };
    Ok(Some(with_cpus(vnode, home.clone(), home, host, pins, room, why, shortfalls)))
}

fn place_asked(
    vnode: &Vnode,
    home: &NodeSet,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
) -> Result<VnodePlacement, PlacementError> {
    let mut shortfalls = Vec::new();
    check_exists(vnode, home, host)?;
    let pnodes = memory_pnodes(vnode, home, host, &mut shortfalls)?;
    room.take_memory(vnode, &pnodes, &mut shortfalls)?;
    let cpu_pnodes = cpus::home(vnode, home, host, &mut shortfalls)?;
    Ok(with_cpus(vnode, pnodes, cpu_pnodes, host, pins, room, Reason::Asked, shortfalls))
}

/// Places vnodes together in the best places beside those that are given, as `auto` has it, whatever pnodes they named;
/// vCPUs that were pinned stay where they are.
pub(crate) fn place_together(
    topology: &VmTopology,
    host: &HostTopology,
    vnodes: &[&Vnode],
    given: &[VnodePlacement],
    mut room: Room,
    ledger: &Ledger,
) -> Result<Vec<VnodePlacement>, PlacementError> {
    let pins = cpus::pinned_there(topology, host);
    let terms = Terms { policy: PlacementPolicy::Auto, fit: Fit::Prefer, ledger };
    check_usable(vnodes, host, topology.takes_device_memory())?;
    let workspace = &Workspace::default();
    let question =
        Question { topology, vnodes, given, host, room: &room, pins: &pins, terms: &terms, workspace };
    let decided = question.decide()?;
    let mut placed = Vec::with_capacity(vnodes.len());
    for (vnode, shares) in vnodes.iter().zip(&decided.shares) {
        let mut at = place_chosen(vnode, shares, host, &pins, &mut room, terms.policy)?;
        at.shortfalls.extend(cpus::lost(vnode, topology, &pins));
        placed.push(at);
    }
    Ok(placed)
}

/// Takes what was decided. The numbers are known to fit but for one thing: the equal parts that `interleave` wants of
/// several pnodes.
fn place_chosen(
    vnode: &Vnode,
    shares: &[(PnodeId, Amounts)],
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
    policy: PlacementPolicy,
) -> Result<VnodePlacement, PlacementError> {
    let mut shortfalls = Vec::new();
    let all: NodeSet = shares.iter().map(|(id, _)| *id).collect();
    let amount = |amounts: &Amounts| amounts[..CPUS].iter().copied().max().unwrap_or(0);
    let memory: Vec<(PnodeId, u64)> =
        shares.iter().map(|(id, amounts)| (*id, amount(amounts))).filter(|(_, amount)| *amount > 0).collect();
    let with_memory: NodeSet = memory.iter().map(|(id, _)| *id).collect();
    let with_vcpus: NodeSet =
        shares.iter().filter(|(_, amounts)| amounts[CPUS] > 0).map(|(id, _)| *id).collect();
    let why = match shares {
        [(only, _)] => Reason::Chosen { policy, free: room.free(*only, vnode) },
        _ => {
            shortfalls.push(match with_memory.len() {
                0 | 1 if !with_vcpus.is_empty() && !with_memory.is_empty() => {
                    Shortfall::Apart { memory: with_memory.clone(), cpus: with_vcpus.clone() }
                }
                _ => Shortfall::Spread { pnodes: all.clone() },
            });
            Reason::Spread { policy }
        }
    };
    match (vnode.policy, shares) {
        (MemoryPolicy::Interleave, [_, _, ..]) => room.take_memory(vnode, &with_memory, &mut shortfalls)?,
        (MemoryPolicy::Bind | MemoryPolicy::Preferred | MemoryPolicy::Interleave, _) => {
            room.take_exactly(vnode, &memory)
        }
    }
    let pnodes = if with_memory.is_empty() { all.clone() } else { with_memory };
    let near = if with_vcpus.is_empty() { all } else { with_vcpus };
    let cpu_pnodes = cpus::home(vnode, &near, host, &mut shortfalls)?;
    let left: u64 = cpu_pnodes.iter().map(|id| room.cpus(id)).sum();
    let mut placed = with_cpus(vnode, pnodes, cpu_pnodes, host, pins, room, why, shortfalls);
    let told = placed.shortfalls.iter().any(|shortfall| matches!(shortfall, Shortfall::SharedCpus { .. }));
    let wanted = vnode.vcpus.iter().filter(|vcpu| !pins.contains_key(vcpu)).count();
    if left < wanted as u64 && vnode.affinity != Affinity::None && !told {
        placed.shortfalls.push(Shortfall::ClaimedCpus { vcpus: wanted, left });
    }
    Ok(placed)
}

#[expect(clippy::too_many_arguments, reason = "a constructor of all it was told")]
pub(crate) fn with_cpus(
    vnode: &Vnode,
    pnodes: NodeSet,
    cpu_pnodes: NodeSet,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
    why: Reason,
    mut shortfalls: Vec<Shortfall>,
) -> VnodePlacement {
    let at_home = host.pnodes().iter().filter(|pnode| cpu_pnodes.contains(pnode.id));
    let cpus = CpuSet::of_all(at_home.map(|pnode| &pnode.cpus));
    let vcpus = cpus::spread(vnode, &cpu_pnodes, host, pins, room, &mut shortfalls);
    let mut claim = room.take_claim();
    // Bound memory lies where it was taken: a pnode that has no room for any of it is none of the vnode's.
    let parts = bound_parts(vnode, &claim);
    let pnodes = if parts.is_empty() { pnodes } else { parts.iter().map(|part| part.pnode).collect() };
    let parts = if parts.len() > 1 { parts } else { Vec::new() };
    for pinned in vnode.vcpus.iter().filter_map(|vcpu| pins.get(&vcpu)).filter(|cpus| cpus.len() == 1) {
        for pnode in host.pnodes().iter().filter(|pnode| pnode.cpus.meets(pinned)) {
            claim.add(pnode.id, &NodeClaim { pinned: pinned.clone(), ..NodeClaim::default() });
        }
    }
    let affinity = vnode.affinity;
    VnodePlacement {
        vnode: vnode.id,
        pnodes,
        parts,
        cpu_pnodes,
        cpus,
        vcpus,
        affinity,
        why,
        shortfalls,
        claim,
    }
}

/// What of a bound vnode was taken of which pnode.
fn bound_parts(vnode: &Vnode, claim: &Claim) -> Vec<MemoryPart> {
    let size = |node: &NodeClaim| match vnode.pages.pool() {
        None => node.memory,
        Some(page) => Bytes(node.huge_pages.get(&page).copied().unwrap_or(0) * page.get()),
    };
    match vnode.policy {
        MemoryPolicy::Bind => {
            let all = claim.pnodes.iter().map(|(pnode, node)| MemoryPart { pnode: *pnode, size: size(node) });
            all.filter(|part| part.size > Bytes::ZERO).collect()
        }
        MemoryPolicy::Preferred | MemoryPolicy::Interleave => Vec::new(),
    }
}

/// A vnode that leaves the choice needs somewhere to go at all.
fn check_usable(vnodes: &[&Vnode], host: &HostTopology, device_memory: bool) -> Result<(), PlacementError> {
    let usable =
        |pnode: &Pnode| pnode.has_memory() && pnode.memory_allowed && (device_memory || !pnode.device_memory);
    let memory = host.pnodes().iter().any(usable);
    let cpus = host.pnodes().iter().any(|pnode| !pnode.cpus.is_empty());
    match vnodes.iter().find(|vnode| !cpus || (vnode.memory > Bytes::ZERO && !memory)) {
        Some(vnode) if !cpus => Err(PlacementError::NoCpus { vnode: vnode.id }),
        Some(vnode) => Err(PlacementError::NoMemoryAnywhere { vnode: vnode.id }),
        None => Ok(()),
    }
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
    let of_the_machine = |pnode: &Pnode| usable(pnode) && !pnode.device_memory;
    let nearest = host.nearest(home, of_the_machine).or_else(|| host.nearest(home, usable));
    let nearest = nearest.ok_or(PlacementError::NoMemoryAnywhere { vnode: vnode.id })?.id;
    shortfalls.push(Shortfall::MemoryElsewhere { pnodes: home.clone(), nearest });
    Ok(NodeSet::one(nearest))
}

#[cfg(test)]
mod tests;
