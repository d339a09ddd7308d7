//! vCPUs: what CPUID says of the topology, and the thread that runs each.

mod cpuid;
mod vcpu;

pub use cpuid::CpuidTemplate;
pub use vcpu::{StopCause, VcpuError, VcpuSetup, VcpuThreads};
