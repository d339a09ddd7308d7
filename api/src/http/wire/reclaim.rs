//! Reclaim and give.

use super::jobs::JobState;
use serde::{Deserialize, Serialize};

/// The direction of a reclaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum ReclaimKind {
    /// From the guest to the host.
    Reclaim,
    /// From the host to the guest.
    Give,
}

/// The part of one vnode in a reclaim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReclaimPart {
    /// Number.
    pub vnode: u32,
    /// Bytes resident on the pnode before.
    pub resident: u64,
    /// Bytes requested from the guest, over all rounds.
    pub requested: u64,
    /// Bytes that the balloon inflated (for `give`: deflated).
    pub ballooned: u64,
    /// Bytes freed on the pnode, as measured from the kernel.
    pub freed: u64,
    /// Bytes freed on other pnodes.
    pub elsewhere: u64,
    /// Bytes moved off the pnode, to where memory was freed on other pnodes.
    pub moved: u64,
    /// Bytes released from the VM's claim, available to other VMs.
    #[serde(default)]
    pub released: u64,
    /// Why the balloon stopped: as in a balloon's `outcome`, or `whole_pages`; absent if another request replaced
    /// this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// Free memory of a pnode, as reported by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PnodeFree {
    /// `MemFree`.
    pub free: u64,
    /// Free pages on per-CPU lists, which are not part of `MemFree`.
    pub on_cpu_lists: u64,
    /// Free pages of its huge page pools, which are not part of `MemFree` either.
    #[serde(default)]
    pub in_pools: u64,
}

/// A reclaim of memory from the guest, or a give to the guest, on one pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Reclaim {
    /// ID, starting at 1 for each boot of the VM.
    pub id: u64,
    /// Direction.
    pub kind: ReclaimKind,
    /// The pnode.
    pub pnode: u32,
    /// Bytes requested.
    pub requested: u64,
    /// Take no page of another pnode.
    pub exact: bool,
    /// State; never `cancelled`, see `stop`.
    pub state: JobState,
    /// Why it ended: `reached`, `short`, `floor`, `elsewhere`, `nothing_there` or `cancelled`; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Bytes freed on the pnode (for `give`: deflated by the balloons).
    pub reached: u64,
    /// Bytes freed on other pnodes.
    pub elsewhere: u64,
    /// Bytes released from the VM's claim, available to other VMs.
    #[serde(default)]
    pub released: u64,
    /// The vnodes involved.
    pub parts: Vec<ReclaimPart>,
    /// Free memory of the pnode before the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<PnodeFree>,
    /// Free memory of the pnode after the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PnodeFree>,
    /// The error, in one line, if the job failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Duration so far, or in total.
    pub elapsed_ms: u64,
}
