//! Errors of a configuration: always with field, value and rule.

use crate::distance::DistanceError;
use crate::ids::{VcpuId, VnodeId};
use crate::spec::{PageSize, VnodeCount};
use crate::topology::{MAX_MEMORY, MAX_VCPUS, MAX_VNODES, MEMORY_UNIT};
use crate::units::Bytes;

/// Why a spec is not a machine. Every text names field, value and rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two counts of vnodes that differ.
    #[error("vnodes: {asked} vnodes but {described} described, must be equal or left out")]
    VnodeCountConflict {
        /// The given count.
        asked: VnodeCount,
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
    #[error("numa[{index}].id: {id} leaves a gap, ids must be 0 to {last}")]
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
        "vnodes[{second}].vcpus: vCPU {vcpu} is already on vnode {first}, a vCPU must be on exactly one vnode"
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
    #[error("vcpus: vCPU {vcpu} of {count} is on no vnode, a vCPU must be on exactly one vnode")]
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
        /// As requested.
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
    #[error("memory: {total} for the VM but {named} for its vnodes, must be equal or left out")]
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
    #[error("memory: the vnodes have more than {MAX_MEMORY} in total")]
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
    #[error("vnodes[{vnode}].{field}: {value} is invalid, must be {rule}")]
    Attribute {
        /// The vnode.
        vnode: VnodeId,
        /// `latency` or `bandwidth`.
        field: &'static str,
        /// The given value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// An invalid pair of `attributes`.
    #[error("attributes[{index}]: {what}")]
    Pair {
        /// Position in the list.
        index: usize,
        /// Value and rule.
        what: String,
    },
    /// An invalid memory-side cache.
    #[error("caches[{index}]: {what}")]
    Cache {
        /// Position in the list.
        index: usize,
        /// Value and rule.
        what: String,
    },
    /// An initiator that cannot be one.
    #[error("vnodes[{vnode}].initiator: {initiator} {rule}")]
    Initiator {
        /// The vnode.
        vnode: VnodeId,
        /// The given value.
        initiator: u32,
        /// Why not.
        rule: &'static str,
    },
    /// A pin of a vCPU that is not there, or is pinned already, or of none.
    #[error("pins[{index}].vcpus: {what}")]
    Pin {
        /// Position in the list.
        index: usize,
        /// Value and rule.
        what: String,
    },
    /// A bad distance.
    #[error(transparent)]
    Distance(#[from] DistanceError),
}

impl SpecError {
    /// The stable error code.
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
            Self::Pair { .. } => "attribute_pair",
            Self::Cache { .. } => "cache",
            Self::Initiator { .. } => "initiator",
            Self::Pin { .. } => "pin",
            Self::Distance(_) => "distance",
        }
    }
}
