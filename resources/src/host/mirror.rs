//! The host's distances and figures as a guest is told them: what `--distances host` does.
//! Which vnode lies on which pnode has been decided before.

use crate::attributes::MemoryAttributes;
use crate::distance::{Distance, DistanceMatrix};
use crate::host::{HostTopology, Pnode};
use crate::ids::PnodeId;
use crate::placement::{Placement, VnodePlacement};
use crate::topology::VmTopology;
use crate::units::Bytes;

/// What two vnodes are told that are as near as a node is to itself, because they lie on one pnode: Linux drops a
/// whole SLIT in which another node is 10 away, and 11 is the next.
pub const SAME_PNODE: u64 = 11;

impl HostTopology {
    /// The same machine with its vnodes as fast as the pnodes they lie on, when sysfs has latency and bandwidth of
    /// every pnode that holds memory of it; and, if asked for, as far apart. Of vnodes with several pnodes the
    /// nearest pair counts. Figures that were typed stay.
    pub fn mirrored(&self, topology: VmTopology, placement: &Placement) -> VmTopology {
        let attributes = self.attributes_of(&topology, placement);
        let topology = match attributes {
            Some(attributes) => topology.with_host_attributes(&attributes),
            None => topology,
        };
        if !topology.mirrors_distances() {
            return topology;
        }
        let count = topology.vnodes().len();
        let distances = DistanceMatrix::from_fn(count, |from, to| {
            let raw = self.between(placement.vnodes.get(from), placement.vnodes.get(to));
            Distance::remote(u64::from(raw.get()).max(SAME_PNODE)).unwrap_or(Distance::REMOTE)
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

    /// How far the CPUs of one vnode are from the memory of another.
    fn between(&self, from: Option<&VnodePlacement>, to: Option<&VnodePlacement>) -> Distance {
        let (Some(from), Some(to)) = (from, to) else { return Distance::REMOTE };
        let pairs = from.cpu_pnodes.iter().flat_map(|f| to.pnodes.iter().map(move |t| (f, t)));
        pairs.filter_map(|(f, t)| self.distance(f, t)).min().unwrap_or(Distance::REMOTE)
    }

    fn attributes_of(&self, topology: &VmTopology, placement: &Placement) -> Option<MemoryAttributes> {
        if self.without_attributes(topology, placement).is_some() {
            return None;
        }
        let attributes = MemoryAttributes::from_fn(topology.vnodes().len(), |initiator, target| {
            let (from, to) = (topology.vnodes().get(initiator)?, topology.vnodes().get(target)?);
            if from.vcpus.is_empty() || to.memory == Bytes::ZERO {
                return None;
            }
            let (from, to) = (placement.vnodes.get(initiator)?, placement.vnodes.get(target)?);
            let pairs = from.cpu_pnodes.iter().flat_map(|f| to.pnodes.iter().map(move |t| (f, t)));
            let (_, f, t) = pairs.filter_map(|(f, t)| Some((self.distance(f, t)?, f, t))).min()?;
            self.seen_from(f, self.pnode(t)?)
        });
        (!attributes.is_empty()).then_some(attributes)
    }

    /// A pnode's figures are those that its nearest CPUs see; from elsewhere they grow with the distance.
    fn seen_from(&self, initiator: PnodeId, target: &Pnode) -> Option<crate::AccessAttributes> {
        let away = |from: PnodeId| self.distance(from, target.id).filter(|d| *d != Distance::UNREACHABLE);
        let with_cpus = self.pnodes().iter().filter(|pnode| !pnode.cpus.is_empty());
        let nearest = with_cpus.filter_map(|pnode| away(pnode.id)).min()?;
        Some(target.attributes?.scaled(away(initiator)?, nearest))
    }
}
