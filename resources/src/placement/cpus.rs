//! Which host CPUs a vnode's vCPUs may run on. Where its memory lies is `room`'s business.

use crate::host::HostTopology;
use crate::placement::room::Room;
use crate::placement::{PlacementError, Shortfall};
use crate::set::{CpuSet, NodeSet};
use crate::spec::Affinity;
use crate::topology::Vnode;
use crate::{PcpuId, VcpuId};
use std::collections::BTreeMap;

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

/// The CPUs of each vCPU: hard, one each that no other vCPU of this VM has, as long as there are enough for the
/// whole vnode; soft, all of the vnode's pnodes; none, all of the host.
pub fn spread(
    vnode: &Vnode,
    pnodes: &NodeSet,
    host: &HostTopology,
    room: &mut Room,
    shortfalls: &mut Vec<Shortfall>,
) -> BTreeMap<VcpuId, CpuSet> {
    let of_each: Vec<&CpuSet> =
        host.pnodes().iter().filter(|pnode| pnodes.contains(pnode.id)).map(|pnode| &pnode.cpus).collect();
    let all: CpuSet = of_each.iter().flat_map(|cpus| cpus.iter()).collect();
    let everyone = |cpus: &CpuSet| vnode.vcpus.iter().map(|vcpu| (vcpu, cpus.clone())).collect();
    room.take_cpus(pnodes, vnode.vcpus.len());
    match vnode.affinity {
        Affinity::None => everyone(&host.cpus()),
        Affinity::Soft => everyone(&all),
        Affinity::Hard => {
            let left = room.unpinned(&all);
            if left.len() < vnode.vcpus.len() {
                shortfalls.push(Shortfall::SharedCpus { vcpus: vnode.vcpus.len(), left: left.len() });
                return everyone(&all);
            }
            let own = in_turn(of_each.iter().map(|cpus| cpus.intersection(&left)));
            let pinned: CpuSet = own.iter().copied().take(vnode.vcpus.len()).collect();
            room.pin(&pinned);
            vnode.vcpus.iter().zip(own).map(|(vcpu, cpu)| (vcpu, CpuSet::one(cpu))).collect()
        }
    }
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
