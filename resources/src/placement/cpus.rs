//! The host CPUs of a vnode's vCPUs. Memory is placed by `room`.

use crate::cpu_list::CpuList;
use crate::host::{HostTopology, Pnode};
use crate::placement::room::Room;
use crate::placement::{PlacementError, Shortfall};
use crate::set::{CpuSet, NodeSet, VcpuSet};
use crate::spec::Affinity;
use crate::topology::{VmTopology, Vnode};
use crate::{PcpuId, VcpuId};
use std::collections::BTreeMap;

/// The host CPUs of vCPUs that were pinned one by one.
pub type Pins = BTreeMap<VcpuId, CpuSet>;

/// Each pinned vCPU's CPUs that this host has; each has one at least.
pub fn pinned(topology: &VmTopology, host: &HostTopology) -> Result<Pins, PlacementError> {
    let there = pinned_there(topology, host);
    match topology.pins().iter().find(|(vcpu, _)| !there.contains_key(vcpu)) {
        None => Ok(there),
        Some((vcpu, list)) => {
            Err(PlacementError::NoPinnedCpu { vcpu: *vcpu, cpus: list.to_string(), host: host.cpus() })
        }
    }
}

/// The pinned vCPUs that have a CPU on this host, as part of it may be gone or be left.
pub fn pinned_there(topology: &VmTopology, host: &HostTopology) -> Pins {
    let all = host.cpus();
    let on = |(vcpu, list): (&VcpuId, &CpuList)| (*vcpu, list.among(&all, host));
    topology.pins().iter().map(on).filter(|(_, cpus)| !cpus.is_empty()).collect()
}

/// Says which pinned vCPUs of a vnode have no CPU left of theirs.
pub fn lost(vnode: &Vnode, topology: &VmTopology, pins: &Pins) -> Option<Shortfall> {
    let lost =
        vnode.vcpus.iter().filter(|vcpu| topology.pins().contains_key(vcpu) && !pins.contains_key(vcpu));
    let vcpus: VcpuSet = lost.collect();
    (!vcpus.is_empty()).then_some(Shortfall::PinsLost { vcpus })
}

/// The pnodes out of `home` that have CPUs, or else the nearest that has. A vnode without vCPUs has a home as well:
/// the threads that fill its memory run there.
pub fn home(
    vnode: &Vnode,
    home: &NodeSet,
    host: &HostTopology,
    shortfalls: &mut Vec<Shortfall>,
) -> Result<NodeSet, PlacementError> {
    let with_cpus = |id| host.pnode(id).is_some_and(|pnode| !pnode.cpus.is_empty());
    let pnodes: NodeSet = home.iter().filter(|id| with_cpus(*id)).collect();
    if !pnodes.is_empty() {
        return Ok(pnodes);
    }
    let nearest = host.nearest(home, |pnode| !pnode.cpus.is_empty());
    let nearest = nearest.ok_or(PlacementError::NoCpus { vnode: vnode.id })?.id;
    if !vnode.vcpus.is_empty() {
        shortfalls.push(Shortfall::CpusElsewhere { pnodes: home.clone(), nearest });
    }
    Ok(NodeSet::one(nearest))
}

/// The CPUs of each vCPU: those it was pinned to; else, with affinity hard, one each that no other vCPU is pinned to,
/// of this VM or another, as long as there are enough for the whole vnode; with soft, all of the vnode's pnodes; with
/// none, all of the host.
pub fn spread(
    vnode: &Vnode,
    pnodes: &NodeSet,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
    shortfalls: &mut Vec<Shortfall>,
) -> BTreeMap<VcpuId, CpuSet> {
    let of_each: Vec<&Pnode> = host.pnodes().iter().filter(|pnode| pnodes.contains(pnode.id)).collect();
    let all = CpuSet::of_all(of_each.iter().map(|pnode| &pnode.cpus));
    let unpinned: Vec<VcpuId> = vnode.vcpus.iter().filter(|vcpu| !pins.contains_key(vcpu)).collect();
    let everyone = |cpus: &CpuSet| unpinned.iter().map(|vcpu| (*vcpu, cpus.clone())).collect();
    let own = own_cpus(vnode, &of_each, room, unpinned.len(), shortfalls);
    // Those with a CPU of their own are at home where that is; the others where CPUs are unclaimed.
    room.take_cpus(pnodes, vnode.vcpus.len() - own.len());
    let mut spread: BTreeMap<VcpuId, CpuSet> = match vnode.affinity {
        Affinity::None => everyone(&host.cpus()),
        Affinity::Hard if !own.is_empty() => {
            unpinned.iter().zip(own).map(|(vcpu, cpu)| (*vcpu, CpuSet::one(cpu))).collect()
        }
        Affinity::Hard | Affinity::Soft => everyone(&all),
    };
    spread.extend(vnode.vcpus.iter().filter_map(|vcpu| Some((vcpu, pins.get(&vcpu)?.clone()))));
    spread
}

/// With affinity hard a CPU for each of `count` vCPUs, taken from the room; none at all if there are not enough.
fn own_cpus(
    vnode: &Vnode,
    of_each: &[&Pnode],
    room: &mut Room,
    count: usize,
    shortfalls: &mut Vec<Shortfall>,
) -> Vec<PcpuId> {
    match vnode.affinity {
        Affinity::None | Affinity::Soft => return Vec::new(),
        Affinity::Hard => {}
    }
    let left: Vec<CpuSet> = of_each.iter().map(|pnode| room.unpinned(&pnode.cpus)).collect();
    let total = left.iter().map(CpuSet::len).sum();
    if total < count {
        shortfalls.push(Shortfall::SharedCpus { vcpus: count, left: total });
        return Vec::new();
    }
    let own: Vec<PcpuId> = in_turn(left.into_iter()).into_iter().take(count).collect();
    let pinned: CpuSet = own.iter().copied().collect();
    for pnode in of_each {
        let here = pnode.cpus.intersection(&pinned);
        room.pin(pnode.id, &here);
        room.settle(pnode.id, here.len() as u64);
    }
    own
}

/// The first of each set, then the second of each, and so on: a vnode on several pnodes has vCPUs on each.
fn in_turn(sets: impl Iterator<Item = CpuSet>) -> Vec<PcpuId> {
    let mut ranked: Vec<(usize, usize, PcpuId)> = Vec::new();
    for (node, set) in sets.enumerate() {
        ranked.extend(set.iter().enumerate().map(|(rank, cpu)| (rank, node, cpu)));
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, cpu)| cpu).collect()
}
