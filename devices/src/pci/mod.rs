//! PCI Express functions behind a host bridge of their own per segment, with MSI-X as their only interrupts.
//! Where segments and their windows lie is `resources`' arithmetic; announcing them is `acpi`'s work.

mod bar;
mod config;
mod decode;
mod function;
mod host;
mod host_bridge;
mod mechanism1;
mod msix;
mod segment;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(crate) mod testing;

pub use bar::{Bar, BarError};
pub use config::{
    BarState, CONFIG_BYTES, CapabilityError, CapabilityState, Command, ConfigSpace, ConfigSpaceState,
    Identity,
};
pub use function::PciFunction;
pub use host::{IoEvents, MsixVectors, OnFailure, WorkerHandle, WorkerSpawner};
pub use host_bridge::HostBridge;
pub use mechanism1::{MECHANISM1_PORTS, Mechanism1, Mechanism1State};
pub use msix::{MSIX_CAPABILITY, MSIX_VECTORS_MAX, Msix, MsixState, VectorState};
pub use segment::{
    DecodedBar, ECAM_BYTES, FunctionState, PciSegment, PciSegmentBuilder, SLOTS, SegmentError, SegmentState,
};
