//! What the guest is told, validated: a [`VmTopology`] cannot be wrong. How it came to be typed is `spec`'s business,
//! where it lies on a host is `placement`'s.

use crate::attributes::{AccessAttributes, MemoryAttributes};
use crate::distance::{Distance, DistanceError, DistanceMatrix, DistanceSpec};
use crate::ids::{VcpuId, VnodeId};
use crate::set::{NodeSet, VcpuSet};
use crate::spec::{Affinity, DistancesFrom, MemoryPolicy, PageSize, Switch, VmSpec, VnodeSpec};
use crate::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

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
    #[serde(skip)]
    vcpu_homes: Vec<VnodeId>,
    #[serde(skip)]
    given_distances: Vec<DistanceSpec>,
    #[serde(skip)]
    distances_from: Option<DistancesFrom>,
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
    /// The pnodes asked for; `None` leaves the choice to placement.
    pub asked: Option<NodeSet>,
    /// How its memory is held.
    pub policy: MemoryPolicy,
    /// How its vCPU threads are held.
    pub affinity: Affinity,
    /// The pages behind it.
    pub pages: PageSize,
    /// Whether all its memory is taken at start.
    pub prefault: bool,
}

/// Why a spec is not a machine. Every text names field, value and rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two counts of vnodes that differ.
    #[error("vnodes: {asked} vnodes asked for but {described} described, must be the same or left out")]
    VnodeCountConflict {
        /// The count typed.
        asked: u32,
        /// How many were described.
        described: usize,
    },
    /// No vnode, or more than [`MAX_VNODES`].
    #[error("vnodes: {0} vnodes, must be 1 to {MAX_VNODES}")]
    VnodeCount(usize),
    /// Two vnodes with one id.
    #[error("numa[{index}].id: {id} is given twice, ids must differ")]
    DuplicateId {
        /// Position in the list.
        index: usize,
        /// The id.
        id: u32,
    },
    /// An id past the last.
    #[error("numa[{index}].id: {id} leaves a hole, ids must be 0 to {last}")]
    IdHole {
        /// Position in the list.
        index: usize,
        /// The id.
        id: u32,
        /// The highest id there may be.
        last: usize,
    },
    /// No vCPU, or more than [`MAX_VCPUS`].
    #[error("vcpus: {0} vCPUs, must be 1 to {MAX_VCPUS}")]
    VcpuCount(u64),
    /// A vCPU on two vnodes.
    #[error(
        "vnodes[{second}].vcpus: vCPU {vcpu} is on vnode {first} already, a vCPU lies on exactly one vnode"
    )]
    VcpuTwice {
        /// The vCPU.
        vcpu: VcpuId,
        /// Where it was seen first.
        first: VnodeId,
        /// Where it was seen again.
        second: VnodeId,
    },
    /// A vCPU on no vnode.
    #[error("vcpus: vCPU {vcpu} of {count} lies on no vnode, a vCPU lies on exactly one vnode")]
    VcpuMissing {
        /// The lowest such vCPU.
        vcpu: VcpuId,
        /// How many vCPUs there are.
        count: u32,
    },
    /// A vCPU past the count.
    #[error("vnodes[{vnode}].vcpus: vCPU {vcpu} does not exist, vCPUs are 0 to {last}")]
    NoSuchVcpu {
        /// Where it was named.
        vnode: VnodeId,
        /// The vCPU.
        vcpu: VcpuId,
        /// The highest vCPU there is.
        last: u32,
    },
    /// A size that is not a multiple of the page size and of 2 MiB.
    #[error("vnodes[{vnode}].memory: {memory} is not a multiple of {unit} (pages={pages})")]
    MemoryUnit {
        /// Whose memory.
        vnode: VnodeId,
        /// As asked.
        memory: Bytes,
        /// What it must be a multiple of.
        unit: Bytes,
        /// Its pages.
        pages: PageSize,
    },
    /// A total that is not a multiple of 2 MiB and has to be shared out.
    #[error("memory: {0} is not a multiple of {MEMORY_UNIT}")]
    TotalUnit(Bytes),
    /// The vnodes' memory and the VM's do not agree.
    #[error("memory: {total} for the VM but its vnodes have {named}, must be the same or left out")]
    MemoryConflict {
        /// The VM's.
        total: Bytes,
        /// The sum over vnodes.
        named: Bytes,
    },
    /// No memory at all.
    #[error("memory: no vnode has memory, a VM needs some")]
    NoMemory,
    /// More than [`MAX_MEMORY`].
    #[error("memory: the vnodes have more than {MAX_MEMORY} together")]
    TooMuchMemory,
    /// A vnode without vCPUs and memory.
    #[error("vnodes[{0}]: has neither memory nor vCPUs, must have one of them")]
    EmptyVnode(VnodeId),
    /// 1 GiB pages that would not lie on 1 GiB of guest addresses.
    #[error(
        "vnodes[{vnode}].pages: 1G pages but its memory starts at {start:#x}, must start at a multiple of 1G (give vnodes with 1G pages the lower ids)"
    )]
    GigaPageStart {
        /// The vnode.
        vnode: VnodeId,
        /// Where its memory would start.
        start: u64,
    },
    /// An empty list of pnodes.
    #[error("vnodes[{0}].pnode: the list is empty, must name a host node or be left out")]
    NoPnode(VnodeId),
    /// Latency or bandwidth of zero, or for a vnode without memory.
    #[error("vnodes[{vnode}].{field}: {value} is not possible, must be {rule}")]
    Attribute {
        /// The vnode.
        vnode: VnodeId,
        /// `latency` or `bandwidth`.
        field: &'static str,
        /// As typed.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A bad distance.
    #[error(transparent)]
    Distance(#[from] DistanceError),
}

impl SpecError {
    /// The stable name of the mistake.
    pub fn code(&self) -> &'static str {
        match self {
            Self::VnodeCountConflict { .. } => "vnode_count_conflict",
            Self::VnodeCount(_) => "vnode_count",
            Self::DuplicateId { .. } => "duplicate_id",
            Self::IdHole { .. } => "id_hole",
            Self::VcpuCount(_) => "vcpu_count",
            Self::VcpuTwice { .. } => "vcpu_twice",
            Self::VcpuMissing { .. } => "vcpu_missing",
            Self::NoSuchVcpu { .. } => "no_such_vcpu",
            Self::MemoryUnit { .. } | Self::TotalUnit(_) => "memory_unit",
            Self::MemoryConflict { .. } => "memory_conflict",
            Self::NoMemory => "no_memory",
            Self::TooMuchMemory => "too_much_memory",
            Self::EmptyVnode(_) => "empty_vnode",
            Self::GigaPageStart { .. } => "giga_page_start",
            Self::NoPnode(_) => "no_pnode",
            Self::Attribute { .. } => "attribute",
            Self::Distance(_) => "distance",
        }
    }
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
        let attributes = given_attributes(&described, &vnodes, &distances)?;
        let topology = Self {
            vnodes,
            distances,
            attributes,
            vcpu_homes,
            given_distances: spec.distances.clone(),
            distances_from: spec.distances_from,
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

    /// Whether distances and attributes should be those of the host.
    pub fn mirrors_host(&self) -> bool {
        self.distances_from == Some(DistancesFrom::Host)
    }

    /// The same machine with the host's distances and attributes; distances that were typed win over `host`.
    pub(crate) fn with_host_figures(
        mut self,
        host: &DistanceMatrix,
        attributes: Option<MemoryAttributes>,
    ) -> Self {
        let typed = |from: usize, to: usize| {
            self.given_distances.iter().any(|d| {
                let pair = (d.from as usize, d.to as usize);
                pair == (from, to) || pair == (to, from)
            })
        };
        self.distances = DistanceMatrix::from_fn(self.vnodes.len(), |from, to| {
            let source = if typed(from, to) { &self.distances } else { host };
            source.get(from, to).unwrap_or(Distance::REMOTE)
        });
        self.attributes = self.attributes.or(attributes);
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
        let count = spec.vnodes.unwrap_or(1);
        if !(1..=MAX_VNODES).contains(&count) {
            return Err(SpecError::VnodeCount(count as usize));
        }
        return Ok((0..count).map(VnodeSpec::new).collect());
    }
    let described = spec.numa.len();
    if let Some(asked) = spec.vnodes.filter(|asked| *asked as usize != described) {
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

/// Memory of each vnode: what it names, else an even share of what the VM's total leaves.
fn share_memory(spec: &VmSpec, vnodes: &[VnodeSpec]) -> Result<Vec<Bytes>, SpecError> {
    let named = vnodes.iter().filter_map(|v| v.memory).try_fold(Bytes::ZERO, Bytes::checked_add);
    let named = named.ok_or(SpecError::TooMuchMemory)?;
    let unnamed = vnodes.iter().filter(|v| v.memory.is_none()).count() as u64;
    let nothing_named = unnamed == vnodes.len() as u64;
    let total = match spec.memory {
        Some(total) => total,
        None if nothing_named => DEFAULT_MEMORY,
        None => named,
    };
    if total < named || (unnamed == 0 && total != named) {
        return Err(SpecError::MemoryConflict { total, named });
    }
    let left = total.saturating_sub(named);
    if unnamed > 0 && !left.is_multiple_of(MEMORY_UNIT) {
        return Err(SpecError::TotalUnit(total));
    }
    let units = left.get() / MEMORY_UNIT.get();
    let mut shares = (0..unnamed).map(|i| {
        let extra = u64::from(i < units % unnamed.max(1));
        Bytes((units / unnamed.max(1) + extra) * MEMORY_UNIT.get())
    });
    Ok(vnodes.iter().map(|v| v.memory.or_else(|| shares.next()).unwrap_or(Bytes::ZERO)).collect())
}

/// vCPUs of each vnode: those it names, else an even share, in order, of those that no vnode names.
fn share_vcpus(spec: &VmSpec, vnodes: &[VnodeSpec]) -> Result<Vec<VcpuSet>, SpecError> {
    let named: VcpuSet = vnodes.iter().filter_map(|v| v.vcpus.as_ref()).flat_map(VcpuSet::iter).collect();
    let nothing_named = vnodes.iter().all(|v| v.vcpus.is_none());
    let count = match (spec.vcpus, named.last()) {
        (Some(count), _) => u64::from(count),
        (None, Some(last)) => u64::from(last.0) + 1,
        (None, None) if nothing_named => vnodes.len() as u64,
        (None, None) => 0,
    };
    let Some(count) = u32::try_from(count).ok().filter(|count| (1..=MAX_VCPUS).contains(count)) else {
        return Err(SpecError::VcpuCount(count));
    };
    for (id, vnode) in (0..).zip(vnodes) {
        if let Some(vcpu) = vnode.vcpus.as_ref().and_then(VcpuSet::last).filter(|vcpu| vcpu.0 >= count) {
            return Err(SpecError::NoSuchVcpu { vnode: VnodeId(id), vcpu, last: count - 1 });
        }
    }
    let mut free = (0..count).map(VcpuId).filter(|vcpu| !named.contains(*vcpu));
    let free_count = count as usize - named.len();
    let unnamed = vnodes.iter().filter(|v| v.vcpus.is_none()).count();
    let mut shares = (0..unnamed).map(|i| {
        let extra = usize::from(i < free_count % unnamed.max(1));
        free.by_ref().take(free_count / unnamed.max(1) + extra).collect::<VcpuSet>()
    });
    let vcpus =
        vnodes.iter().map(|v| v.vcpus.clone().or_else(|| shares.next()).unwrap_or_default()).collect();
    match free.next() {
        Some(vcpu) => Err(SpecError::VcpuMissing { vcpu, count }),
        None => Ok(vcpus),
    }
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
        prefault: spec.prefault.is_some_and(|Switch(on)| on),
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

/// Attributes as typed per vnode: its figures as seen by its own vCPUs, or by the nearest where it has none, scaled
/// by SLIT distance for vCPUs elsewhere. A vnode without vCPUs is no initiator.
fn given_attributes(
    specs: &[VnodeSpec],
    vnodes: &[Vnode],
    distances: &DistanceMatrix,
) -> Result<Option<MemoryAttributes>, SpecError> {
    let mut local = Vec::with_capacity(specs.len());
    for (spec, vnode) in specs.iter().zip(vnodes) {
        let refuse = |field, value, rule| Err(SpecError::Attribute { vnode: vnode.id, field, value, rule });
        match (spec.latency, spec.bandwidth) {
            (None, None) => local.push(None),
            (Some(ns), None) => return refuse("latency", ns.to_string(), "given together with bandwidth"),
            (None, Some(b)) => return refuse("bandwidth", b.to_string(), "given together with latency"),
            (Some(0), _) => return refuse("latency", "0".into(), "at least 1 ns"),
            (Some(ns), Some(_)) if vnode.memory == Bytes::ZERO => {
                return refuse("latency", ns.to_string(), "left out for a vnode without memory");
            }
            (Some(ns), Some(bandwidth)) => {
                let mib = u32::try_from(bandwidth.get() >> 20).ok().filter(|mib| *mib > 0);
                let Some(mib) = mib else {
                    return refuse("bandwidth", bandwidth.to_string(), "1M to 4095T bytes per second");
                };
                local.push(Some(AccessAttributes {
                    read_latency_ns: ns,
                    write_latency_ns: ns,
                    read_bandwidth_mib: mib,
                    write_bandwidth_mib: mib,
                }));
            }
        }
    }
    let initiators: Vec<usize> = (0..vnodes.len()).filter(|v| !vnodes[*v].vcpus.is_empty()).collect();
    let away = |from, to| distances.get(from, to).filter(|d| *d != Distance::UNREACHABLE);
    let attributes = MemoryAttributes::from_fn(specs.len(), |initiator, target| {
        let known = initiators.iter().filter_map(|i| away(*i, target)).min()?;
        let from = away(initiator, target).filter(|_| initiators.contains(&initiator))?;
        Some(local[target]?.scaled(from, known))
    });
    Ok((!attributes.is_empty()).then_some(attributes))
}

#[cfg(test)]
mod tests {
    use super::{MAX_VCPUS, SpecError, VmTopology};
    use crate::distance::DistanceSpec;
    use crate::spec::{PageSize, VmSpec, VnodeSpec};
    use crate::{Bytes, VcpuId, VnodeId};

    fn vnode(id: u32, memory: Option<&str>, vcpus: Option<&str>) -> VnodeSpec {
        VnodeSpec {
            memory: memory.map(|m| m.parse().unwrap()),
            vcpus: vcpus.map(|v| v.parse().unwrap()),
            ..VnodeSpec::new(id)
        }
    }

    fn topology(spec: &VmSpec) -> Result<Vec<(u32, String, String)>, SpecError> {
        let topology = VmTopology::try_from(spec)?;
        Ok(topology.vnodes().iter().map(|v| (v.id.0, v.memory.to_string(), v.vcpus.to_string())).collect())
    }

    fn numa(vnodes: Vec<VnodeSpec>) -> VmSpec {
        VmSpec { numa: vnodes, ..VmSpec::default() }
    }

    fn shape(list: &[(u32, &str, &str)]) -> Result<Vec<(u32, String, String)>, SpecError> {
        Ok(list.iter().map(|(id, m, v)| (*id, (*m).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn nothing_said_is_one_vnode_with_one_vcpu_and_512m() {
        assert_eq!(topology(&VmSpec::default()), shape(&[(0, "512M", "0")]));
    }

    #[test]
    fn the_short_form_shares_out_evenly_and_in_order() {
        let spec =
            VmSpec { vcpus: Some(5), memory: Some(Bytes::mib(1026)), vnodes: Some(2), ..VmSpec::default() };
        assert_eq!(topology(&spec), shape(&[(0, "514M", "0-2"), (1, "512M", "3-4")]));
    }

    #[test]
    fn what_a_vnode_does_not_name_comes_from_what_is_left() {
        let spec = VmSpec {
            vcpus: Some(4),
            memory: Some(Bytes::gib(2)),
            ..numa(vec![vnode(1, Some("512M"), Some("1")), vnode(0, None, None)])
        };
        assert_eq!(topology(&spec), shape(&[(0, "1536M", "0,2-3"), (1, "512M", "1")]));
    }

    #[test]
    fn vnodes_may_have_only_vcpus_or_only_memory() {
        let spec = numa(vec![
            vnode(0, Some("64M"), Some("0")),
            vnode(1, None, Some("1")),
            vnode(2, Some("64M"), None),
        ]);
        assert_eq!(topology(&spec), shape(&[(0, "64M", "0"), (1, "0", "1"), (2, "64M", "")]));
    }

    #[test]
    fn overlapping_and_missing_vcpus_are_refused() {
        let spec = numa(vec![vnode(0, Some("64M"), Some("0-1")), vnode(1, Some("64M"), Some("1-2"))]);
        let twice = SpecError::VcpuTwice { vcpu: VcpuId(1), first: VnodeId(0), second: VnodeId(1) };
        assert_eq!(topology(&spec), Err(twice));
        let spec = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(1, Some("64M"), Some("2"))]);
        assert_eq!(topology(&spec), Err(SpecError::VcpuMissing { vcpu: VcpuId(1), count: 3 }));
        let spec = VmSpec { vcpus: Some(2), ..numa(vec![vnode(0, Some("64M"), Some("0-2"))]) };
        let beyond = SpecError::NoSuchVcpu { vnode: VnodeId(0), vcpu: VcpuId(2), last: 1 };
        assert_eq!(topology(&spec), Err(beyond));
    }

    #[test]
    fn ids_are_dense_and_differ() {
        let twice = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(0, Some("64M"), None)]);
        assert_eq!(topology(&twice), Err(SpecError::DuplicateId { index: 1, id: 0 }));
        let hole = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(2, Some("64M"), None)]);
        assert_eq!(topology(&hole), Err(SpecError::IdHole { index: 1, id: 2, last: 1 }));
        let conflict = VmSpec { vnodes: Some(3), ..numa(vec![vnode(0, Some("64M"), Some("0"))]) };
        assert_eq!(topology(&conflict), Err(SpecError::VnodeCountConflict { asked: 3, described: 1 }));
    }

    #[test]
    fn odd_sizes_are_refused_with_the_unit() {
        let error = topology(&numa(vec![vnode(0, Some("513M"), Some("0"))])).unwrap_err();
        assert_eq!(error.to_string(), "vnodes[0].memory: 513M is not a multiple of 2M (pages=thp)");
        let giga = VnodeSpec { pages: Some(PageSize::Huge1G), ..vnode(0, Some("1536M"), Some("0")) };
        let error = topology(&numa(vec![giga])).unwrap_err();
        assert_eq!(error.to_string(), "vnodes[0].memory: 1536M is not a multiple of 1G (pages=1G)");
    }

    #[test]
    fn giga_pages_lie_on_giga_addresses() {
        let giga = VnodeSpec { pages: Some(PageSize::Huge1G), ..vnode(1, Some("1G"), None) };
        let refused = topology(&numa(vec![vnode(0, Some("512M"), Some("0")), giga.clone()]));
        assert_eq!(refused, Err(SpecError::GigaPageStart { vnode: VnodeId(1), start: 512 << 20 }));
        assert!(topology(&numa(vec![vnode(0, Some("3G"), Some("0")), giga])).is_ok());
    }

    #[test]
    fn sums_that_do_not_add_up_are_refused() {
        let spec = VmSpec { memory: Some(Bytes::gib(1)), ..numa(vec![vnode(0, Some("2G"), Some("0"))]) };
        let conflict = SpecError::MemoryConflict { total: Bytes::gib(1), named: Bytes::gib(2) };
        assert_eq!(topology(&spec), Err(conflict));
        let spec = numa(vec![vnode(0, Some("16777215T"), Some("0")), vnode(1, Some("16777215T"), None)]);
        assert_eq!(topology(&spec), Err(SpecError::TooMuchMemory));
        let spec = VmSpec { memory: Some(Bytes::ZERO), ..VmSpec::default() };
        assert_eq!(topology(&spec), Err(SpecError::NoMemory));
    }

    #[test]
    fn counts_are_bounded() {
        let spec = VmSpec { vcpus: Some(0), ..VmSpec::default() };
        assert_eq!(topology(&spec), Err(SpecError::VcpuCount(0)));
        let spec = VmSpec { vcpus: Some(MAX_VCPUS + 1), ..VmSpec::default() };
        assert_eq!(topology(&spec), Err(SpecError::VcpuCount(u64::from(MAX_VCPUS) + 1)));
        let spec = VmSpec { vnodes: Some(0), ..VmSpec::default() };
        assert_eq!(topology(&spec), Err(SpecError::VnodeCount(0)));
        let spec = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(1, Some("0"), None)]);
        assert_eq!(topology(&spec), Err(SpecError::EmptyVnode(VnodeId(1))));
    }

    #[test]
    fn attributes_are_local_figures_scaled_by_distance() {
        let fast = VnodeSpec {
            latency: Some(100),
            bandwidth: Some(Bytes::gib(10)),
            ..vnode(0, Some("64M"), Some("0"))
        };
        let spec = VmSpec {
            distances: vec![DistanceSpec { from: 0, to: 1, value: 30 }],
            ..numa(vec![fast, vnode(1, None, Some("1"))])
        };
        let topology = VmTopology::try_from(&spec).unwrap();
        let attributes = topology.attributes().unwrap();
        assert_eq!(attributes.get(0, 0).unwrap().read_latency_ns, 100);
        assert_eq!(attributes.get(1, 0).unwrap().read_latency_ns, 300);
        assert_eq!(attributes.get(1, 0).unwrap().read_bandwidth_mib, 3413);
        assert_eq!(attributes.get(0, 1), None);
    }
}
