//! Jobs that move vnodes.

use resources::NodeSet;
use serde::{Deserialize, Serialize};

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
    /// Its state.
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
