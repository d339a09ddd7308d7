//! The bodies of requests, but for what is typed of a VM.

use resources::{Affinity, Bytes, CpuSet, NodeSet};
use serde::{Deserialize, Serialize};

/// Where to move a vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MoveRequest {
    /// The pnode or pnodes: a number, an array, or a list such as `0-1`.
    pub pnode: NodeSet,
    /// Bytes per second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// Which vnodes change places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SwapRequest {
    /// Two of them.
    pub vnodes: [u32; 2],
    /// Bytes per second at most, both ways together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// Which pnode is to have nothing of the VM any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct EvacuateRequest {
    /// The pnode.
    pub pnode: u32,
    /// Bytes per second at most, of all its vnodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// Where a vCPU may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct AffinityRequest {
    /// Host CPUs: a number, an array, or a list such as `0-3,8`.
    pub cpus: CpuSet,
}

/// How the vCPUs of a vnode are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct VnodeAffinityRequest {
    /// On a CPU each, as long as there are enough, on all CPUs of the pnodes, or on any CPU.
    pub affinity: Affinity,
    /// The pnodes whose CPUs they get; without it those that they are at home on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnode: Option<NodeSet>,
}

/// What a vnode should keep of its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TargetRequest {
    /// Bytes, or a size such as `512M`.
    pub target: Bytes,
}

/// How much memory to get back from a pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReclaimRequest {
    /// From which pnode.
    pub pnode: u32,
    /// Bytes, or a size such as `512M`.
    pub bytes: Bytes,
    /// Not a page of another pnode; without it other pnodes give what this one cannot.
    #[serde(default)]
    pub exact: bool,
}

/// The link of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NetLinkRequest {
    /// Up, or down: then frames are dropped both ways.
    pub up: bool,
}

/// How long a disk should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DiskSizeRequest {
    /// Bytes, or a size such as `2G`; no less than the disk has. Without it the guest is told the size that the file or
    /// the block device has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
}

/// How much memory of a pnode to give back to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct GiveRequest {
    /// On which pnode.
    pub pnode: u32,
    /// Bytes, or a size such as `512M`.
    pub bytes: Bytes,
}
