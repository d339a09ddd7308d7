//! The virtual topology, validated: a [`VmTopology`] is always valid. `spec` is its input, `placement` places it on a
//! host.

mod error;
mod figures;
#[cfg(test)]
mod hmat_tests;
mod notes;
mod pins;
mod share;
#[cfg(test)]
mod tests;

use crate::attributes::{MemoryAttributes, MemorySideCache};
use crate::cpu_list::CpuList;
use crate::distance::{Distance, DistanceMatrix, DistanceSpec};
use crate::ids::{VcpuId, VnodeId};
use crate::set::{NodeSet, VcpuSet};
use crate::spec::{
    Affinity, AttributesFrom, DistancesFrom, MemoryPolicy, PageSize, Switch, VmSpec, VnodeCount, VnodeSpec,
};
use crate::units::Bytes;
use figures::{given_attributes, given_caches, given_initiator};
use pins::given_pins;
use serde::Serialize;
use share::{share_memory, share_vcpus};
use std::collections::{BTreeMap, BTreeSet};

pub use error::SpecError;
pub use notes::Note;

/// Most vnodes: a quarter of what stock kernels are built for (Debian: `NODES_SHIFT=10`).
pub const MAX_VNODES: u32 = 256;
/// Most vCPUs that the ids leave room for; KVM usually allows fewer and says so itself.
pub const MAX_VCPUS: u32 = 4096;
/// Most memory: a balloon's 32-bit page numbers reach 16 TiB (virtio 1.3, 5.5.6), less the hole below 4 GiB.
pub const MAX_MEMORY: Bytes = Bytes((16 << 40) - (1 << 30));
/// Every vnode's memory is a multiple of this, so that huge pages never straddle two vnodes.
pub const MEMORY_UNIT: Bytes = Bytes::mib(2);
/// The memory of a VM of which nothing was said.
pub const DEFAULT_MEMORY: Bytes = Bytes::mib(512);

/// Everything the guest is told about vCPUs, memory and distances, and what is asked of the host for each vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmTopology {
    vnodes: Vec<Vnode>,
    distances: DistanceMatrix,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<MemoryAttributes>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    caches: Vec<MemorySideCache>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pins: BTreeMap<VcpuId, CpuList>,
    #[serde(skip)]
    vcpu_homes: Vec<VnodeId>,
    #[serde(skip)]
    given_distances: Vec<DistanceSpec>,
    #[serde(skip)]
    distances_from: Option<DistancesFrom>,
    #[serde(skip)]
    attributes_from: Option<AttributesFrom>,
    #[serde(skip)]
    device_memory: bool,
    #[serde(skip)]
    notes: Vec<Note>,
}

/// One guest node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vnode {
    /// Its number, and its proximity domain.
    pub id: VnodeId,
    /// Its memory; zero for a vnode with vCPUs only.
    pub memory: Bytes,
    /// Its vCPUs; empty for a vnode with memory only.
    pub vcpus: VcpuSet,
    /// The requested pnodes; `None` leaves the choice to placement.
    pub asked: Option<NodeSet>,
    /// How its memory is held.
    pub policy: MemoryPolicy,
    /// How its vCPU threads are held.
    pub affinity: Affinity,
    /// The pages behind it.
    pub pages: PageSize,
    /// Whether all its memory is taken at start.
    pub prefault: bool,
    /// Whether its memory is a file without a name (memfd).
    pub shared: bool,
    /// The vnode whose vCPUs its memory is attached to: itself if it has vCPUs, else the one typed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiator: Option<VnodeId>,
}

impl TryFrom<&VmSpec> for VmTopology {
    type Error = SpecError;

    fn try_from(spec: &VmSpec) -> Result<Self, SpecError> {
        let described = in_id_order(spec)?;
        let memory = share_memory(spec, &described)?;
        let vcpus = share_vcpus(spec, &described)?;
        let mut vnodes = Vec::with_capacity(described.len());
        for ((vnode, memory), vcpus) in described.iter().zip(memory).zip(vcpus) {
            vnodes.push(build_vnode(vnode, memory, vcpus)?);
        }
        check_total(&vnodes)?;
        let vcpu_homes = home_of_each_vcpu(&vnodes)?;
        let distances = DistanceMatrix::complete(vnodes.len(), &spec.distances)?;
        for (vnode, asked) in described.iter().zip(given_initiator(&described, &vnodes)?) {
            vnodes[vnode.id as usize].initiator = asked;
        }
        let attributes = given_attributes(spec, &described, &vnodes, &distances)?;
        let caches = given_caches(&spec.caches, &vnodes)?;
        let pins = given_pins(&spec.pins, vcpu_homes.len())?;
        let notes = notes::notes(spec, &described, &vnodes);
        let topology = Self {
            vnodes,
            distances,
            attributes,
            caches,
            pins,
            vcpu_homes,
            given_distances: spec.distances.clone(),
            distances_from: spec.distances_from,
            attributes_from: spec.attributes_from,
            device_memory: spec.device_memory.is_some_and(|Switch(on)| on),
            notes,
        };
        topology.check_giga_pages()?;
        Ok(topology)
    }
}

