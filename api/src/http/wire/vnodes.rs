//! Vnodes: memory, residency, vCPUs and balloons.

use resources::{Affinity, CpuSet, MemoryPolicy, NodeSet, PageSize};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Memory on one pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct OnPnode {
    /// The pnode.
    pub pnode: u32,
    /// Bytes.
    pub bytes: u64,
}

/// Where a vnode's memory resides, queried from the kernel page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Residency {
    /// Milliseconds since the measurement.
    pub age_ms: u64,
    /// Touched bytes by pnode, ascending.
    pub on: Vec<OnPnode>,
    /// Bytes not touched yet.
    pub absent: u64,
    /// Bytes whose location the kernel does not report.
    pub unknown: u64,
    /// Bytes of this vnode on its own pnodes.
    pub local: u64,
    /// Bytes of other vnodes that are misplaced on this vnode's pnodes.
    pub others_misplaced: u64,
    /// Bytes of this vnode on pnodes that its policy does not name.
    pub misplaced: u64,
    /// The part of `local` placed by an interleave policy; absent with other policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interleave_hit: Option<u64>,
}

/// A vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vcpu {
    /// Number.
    pub id: u32,
    /// Thread ID on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<i32>,
    /// The host CPUs it may run on.
    #[cfg_attr(test, schema(value_type = String, example = "0-3"))]
    pub affinity: CpuSet,
    /// The host CPU it ran on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// VM exits since the VM started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exits: Option<u64>,
}

/// The phase of a balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum BalloonPhase {
    /// At its target.
    Idle,
    /// The guest is inflating.
    Inflating,
    /// The guest is deflating.
    Deflating,
    /// The guest ran out of free memory, or took pages back.
    Exhausted,
    /// The guest's driver does not respond.
    Unresponsive,
}

/// The outcome of a balloon request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct BalloonOutcome {
    /// Why it stopped: `reached`, `dry`, `exhausted`, `drained`, `unresponsive`, `host_short`, `replaced`, `no_driver` or
    /// `off_node`.
    pub stop: String,
    /// Whether pages of other vnodes were excluded.
    pub exact: bool,
    /// Bytes that the balloon was to hold.
    pub requested: u64,
    /// Bytes that the balloon held at the end.
    pub reached: u64,
    /// Duration.
    pub elapsed_ms: u64,
    /// Average bytes per second.
    pub rate: u64,
}

/// A vnode's balloon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Balloon {
    /// The minimum target.
    pub floor: u64,
    /// Bytes of this vnode in the balloon.
    pub on_node: u64,
    /// Bytes of other vnodes in the balloon.
    pub off_node: u64,
    /// Bytes of both that were returned to the host.
    pub returned: u64,
    /// Number of the last request.
    pub request: u64,
    /// Phase.
    pub phase: BalloonPhase,
    /// Outcome of the last request; absent before the first one and while one is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<BalloonOutcome>,
    /// Bytes in the balloon that the host cannot free: parts of hugetlb pages, which are freed as a whole.
    pub partial: u64,
    /// Bytes that the guest waits for: they must be claimed again, and the pnode has no room.
    #[serde(default)]
    pub short: u64,
    /// Balloon pages that the guest migrated (compaction), in total.
    pub migrated: u64,
    /// Bytes of this vnode that the guest reported free, in total.
    pub reported: u64,
    /// The guest's memory statistics by name, or by tag number if unknown; on the first balloon only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guest: BTreeMap<String, u64>,
}

/// A vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vnode {
    /// Number, which is the guest's proximity domain.
    pub id: u32,
    /// Bytes at boot; less after a reset that found no room for released memory.
    pub memory: u64,
    /// Balloon target: bytes to keep.
    pub target: u64,
    /// Bytes it has now.
    pub actual: u64,
    /// Bytes released from the VM's claim by `reclaim`, available to other VMs until claimed back.
    #[serde(default)]
    pub released: u64,
    /// Its balloon, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Balloon>,
    /// Memory policy.
    pub policy: MemoryPolicy,
    /// Page size of its backing.
    pub pages: PageSize,
    /// Affinity of its vCPU threads.
    pub affinity: Affinity,
    /// The pnodes that hold its memory.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub pnodes: NodeSet,
    /// Bytes bound to each of several pnodes, in address order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<OnPnode>,
    /// Home pnodes of its vCPUs.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub cpu_pnodes: NodeSet,
    /// Where its memory resides; absent until the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Residency>,
    /// Its vCPUs, ascending.
    pub vcpus: Vec<Vcpu>,
    /// The job that is moving it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    /// Totals of its moves since boot.
    #[serde(default)]
    pub moves: Moves,
}

/// Totals of the moves of a vnode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Moves {
    /// Bytes moved.
    pub moved: u64,
    /// Bytes that the kernel did not move, over all attempts.
    pub left: u64,
    /// Completed moves.
    pub done: u64,
    /// Cancelled moves.
    pub cancelled: u64,
    /// Failed moves.
    pub failed: u64,
    /// The same bytes by pnode, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pnodes: Vec<MovesOnPnode>,
}

/// Totals of the moves of a vnode on one pnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct MovesOnPnode {
    /// The pnode.
    pub pnode: u32,
    /// Bytes moved to it.
    pub moved: u64,
    /// Bytes left behind on it, over all moves.
    pub left: u64,
}

/// All vnodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vnodes {
    /// Ascending by id, from 0 without gaps.
    pub vnodes: Vec<Vnode>,
    /// The same measurement by pnode, ascending: all that hold memory of the VM, or should.
    pub pnodes: Vec<PnodeUse>,
}

/// Memory of the VM on one pnode, with the figures of `numastat`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct PnodeUse {
    /// Number.
    pub pnode: u32,
    /// Bytes by vnode, ascending.
    pub vnodes: Vec<OfVnode>,
    /// `numa_hit`: bytes that are here as their policy intends.
    #[serde(default)]
    pub hit: u64,
    /// `numa_miss`: bytes that are here but were intended for another pnode.
    #[serde(default)]
    pub miss: u64,
    /// `numa_foreign`: bytes intended for this pnode that are elsewhere; a vnode with several pnodes counts on the first.
    #[serde(default)]
    pub foreign: u64,
    /// `interleave_hit`: the part of `hit` placed by an interleave policy.
    #[serde(default)]
    pub interleave_hit: u64,
}

/// Memory of one vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct OfVnode {
    /// Number.
    pub vnode: u32,
    /// Bytes.
    pub bytes: u64,
}

/// Free memory of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct FreeMemory {
    /// Bytes by vnode, ascending, in free blocks of the largest order.
    pub vnodes: Vec<OfVnode>,
}
