//! vCPUs: what CPUID says of the topology, how each runs, and its thread.

mod cpuid;
mod exits;
mod fault;
mod gate;
mod msrs;
mod state;
mod stopped;
#[cfg(test)]
pub mod test_vm;
mod threads;
mod vcpu;

pub use cpuid::{CpuidTemplate, name_of_host};
pub use exits::{ExitCounters, ExitReason};
pub use stopped::StoppedVcpu;
pub use threads::VcpuThreads;
pub use vcpu::{StopCause, VcpuError, VcpuSetup};
