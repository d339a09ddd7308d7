//! The host's distances and HMAT values for the guest: `--distances host`. Vnodes are already placed.

use crate::attributes::MemoryAttributes;
use crate::distance::{Distance, DistanceMatrix};
use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::placement::{Placement, VnodePlacement};
use crate::set::NodeSet;
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;

/// What two vnodes are told that are as near as a node is to itself, because they lie on one pnode: Linux drops a
/// whole SLIT in which another node is 10 away, and 11 is the next.
pub const SAME_PNODE: u64 = 11;

impl HostTopology {
    /// The same machine with its vnodes as fast as the pnodes they lie on, when sysfs has latency and bandwidth of
    /// every pnode that holds memory of it; and, if asked for, as far apart. Of vnodes with several pnodes the
    /// nearest pair counts. A vnode without vCPUs is as far from others as the pnodes of its memory. Figures that were
    /// typed stay.
    pub fn mirrored(&self, topology: VmTopology, placement: &Placement) -> VmTopology {
        let ends = Ends::of(self, &topology, placement);
        let attributes = self.attributes_of(&topology, placement, &ends);
        let topology = match attributes {
            Some(attributes) => topology.with_host_attributes(&attributes),
            None => topology,
        };
        if !topology.mirrors_distances() {
            return topology;
        }
        let rows: Vec<Vec<Distance>> = ends.from.iter().map(|from| self.distances_from(from)).collect();
        let distances = DistanceMatrix::from_fn(topology.vnodes().len(), |from, to| {
            let nearest = ends.to[to].iter().map(|at| rows[from][*at]).min().unwrap_or(Distance::REMOTE);
            Distance::remote(u64::from(nearest.get()).max(SAME_PNODE)).unwrap_or(Distance::REMOTE)
        });
        topology.with_host_distances(&distances)
    }

    /// The first pnode that holds memory of the VM and of which sysfs has no latency and bandwidth.
    pub fn without_attributes(&self, topology: &VmTopology, placement: &Placement) -> Option<PnodeId> {
        let with_memory = topology.vnodes().iter().filter(|vnode| vnode.memory > Bytes::ZERO);
        let holders = with_memory.filter_map(|vnode| placement.vnodes.get(vnode.id.index()));
        let mut pnodes = holders.flat_map(|at| at.pnodes.iter());
        pnodes.find(|id| self.pnode(*id).is_none_or(|pnode| pnode.attributes.is_none()))
    }

    /// How far each pnode is from the nearest of some.
    fn distances_from(&self, from: &[usize]) -> Vec<Distance> {
        let mut nearest = vec![Distance::UNREACHABLE; self.pnodes().len()];
        for row in from.iter().filter_map(|at| self.distances().rows().get(*at)) {
            nearest.iter_mut().zip(row).for_each(|(nearest, distance)| *nearest = (*nearest).min(*distance));
        }
        nearest
    }

    fn attributes_of(
        &self,
        topology: &VmTopology,
        placement: &Placement,
        ends: &Ends,
    ) -> Option<MemoryAttributes> {
        if self.without_attributes(topology, placement).is_some() {
            return None;
        }
        let with_cpus: Vec<usize> =
            (0..self.pnodes().len()).filter(|at| !self.pnodes()[*at].cpus.is_empty()).collect();
        // A pnode's figures are those that its nearest CPUs see; from elsewhere they grow with the distance.
        let nearest_cpus = self.distances_from(&with_cpus);
        let rows: Vec<Vec<Distance>> = ends.from.iter().map(|from| self.distances_from(from)).collect();
        let attributes = MemoryAttributes::from_fn(topology.vnodes().len(), |initiator, target| {
            let (from, to) = (topology.vnodes().get(initiator)?, topology.vnodes().get(target)?);
            if from.vcpus.is_empty() || to.memory == Bytes::ZERO {
                return None;
            }
            let (away, at) = ends.to[target].iter().map(|at| (rows[initiator][*at], *at)).min()?;
            let reachable = |away: &Distance| *away != Distance::UNREACHABLE;
            let (away, nearest) = (Some(away).filter(reachable)?, Some(nearest_cpus[at]).filter(reachable)?);
            Some(self.pnodes()[at].attributes?.scaled(away, nearest))
        });
        (!attributes.is_empty()).then_some(attributes)
    }
}

/// Where the ways between vnodes begin and end, as positions of pnodes, by vnode.
struct Ends {
    /// The pnodes of its CPUs, or of its memory where it has no vCPUs: nothing of the vnode is anywhere else.
    from: Vec<Vec<usize>>,
    /// The pnodes of its memory.
    to: Vec<Vec<usize>>,
}

impl Ends {
    fn of(host: &HostTopology, topology: &VmTopology, placement: &Placement) -> Self {
        let positions = |pnodes: &NodeSet| pnodes.iter().filter_map(|id| host.position(id)).collect();
        let from = |(vnode, at): (&Vnode, &VnodePlacement)| match vnode.vcpus.is_empty() {
            true => positions(&at.pnodes),
            false => positions(&at.cpu_pnodes),
        };
        Self {
            from: topology.vnodes().iter().zip(&placement.vnodes).map(from).collect(),
            to: placement.vnodes.iter().map(|at| positions(&at.pnodes)).collect(),
        }
    }
}
