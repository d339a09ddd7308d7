//! Vnodes: their memory, where it lies, their vCPUs and balloons.

use resources::{Affinity, CpuSet, MemoryPolicy, NodeSet, PageSize};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Memory of a vnode on one pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct OnPnode {
    /// Where.
    pub pnode: u32,
    /// How much.
    pub bytes: u64,
}

/// Where a vnode's memory lies, asked from the kernel page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Residency {
    /// Milliseconds since the kernel was asked.
    pub age_ms: u64,
    /// Touched memory by pnode, ascending.
    pub on: Vec<OnPnode>,
    /// Not touched yet.
    pub absent: u64,
    /// The kernel would not tell.
    pub unknown: u64,
    /// Of this vnode, on its own pnodes.
    pub hit: u64,
    /// Of other vnodes, on this vnode's pnodes but not on their own.
    pub miss: u64,
    /// Of this vnode, on pnodes that are not its own.
    pub foreign: u64,
    /// Of `hit`, what lies there because its policy interleaves; absent with other policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interleave_hit: Option<u64>,
}

/// A vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vcpu {
    /// Which.
    pub id: u32,
    /// Its thread in the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<i32>,
    /// The host CPUs it may run on.
    #[cfg_attr(test, schema(value_type = String, example = "0-3"))]
    pub affinity: CpuSet,
    /// The host CPU it ran on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// How often it left the guest since the VM started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits: Option<u64>,
}

/// What a vnode's balloon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum BalloonPhase {
    /// Where it should be.
    Idle,
    /// The guest gives pages.
    Inflating,
    /// The guest takes pages back.
    Deflating,
    /// The guest had fewer than were wanted, or needed them back.
    Exhausted,
    /// The guest's driver does nothing.
    Unresponsive,
}

/// How a request for memory ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct BalloonOutcome {
    /// Why: `reached`, `dry`, `exhausted`, `drained`, `unresponsive`, `host_short`, `replaced`, `no_driver` or
    /// `off_node`.
    pub stop: String,
    /// Without a page of another vnode.
    pub exact: bool,
    /// What was to be out.
    pub wanted: u64,
    /// What was out when it ended.
    pub reached: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Bytes a second that came or went meanwhile.
    pub rate: u64,
}

/// A vnode's balloon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Balloon {
    /// The least that the vnode may be asked to keep.
    pub floor: u64,
    /// What its balloon holds of its own memory.
    pub on_node: u64,
    /// What its balloon holds of other vnodes' memory.
    pub off_node: u64,
    /// What the host has back of both.
    pub returned: u64,
    /// Counts the requests.
    pub request: u64,
    /// What it is doing.
    pub phase: BalloonPhase,
    /// How the last request ended; absent before the first and while one is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<BalloonOutcome>,
    /// What its balloon holds and stays taken: parts of huge pages of a pool, which go as a whole.
    pub partial: u64,
    /// What has to be claimed again before the guest, which waits for it, goes on: the pnode has no room.
    #[serde(default)]
    pub short: u64,
    /// Pages that the guest moved while its balloon held them, in all (its compaction).
    pub migrated: u64,
    /// What the guest reported free of this vnode, in all.
    pub reported: u64,
    /// The guest's own figures of all its memory, by name, those without one by number; on the first balloon only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guest: BTreeMap<String, u64>,
}

/// A vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vnode {
    /// Which; the guest's proximity domain.
    pub id: u32,
    /// What it was given at start; less after a reset that found no room for all that was released.
    pub memory: u64,
    /// What it should keep.
    pub target: u64,
    /// What it has.
    pub actual: u64,
    /// What of its memory the VM does not claim any more (`reclaim`): room for other VMs until it is claimed back.
    #[serde(default)]
    pub released: u64,
    /// Its balloon, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
    /// How its memory is held on its pnodes.
    pub policy: MemoryPolicy,
    /// The pages behind it.
    pub pages: PageSize,
    /// How its vCPU threads are held there.
    pub affinity: Affinity,
    /// The pnodes that hold its memory.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub pnodes: NodeSet,
    /// How much of it is bound to each of these, in the order of its addresses, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<OnPnode>,
    /// The pnodes that its vCPUs are at home on.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub cpu_pnodes: NodeSet,
    /// Where its memory lies; absent until the first measurement is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
    /// Its vCPUs, ascending.
    pub vcpus: Vec<Vcpu>,
    /// The job that moves it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    /// What moves of it have done since the VM started.
    #[serde(default)]
    pub moves: Moves,
}

/// What moves of a vnode have done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Moves {
    /// Bytes that were moved.
    pub moved: u64,
    /// Bytes that the kernel would not move, each time that it was asked.
    pub left: u64,
    /// Moves that reached their end.
    pub done: u64,
    /// Moves that were cancelled.
    pub cancelled: u64,
    /// Moves that the host refused part way.
    pub failed: u64,
    /// The same bytes by pnode, ascending: those that moves brought or found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pnodes: Vec<MovesOnPnode>,
}

/// What moves of a vnode have done on one pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MovesOnPnode {
    /// The pnode.
    pub pnode: u32,
    /// Bytes that came to it.
    pub moved: u64,
    /// Bytes that should have left it and were there at the end of a move, each time.
    pub left: u64,
}

/// All vnodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vnodes {
    /// Ascending by id, from 0 without holes.
    pub vnodes: Vec<Vnode>,
    /// Ascending, those that hold memory of the VM, or should: the same measurement the other way round.
    pub pnodes: Vec<PnodeUse>,
}

/// What of a VM lies on a pnode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PnodeUse {
    /// Which.
    pub pnode: u32,
    /// Whose memory, ascending.
    pub vnodes: Vec<OfVnode>,
    /// Of vnodes whose own pnode it is.
    #[serde(default)]
    pub hit: u64,
    /// Of vnodes that should lie elsewhere.
    #[serde(default)]
    pub miss: u64,
    /// Of vnodes that should lie here and lie elsewhere; where a vnode has several pnodes, counted on the first.
    #[serde(default)]
    pub foreign: u64,
    /// Of `hit`, what lies there because a policy interleaves.
    #[serde(default)]
    pub interleave_hit: u64,
}

/// Memory of one vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct OfVnode {
    /// Which.
    pub vnode: u32,
    /// How much.
    pub bytes: u64,
}

/// What the guest has free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct FreeMemory {
    /// By vnode, ascending, in the guest's largest blocks.
    pub vnodes: Vec<OfVnode>,
}
