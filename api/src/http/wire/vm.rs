//! The VM as a whole: its state and how it ended.

#[cfg(test)]
use resources::ErrorKind;
use resources::VmSpec;
use serde::{Deserialize, Serialize};

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
    /// The stable name of what went wrong: the codes of problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What kind of problem it is: as in problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<ErrorKind>))]
    pub kind: Option<String>,
    /// The field of the VM that is to blame, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// The VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its state.
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
