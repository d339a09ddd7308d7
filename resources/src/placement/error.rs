//! Placement errors: always with vnode, pnodes and numbers.

use crate::diagnosis::ErrorKind;
use crate::ids::{PnodeId, VcpuId, VnodeId};
use crate::placement::explain::{Lack, Miss};
use crate::set::{CpuSet, NodeSet};
use crate::spec::{MemoryPolicy, PlacementPolicy};
use crate::units::Bytes;

/// Why a vnode cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// A pnode that is not there, or not online.
    #[error("vnodes[{vnode}].pnode: {pnode} does not exist, this host has {host}")]
    NoSuchPnode {
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// As requested.
        pnode: PnodeId,
        /// The existing ones.
        host: NodeSet,
    },
    /// A pnode with CPUs only.
    #[error("vnodes[{vnode}].pnode: {pnode} has no memory, must have some for policy={policy}")]
    NoMemory {
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// As requested.
        pnode: PnodeId,
        /// The policy.
        policy: MemoryPolicy,
    },
    /// A pnode that this process's cpuset does not allow memory on.
    #[error(
        "vnodes[{vnode}].pnode: {pnode} is not among Mems_allowed of this process, must be for policy={policy}"
    )]
    MemoryForbidden {
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// As requested.
        pnode: PnodeId,
        /// The policy.
        policy: MemoryPolicy,
    },
    /// This process may not have memory anywhere.
    #[error(
        "vnodes[{vnode}].memory: no pnode has memory that this process may use, a vnode with memory needs one"
    )]
    NoMemoryAnywhere {
        /// The vnode or vCPU.
        vnode: VnodeId,
    },
    /// This process may not run anywhere.
    #[error("vnodes[{vnode}].pnode: no pnode has CPUs that this process may run on, a vnode needs one")]
    NoCpus {
        /// The vnode or vCPU.
        vnode: VnodeId,
    },
    /// A vCPU pinned to CPUs of another host.
    #[error("pins: vCPU {vcpu} is pinned to {cpus}, which this host does not have, must be among {host}")]
    NoPinnedCpu {
        /// The vnode or vCPU.
        vcpu: VcpuId,
        /// As requested.
        cpus: String,
        /// Those there are for this process.
        host: CpuSet,
    },
    /// Not enough memory.
    #[error(
        "vnodes[{vnode}].memory: {asked} do not fit on pnode {pnodes}, which has {} available for it (policy={policy})",
        .available.human_beside(*.asked)
    )]
    Memory {
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// Where.
        pnodes: NodeSet,
        /// The policy.
        policy: MemoryPolicy,
        /// What has to lie there.
        asked: Bytes,
        /// Free and reclaimable memory there, less what the kernel keeps and the vnodes before this one.
        available: Bytes,
    },
    /// Not enough huge pages.
    #[error(
        "vnodes[{vnode}].pages: {asked} pages of {size} do not fit on pnode {pnodes}, which has {available} free for it; \
         raise /sys/{pool}/nr_hugepages"
    )]
    HugePages {
        /// The vnode or vCPU.
        vnode: VnodeId,
        /// Where.
        pnodes: NodeSet,
        /// The policy.
        policy: MemoryPolicy,
        /// Size of a page.
        size: Bytes,
        /// Pages that have to lie there.
        asked: u64,
        /// Pages free there, less those of the vnodes before this one.
        available: u64,
        /// The directory of the first pnode's pool in sysfs.
        pool: String,
    },
    /// `--fit strict`, and there is no pnode for each vnode that named none.
    #[error("{}; nearest is {nearest} (placement={policy}, fit=strict)", nothing_fits(.vnode, .asked))]
    NothingFits {
        /// The first vnode that no pnode has room for; none if each could be placed alone.
        vnode: Option<VnodeId>,
        /// What does not fit: that vnode, or all of them.
        asked: Lack,
        /// The rule.
        policy: PlacementPolicy,
        /// The pnodes that lack least.
        nearest: Miss,
    },
}

fn nothing_fits(vnode: &Option<VnodeId>, asked: &Lack) -> String {
    match vnode {
        Some(vnode) => format!("vnodes[{vnode}].pnode: no pnode has room for {}", asked.amounts()),
        None => format!("vnodes: no pnodes have room for {} in whole vnodes", asked.amounts()),
    }
}

impl PlacementError {
    /// The stable error code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchPnode { .. } => "no_such_pnode",
            Self::NoMemory { .. } => "pnode_without_memory",
            Self::MemoryForbidden { .. } => "pnode_memory_forbidden",
            Self::NoMemoryAnywhere { .. } => "no_memory_anywhere",
            Self::NoCpus { .. } => "no_cpus_anywhere",
            Self::NoPinnedCpu { .. } => "no_pinned_cpu",
            Self::Memory { .. } => "pnode_memory_short",
            Self::NothingFits { .. } => "nothing_fits",
            Self::HugePages { .. } => "pnode_huge_pages_short",
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchPnode { .. } | Self::NoMemory { .. } | Self::NoPinnedCpu { .. } => ErrorKind::Invalid,
            Self::MemoryForbidden { .. } | Self::NoMemoryAnywhere { .. } | Self::NoCpus { .. } => {
                ErrorKind::Forbidden
            }
            Self::Memory { .. } | Self::HugePages { .. } | Self::NothingFits { .. } => ErrorKind::NoRoom,
        }
    }
}
