//! What goes over the socket, but for what was typed (`VmSpec`), plans and hosts, which are the same everywhere.
//! Fields are added, never changed. Sizes are bytes; sets are Linux lists (`0-3,8`).

use resources::{Affinity, Bytes, CpuSet, MemoryPolicy, NodeSet, PageSize, VmSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the VM stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum VmState {
    /// It was described and never ran.
    Defined,
    /// Memory is being taken and the payload loaded.
    Starting,
    /// vCPUs run.
    Running,
    /// vCPUs wait.
    Paused,
    /// It ran, and ended.
    Stopped,
}

impl VmState {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Defined => "defined",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Defined, Self::Starting, Self::Running, Self::Paused, Self::Stopped];
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum EndCause {
    /// The guest powered off.
    PowerOff,
    /// The guest reset itself under `on_reset: exit`.
    Reset,
    /// A vCPU faulted while it handled a fault.
    TripleFault,
    /// Somebody ended it from outside.
    Killed,
    /// It could not start or go on: `error` says why.
    Failed,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct End {
    /// Why.
    pub cause: EndCause,
    /// What went wrong, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vm {
    /// How it stands.
    pub state: VmState,
    /// How it ended the last time it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The process that runs it.
    pub pid: u32,
    /// The version of that process.
    pub version: String,
    /// Bytes of all vnodes.
    pub memory: u64,
    /// vCPUs of all vnodes.
    pub vcpus: u32,
    /// How many vnodes it has.
    pub vnodes: u32,
    /// As typed.
    pub spec: VmSpec,
}

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
    /// How often it left the guest since the guest started.
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

/// How long a disk is for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DiskSize {
    /// Its number, in the order in which the disks were given.
    pub id: u32,
    /// Bytes, in whole sectors.
    pub size: u64,
}

/// What the transport of a device counts, since the guest started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DeviceCounters {
    /// The driver started the device.
    pub activations: u64,
    /// The driver reset it.
    pub resets: u64,
    /// The driver wanted features that cannot be had.
    pub refused_features: u64,
    /// The device could not start.
    pub failed_activations: u64,
    /// Queues that the driver broke.
    pub queue_faults: u64,
    /// Register accesses that made no sense.
    pub ignored_accesses: u64,
    /// Notifications that came through an exit.
    pub slow_notifications: u64,
    /// Interrupts, routes and addresses that the host refused.
    pub host_failures: u64,
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Device {
    /// Such as `blk0`, the first disk.
    pub name: String,
    /// Where it sits.
    pub vnode: u32,
    /// What it counts.
    pub counters: DeviceCounters,
}

/// All virtio devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Devices {
    /// In the order in which they were made.
    pub devices: Vec<Device>,
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
    /// How it stands; never `cancelled`: `stop` says that.
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

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum JobState {
    /// Going on.
    Running,
    /// Every page was looked at.
    Done,
    /// Ended by request; what was moved is there, the rest where it was.
    Cancelled,
    /// The host refused part way: `error` says why.
    Failed,
}

/// Memory left behind by a move, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct LeftBehind {
    /// As the kernel said it for each page: 12 (ENOMEM) for a full node, 16 (EBUSY) for a page in use.
    pub errno: i32,
    /// How much.
    pub bytes: u64,
}

/// A move of a vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Job {
    /// Its number, from 1 on for each start of the VM.
    pub id: u64,
    /// The vnode that moves.
    pub vnode: u32,
    /// The pnodes it was on.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub from: NodeSet,
    /// The pnodes it goes to.
    #[cfg_attr(test, schema(value_type = String, example = "1"))]
    pub to: NodeSet,
    /// How it stands.
    pub state: JobState,
    /// Bytes of the vnode.
    pub total: u64,
    /// Bytes looked at.
    pub seen: u64,
    /// Bytes moved.
    pub moved: u64,
    /// What stayed, by reason; empty until it ended.
    pub left: Vec<LeftBehind>,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the new place does not have that was asked for, a line each: such as CPUs that vCPUs were pinned to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortfalls: Vec<String>,
    /// How long it has been going on, or went on.
    pub elapsed_ms: u64,
}

/// All jobs that are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Jobs {
    /// Oldest first.
    pub jobs: Vec<Job>,
}
