//! Memory taken back from the guest, or given to it.

use super::jobs::JobState;
use serde::{Deserialize, Serialize};

/// Which way memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum ReclaimKind {
    /// From the guest to the host.
    Take,
    /// From the host to the guest.
    Give,
}

/// What one vnode did for a reclaim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReclaimPart {
    /// Which.
    pub vnode: u32,
    /// What it had on the pnode before.
    pub there: u64,
    /// What its guest was asked for, in all rounds.
    pub asked: u64,
    /// What its balloon took; given back, what it let go.
    pub ballooned: u64,
    /// What it has less on the pnode, as the kernel says.
    pub freed: u64,
    /// What it has less on other pnodes.
    pub elsewhere: u64,
    /// What was moved off the pnode into the room that was freed elsewhere.
    pub moved: u64,
    /// What the VM does not claim any more: room for other VMs.
    #[serde(default)]
    pub released: u64,
    /// How its balloon ended: the words of a balloon's `outcome`, or `whole_pages`; absent if another request took its
    /// place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// Free memory of a pnode, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PnodeFree {
    /// `MemFree`.
    pub free: u64,
    /// Free too, on the CPUs' own lists, which `MemFree` leaves out.
    pub on_cpu_lists: u64,
    /// Free in its pools of huge pages, which `MemFree` leaves out too.
    #[serde(default)]
    pub in_pools: u64,
}

/// Memory of a pnode got back, or given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Reclaim {
    /// Its number, from 1 on for each start of the VM.
    pub id: u64,
    /// Which way.
    pub kind: ReclaimKind,
    /// Which pnode.
    pub pnode: u32,
    /// What was asked.
    pub asked: u64,
    /// Not a page of another pnode.
    pub exact: bool,
    /// Its state; never `cancelled`: `stop` says that.
    pub state: JobState,
    /// Why it ended: `reached`, `short`, `floor`, `elsewhere`, `nothing_there` or `cancelled`; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// What the VM has less on the pnode; given back, what balloons let go.
    pub reached: u64,
    /// What it has less on other pnodes.
    pub elsewhere: u64,
    /// What it does not claim any more: room for other VMs.
    #[serde(default)]
    pub released: u64,
    /// The vnodes that were asked.
    pub parts: Vec<ReclaimPart>,
    /// Free memory of the pnode before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<PnodeFree>,
    /// And after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PnodeFree>,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it has been going on, or went on.
    pub elapsed_ms: u64,
}