impl VmTopology {
    /// The vnodes, ascending from 0 without holes.
    pub fn vnodes(&self) -> &[Vnode] {
        &self.vnodes
    }

    /// One vnode.
    pub fn vnode(&self, id: VnodeId) -> Option<&Vnode> {
        self.vnodes.get(id.index())
    }

    /// How many vCPUs each vnode has.
    pub fn vcpus_of_vnodes(&self) -> Vec<usize> {
        self.vnodes.iter().map(|vnode| vnode.vcpus.len()).collect()
    }

    /// How many vCPUs.
    pub fn vcpu_count(&self) -> usize {
        self.vcpu_homes.len()
    }

    /// All vCPUs, ascending, with the vnode of each.
    pub fn vcpus(&self) -> impl Iterator<Item = (VcpuId, VnodeId)> + '_ {
        (0..).map(VcpuId).zip(self.vcpu_homes.iter().copied())
    }

    /// The memory of all vnodes.
    pub fn memory(&self) -> Bytes {
        self.vnodes.iter().fold(Bytes::ZERO, |sum, vnode| sum.saturating_add(vnode.memory))
    }

    /// SLIT distances between vnodes.
    pub fn distances(&self) -> &DistanceMatrix {
        &self.distances
    }

    /// Latency and bandwidth between vnodes, where something is known.
    pub fn attributes(&self) -> Option<&MemoryAttributes> {
        self.attributes.as_ref()
    }

    /// Caches in front of the vnodes' memory, by vnode and level.
    pub fn caches(&self) -> &[MemorySideCache] {
        &self.caches
    }

    /// The host CPUs of vCPUs that were pinned one by one.
    pub fn pins(&self) -> &BTreeMap<VcpuId, CpuList> {
        &self.pins
    }

    /// Remarks on the configuration.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Whether the guest has a table of latencies, bandwidths, caches and initiators to be told.
    pub fn has_hmat(&self) -> bool {
        let attached = |vnode: &Vnode| vnode.initiator.is_some_and(|initiator| initiator != vnode.id);
        self.attributes.is_some() || !self.caches.is_empty() || self.vnodes.iter().any(attached)
    }

    /// Whether distances should be those of the host.
    pub fn mirrors_distances(&self) -> bool {
        self.distances_from == Some(DistancesFrom::Host)
    }

    /// Whether its vnodes may be placed on memory of devices that they did not name.
    pub fn takes_device_memory(&self) -> bool {
        self.device_memory
    }

    /// Whether attributes must be those of the host; with distances they are if it has any.
    pub fn mirrors_attributes(&self) -> bool {
        self.attributes_from == Some(AttributesFrom::Host)
    }

    /// Vnodes with less memory than they were given.
    pub(crate) fn without(mut self, left_out: &BTreeMap<VnodeId, Bytes>) -> Self {
        for vnode in &mut self.vnodes {
            let less = left_out.get(&vnode.id).copied().unwrap_or_default();
            vnode.memory = vnode.memory.saturating_sub(less);
        }
        self
    }

    /// The same machine with the host's distances; those that were typed win.
    pub(crate) fn with_host_distances(mut self, host: &DistanceMatrix) -> Self {
        let given: BTreeSet<(usize, usize)> = self
            .given_distances
            .iter()
            .flat_map(|d| [(d.from, d.to), (d.to, d.from)])
            .map(|(from, to)| (from as usize, to as usize))
            .collect();
        self.distances = DistanceMatrix::from_fn(self.vnodes.len(), |from, to| {
            let source = if given.contains(&(from, to)) { &self.distances } else { host };
            source.get(from, to).unwrap_or(Distance::REMOTE)
        });
        self
    }

    /// The same machine with the host's attributes; those that were typed win.
    pub(crate) fn with_host_attributes(mut self, host: &MemoryAttributes) -> Self {
        self.attributes = Some(match &self.attributes {
            Some(given) => given.or(host),
            None => host.clone(),
        });
        self
    }

    fn check_giga_pages(&self) -> Result<(), SpecError> {
        for range in crate::memory_map::MemoryMap::new(self).ram() {
            let giga = self.vnode(range.vnode).is_some_and(|v| v.pages == PageSize::Huge1G);
            if giga && !range.start.0.is_multiple_of(1 << 30) {
                return Err(SpecError::GigaPageStart { vnode: range.vnode, start: range.start.0 });
            }
        }
        Ok(())
    }
}

