//! Request bodies, except the VM's configuration.

use resources::{Affinity, Bytes, CpuSet, NodeSet};
use serde::{Deserialize, Serialize};

/// The destination of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MoveRequest {
    /// The pnode or pnodes: a number, an array, or a list such as `0-1`.
    pub pnode: NodeSet,
    /// Maximum bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// Two vnodes to swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SwapRequest {
    /// Two different vnodes.
    pub vnodes: [u32; 2],
    /// Maximum bytes per second, both directions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// The pnode to move everything off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct EvacuateRequest {
    /// The pnode.
    pub pnode: u32,
    /// Maximum bytes per second, all vnodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

/// The affinity of a vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct AffinityRequest {
    /// Host CPUs: a number, an array, or a list such as `0-3,8`.
    pub cpus: CpuSet,
}

/// The affinity of all vCPUs of a vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct VnodeAffinityRequest {
    /// `hard`: one CPU each, while there are enough; `soft`: all CPUs of the pnodes; `none`: any CPU.
    pub affinity: Affinity,
    /// The pnodes whose CPUs to use; default: their current home pnodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnode: Option<NodeSet>,
}

/// A balloon target: how much memory the vnode keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TargetRequest {
    /// Bytes, or a size such as `512M`.
    pub target: Bytes,
}

/// How much memory to reclaim from a pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReclaimRequest {
    /// From which pnode.
    pub pnode: u32,
    /// Bytes, or a size such as `512M`.
    pub bytes: Bytes,
    /// Take no page of another pnode; otherwise other pnodes make up for a shortfall.
    #[serde(default)]
    pub exact: bool,
}

/// The link of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NetLinkRequest {
    /// Whether the link is up; while it is down, frames are dropped in both directions.
    pub up: bool,
}

/// The new size of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DiskSizeRequest {
    /// Bytes, or a size such as `2G`; a disk cannot shrink. Without it, the guest is notified of the current size of the
    /// file or block device.
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
