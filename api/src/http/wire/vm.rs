//! The VM as a whole: its state and how it ended.

#[cfg(test)]
use resources::ErrorKind;
use resources::VmSpec;
use serde::{Deserialize, Serialize};

/// The state of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum VmState {
    /// Defined, not booted yet.
    Defined,
    /// Memory is being allocated and the kernel loaded.
    Starting,
    /// vCPUs are running.
    Running,
    /// vCPUs are paused.
    Paused,
    /// It ran and has ended.
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

/// Why the VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum EndCause {
    /// The guest powered off.
    PowerOff,
    /// The guest reset itself under `on_reset: exit`.
    Reset,
    /// A vCPU shut down after a triple fault.
    TripleFault,
    /// It was killed by a signal or a request.
    Killed,
    /// It failed: see `error`.
    Failed,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct End {
    /// Why.
    pub cause: EndCause,
    /// The error, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable error code, as in problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The kind of error, as in problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<ErrorKind>))]
    pub kind: Option<String>,
    /// The configuration field that caused the error, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// The VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Vm {
    /// Its state.
    pub state: VmState,
    /// How the last run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// Process ID of the VMM.
    pub pid: u32,
    /// Version of the VMM.
    pub version: String,
    /// Total bytes of all vnodes.
    pub memory: u64,
    /// Total vCPUs of all vnodes.
    pub vcpus: u32,
    /// Number of vnodes.
    pub vnodes: u32,
    /// The configuration as given.
    pub spec: VmSpec,
}
