//! Health and version of the service.

use super::vm::VmState;
use serde::{Deserialize, Serialize};

/// The version of the API: the number in its paths.
pub const API_VERSION: u32 = 1;

/// The health of the service. An unhealthy service responds with a problem, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum HealthStatus {
    /// It accepts requests.
    Ok,
}

/// The health of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Health {
    /// The status.
    pub status: HealthStatus,
    /// The state of the VM, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmState>,
}

/// Versions of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Version {
    /// Version of the program.
    pub version: String,
    /// Version of this API, as in its paths.
    pub api: u32,
    /// Process ID.
    pub pid: u32,
}