fn in_id_order(spec: &VmSpec) -> Result<Vec<VnodeSpec>, SpecError> {
    if spec.numa.is_empty() {
        let count = match spec.vnodes {
            Some(VnodeCount::Exactly(count)) => count,
            // How many `auto` makes is known once a host is: `Plan` tries this with numbers.
            Some(VnodeCount::Auto) | None => 1,
        };
        if !(1..=MAX_VNODES).contains(&count) {
            return Err(SpecError::VnodeCount(count as usize));
        }
        return Ok((0..count).map(VnodeSpec::new).collect());
    }
    let described = spec.numa.len();
    let agrees =
        |asked: &VnodeCount| *asked == VnodeCount::Exactly(u32::try_from(described).unwrap_or(u32::MAX));
    if let Some(asked) = spec.vnodes.filter(|asked| !agrees(asked)) {
        return Err(SpecError::VnodeCountConflict { asked, described });
    }
    if described > MAX_VNODES as usize {
        return Err(SpecError::VnodeCount(described));
    }
    let mut by_id = BTreeMap::new();
    for (index, vnode) in spec.numa.iter().enumerate() {
        if by_id.insert(vnode.id, vnode.clone()).is_some() {
            return Err(SpecError::DuplicateId { index, id: vnode.id });
        }
    }
    for (index, vnode) in spec.numa.iter().enumerate() {
        if vnode.id as usize >= described {
            return Err(SpecError::IdHole { index, id: vnode.id, last: described - 1 });
        }
    }
    Ok(by_id.into_values().collect())
}

fn build_vnode(spec: &VnodeSpec, memory: Bytes, vcpus: VcpuSet) -> Result<Vnode, SpecError> {
    let id = VnodeId(spec.id);
    let pages = spec.pages.unwrap_or(PageSize::Thp);
    let unit = pages.pool().unwrap_or(MEMORY_UNIT);
    if !memory.is_multiple_of(unit) {
        return Err(SpecError::MemoryUnit { vnode: id, memory, unit, pages });
    }
    if memory == Bytes::ZERO && vcpus.is_empty() {
        return Err(SpecError::EmptyVnode(id));
    }
    if spec.pnode.as_ref().is_some_and(NodeSet::is_empty) {
        return Err(SpecError::NoPnode(id));
    }
    Ok(Vnode {
        id,
        memory,
        vcpus,
        asked: spec.pnode.clone(),
        policy: spec.policy.unwrap_or(MemoryPolicy::Bind),
        affinity: spec.affinity.unwrap_or(Affinity::Soft),
        pages,
        // Pages of a pool are taken at once: a shortage is then an error now and not a signal later.
        prefault: spec.prefault.map_or(pages.pool().is_some(), |Switch(on)| on),
        shared: spec.shared.is_some_and(|Switch(on)| on),
        initiator: None,
    })
}

fn check_total(vnodes: &[Vnode]) -> Result<(), SpecError> {
    let total = vnodes.iter().map(|v| v.memory).try_fold(Bytes::ZERO, Bytes::checked_add);
    match total {
        Some(Bytes::ZERO) => Err(SpecError::NoMemory),
        Some(total) if total <= MAX_MEMORY => Ok(()),
        Some(_) | None => Err(SpecError::TooMuchMemory),
    }
}

fn home_of_each_vcpu(vnodes: &[Vnode]) -> Result<Vec<VnodeId>, SpecError> {
    let mut homes = BTreeMap::new();
    for vnode in vnodes {
        for vcpu in vnode.vcpus.iter() {
            if let Some(first) = homes.insert(vcpu, vnode.id) {
                return Err(SpecError::VcpuTwice { vcpu, first, second: vnode.id });
            }
        }
    }
    Ok(homes.into_values().collect())
}
