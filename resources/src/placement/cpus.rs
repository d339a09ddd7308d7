//! Which host CPUs a vnode's vCPUs may run on. Where its memory lies is `room`'s business.

use crate::cpu_list::CpuList;
use crate::host::HostTopology;
use crate::placement::room::Room;
use crate::placement::{PlacementError, Shortfall};
use crate::set::{CpuSet, NodeSet};
use crate::spec::Affinity;
use crate::topology::{VmTopology, Vnode};
use crate::{PcpuId, VcpuId};
use std::collections::BTreeMap;

/// The host CPUs of vCPUs that were pinned one by one.
pub type Pins = BTreeMap<VcpuId, CpuSet>;

/// Each pinned vCPU's CPUs that this host has; each has one at least.
pub fn pinned(topology: &VmTopology, host: &HostTopology) -> Result<Pins, PlacementError> {
    let on = |(vcpu, list): (&VcpuId, &CpuList)| match list.on(host) {
        cpus if cpus.is_empty() => {
            Err(PlacementError::NoPinnedCpu { vcpu: *vcpu, cpus: list.to_string(), host: host.cpus() })
        }
        cpus => Ok((*vcpu, cpus)),
    };
    topology.pins().iter().map(on).collect()
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

/// The CPUs of each vCPU: those it was pinned to; else, with affinity hard, one each that no other vCPU of this VM has, as long as there are enough for the
/// whole vnode; with soft, all of the vnode's pnodes; with none, all of the host.
pub fn spread(
    vnode: &Vnode,
    pnodes: &NodeSet,
    host: &HostTopology,
    pins: &Pins,
    room: &mut Room,
    shortfalls: &mut Vec<Shortfall>,
) -> BTreeMap<VcpuId, CpuSet> {
    let of_each: Vec<&CpuSet> =
        host.pnodes().iter().filter(|pnode| pnodes.contains(pnode.id)).map(|pnode| &pnode.cpus).collect();
    let all: CpuSet = of_each.iter().flat_map(|cpus| cpus.iter()).collect();
    let unpinned: Vec<VcpuId> = vnode.vcpus.iter().filter(|vcpu| !pins.contains_key(vcpu)).collect();
    let everyone = |cpus: &CpuSet| unpinned.iter().map(|vcpu| (*vcpu, cpus.clone())).collect();
    room.take_cpus(pnodes, vnode.vcpus.len());
    let mut spread: BTreeMap<VcpuId, CpuSet> = match vnode.affinity {
        Affinity::None => everyone(&host.cpus()),
        Affinity::Soft => everyone(&all),
        Affinity::Hard => {
            let left = room.unpinned(&all);
            if left.len() < unpinned.len() {
                shortfalls.push(Shortfall::SharedCpus { vcpus: unpinned.len(), left: left.len() });
                everyone(&all)
            } else {
                let own = in_turn(of_each.iter().map(|cpus| cpus.intersection(&left)));
                let taken: CpuSet = own.iter().copied().take(unpinned.len()).collect();
                room.pin(&taken);
                unpinned.iter().zip(own).map(|(vcpu, cpu)| (*vcpu, CpuSet::one(cpu))).collect()
            }
        }
    };
    spread.extend(vnode.vcpus.iter().filter_map(|vcpu| Some((vcpu, pins.get(&vcpu)?.clone()))));
    spread
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
