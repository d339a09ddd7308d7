//! The service itself.

use super::vm::VmState;
use serde::{Deserialize, Serialize};

/// The version of the API: the number in its paths.
pub const API_VERSION: u32 = 1;

/// Whether the service works. One that does not answers with a problem, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum HealthStatus {
    /// It takes requests.
    Ok,
}

/// The health of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Health {
    /// Whether it works.
    pub status: HealthStatus,
    /// The state of the VM, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmState>,
}

/// Which service it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Version {
    /// The version of the program.
    pub version: String,
    /// The version of this API, which is in its paths.
    pub api: u32,
    /// The process.
    pub pid: u32,
}
