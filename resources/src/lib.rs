//! VM configuration, host resources and their assignment: pure types and pure decisions, same input, same result.
//! `acpi` encodes tables, `vmm` acts on the host.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod cpu_list;
pub mod cpu_topology;
pub mod devices;
pub mod diagnosis;
pub mod distance;
pub mod host;
pub mod ids;
pub mod lease;
pub mod ledger;
pub mod memory_map;
pub mod pci_map;
pub mod placement;
pub mod plan;
pub mod recheck;
pub mod reclaim;
pub mod replacement;
#[cfg(feature = "schema")]
mod schema;
pub mod set;
pub mod spec;
#[cfg(any(test, feature = "test-hosts"))]
pub mod test_host;
pub mod topology;
pub mod units;

pub use attributes::{AccessAttributes, MemoryAttributes, MemorySideCache, PairAttributes};
pub use cpu_list::CpuList;
pub use cpu_topology::CpuTopology;
pub use devices::{DeviceError, VmDevices};
pub use diagnosis::{Diagnosis, ErrorKind};
pub use distance::{Distance, DistanceMatrix};
pub use host::{HostError, HostRoot, HostTopology, Pnode, PnodeFree};
pub use ids::{ApicId, PcpuId, PnodeId, VcpuId, VnodeId};
pub use ledger::{Claim, Ledger, NodeClaim};
pub use memory_map::{Gpa, MemoryMap, RamRange};
pub use pci_map::{PciMap, PciSegment};
pub use placement::{MemoryPart, Placement, PlacementError, Shortfall, VnodePlacement};
pub use plan::{Plan, PlanError};
pub use recheck::still_fits;
pub use set::{CpuSet, IdSet, NodeSet, VcpuSet};
pub use spec::{
    Affinity, AttributeSpec, CacheSpec, Fit, MemoryPolicy, OnReset, PageSize, PinSpec, PlacementPolicy,
    SerialSpec, VmSpec, VnodeCount, VnodeSpec,
};
pub use topology::{SpecError, VmTopology, Vnode};
pub use units::Bytes;
