//! Jobs that move vnodes.

use resources::NodeSet;
use serde::{Deserialize, Serialize};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum JobState {
    /// Running.
    Running,
    /// All pages were processed.
    Done,
    /// Cancelled by request; pages moved so far stay at the destination.
    Cancelled,
    /// Stopped by an error of the host: see `error`.
    Failed,
}

/// Memory that a move left behind, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct LeftBehind {
    /// The kernel's errno per page: 12 (ENOMEM) for a full node, 16 (EBUSY) for a page in use.
    pub errno: i32,
    /// Bytes.
    pub bytes: u64,
}

/// A move of a vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Job {
    /// ID, starting at 1 for each boot of the VM.
    pub id: u64,
    /// The vnode being moved.
    pub vnode: u32,
    /// Source pnodes.
    #[cfg_attr(test, schema(value_type = String, example = "0"))]
    pub from: NodeSet,
    /// Destination pnodes.
    #[cfg_attr(test, schema(value_type = String, example = "1"))]
    pub to: NodeSet,
    /// Its state.
    pub state: JobState,
    /// Total bytes of the vnode.
    pub total: u64,
    /// Bytes scanned so far.
    pub scanned: u64,
    /// Bytes moved so far.
    pub moved: u64,
    /// Memory left behind, by reason; empty while the job runs.
    pub left: Vec<LeftBehind>,
    /// The error, in one line, if the job failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Requirements that the destination does not meet, such as the CPUs of pinned vCPUs; one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortfalls: Vec<String>,
    /// Duration so far, or in total.
    pub elapsed_ms: u64,
}

/// Running and recent jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Jobs {
    /// Oldest first.
    pub jobs: Vec<Job>,
}
