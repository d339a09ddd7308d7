//! ACPI tables for virtual NUMA machines: words to bytes.
//! Knows proximity domains, APIC ids and addresses; what a vnode is and where the bytes end up is for others.
#![forbid(unsafe_code)]

mod check;
mod dsdt;
mod error;
mod fadt;
mod hmat;
mod madt;
mod mcfg;
mod platform;
mod rsdp;
mod slit;
mod srat;
mod tables;
mod xsdt;

pub use dsdt::{EVENT_POWER_BUTTON, POWER_OFF_VALUE, SLEEP_TYPE_S5};
pub use error::Error;
pub use hmat::{
    Associativity, MemoryAttachment, MemoryPerformance, MemorySideCache, Performance, PerformanceKind,
    PerformanceMatrix, WritePolicy,
};
pub use platform::{
    IoApic, IoPort, MAX_PROCESSORS, MAX_PROXIMITY_DOMAINS, MemoryAffinity, MmioWindow, PciHostBridge,
    Platform, Power, Processor, ProximityDomain, Serial,
};
pub use slit::Localities;
pub use tables::{Table, TableSet, build, length};
