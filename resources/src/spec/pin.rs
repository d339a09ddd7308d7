//! Pins of vCPUs to host CPUs, as given. `cpu_list` resolves the CPUs on a host.

use crate::cpu_list::CpuList;
use crate::set::VcpuSet;
use serde::{Deserialize, Serialize};

/// vCPUs and the host CPUs that each of them may run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PinSpec {
    /// The vCPUs.
    pub vcpus: VcpuSet,
    /// Their host CPUs.
    pub cpus: CpuList,
}
