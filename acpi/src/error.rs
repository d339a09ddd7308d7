//! Why a platform cannot be told in ACPI tables.
//! Each rule is enforced where it is known, in `check` and the table modules.

use crate::hmat::PerformanceKind;
use crate::platform::{MAX_PROCESSORS, MAX_PROXIMITY_DOMAINS, ProximityDomain};
use std::ops::Range;

/// Why there are no tables. `index` is a place in the list that the text names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the text of each variant says what it and its fields are")]
pub enum Error {
    #[error("processors: {count} are given, must be 1 to {MAX_PROCESSORS}")]
    ProcessorCount { count: usize },
    #[error("processors: uid {uid} is given twice, must be unique")]
    DuplicateUid { uid: u32 },
    #[error("processors: apic id {apic_id} is given twice, must be unique")]
    DuplicateApicId { apic_id: u32 },
    #[error("processors[{index}]: apic id {apic_id:#x} is the broadcast id, must be less")]
    BroadcastApicId { index: usize, apic_id: u32 },
    #[error("{list}[{index}]: proximity domain {domain}, must be less than {MAX_PROXIMITY_DOMAINS}")]
    DomainTooLarge { list: &'static str, index: usize, domain: ProximityDomain },
    #[error("memory[{index}]: the range at {base:#x} is empty")]
    EmptyMemory { index: usize, base: u64 },
    #[error("memory[{index}]: {length:#x} bytes at {base:#x} go beyond the 64-bit address space")]
    MemoryTooLong { index: usize, base: u64, length: u64 },
    #[error("memory: the range at {first:#x} reaches into the one at {second:#x}")]
    MemoryOverlap { first: u64, second: u64 },
    #[error("slit: {count} localities, must be 1 to {MAX_PROXIMITY_DOMAINS}")]
    LocalityCount { count: usize },
    #[error("slit[{row}]: {length} distances, must be {expected}, one to each locality")]
    LocalityRowLength { row: usize, length: usize, expected: usize },
    #[error("slit[{from}][{to}]: {distance}, must be 10 on the diagonal and 11 to 255 elsewhere")]
    LocalityDistance { from: usize, to: usize, distance: u8 },
    #[error("slit: proximity domain {domain} has no distances, there are {count} localities")]
    DomainWithoutDistances { domain: ProximityDomain, count: u32 },
    #[error("hmat: proximity domain {domain} is an initiator but has no processor")]
    HmatInitiator { domain: ProximityDomain },
    #[error("hmat: proximity domain {domain} is a target but has no memory")]
    HmatTarget { domain: ProximityDomain },
    #[error("hmat.{list}: proximity domain {domain} is given twice")]
    HmatDomainTwice { list: &'static str, domain: ProximityDomain },
    #[error("hmat.matrices: {kind:?} is given twice")]
    HmatKindTwice { kind: PerformanceKind },
    #[error("hmat.matrices: {kind:?} must have {rows} rows (initiators) of {columns} (targets), neither 0")]
    HmatMatrixSize { kind: PerformanceKind, rows: usize, columns: usize },
    #[error("hmat.matrices: {kind:?} has a value of 0, which would mean that nothing is known")]
    HmatZero { kind: PerformanceKind },
    #[error(
        "hmat.caches[{index}]: level {level} of {levels}, must be 1 to the number of levels, which is 1 to 3"
    )]
    HmatCacheLevel { index: usize, level: u8, levels: u8 },
    #[error("serial: eight registers at {io_base:#x} go beyond the 16-bit port space")]
    SerialPort { io_base: u16 },
    #[error("pci: {count} host bridges, must be at most {max}")]
    BridgeCount { count: usize, max: usize },
    #[error("pci[{index}]: buses {first} to {last}, the first must not be above the last")]
    BridgeBuses { index: usize, first: u8, last: u8 },
    #[error("pci[{second}]: shares buses of segment {segment} with pci[{first}]")]
    BridgeOverlap { first: usize, second: usize, segment: u16 },
    #[error(
        "pci[{index}]: configuration space at {base:#x} is not aligned to 1 MiB or reaches beyond 64 bits"
    )]
    BridgeEcam { index: usize, base: u64 },
    #[error("pci[{index}]: the memory window at {base:#x} is empty or reaches beyond its address space")]
    BridgeWindow { index: usize, base: u64 },
    #[error("pci: the range at {first:#x} reaches into the one at {second:#x}")]
    BridgeRangeOverlap { first: u64, second: u64 },
    #[error("{signature}: {length} bytes, more than a table can have")]
    TableTooLong { signature: String, length: usize },
    #[error("{signature}: {length} bytes do not fit what is left of {:#x} to {:#x}", window.start, window.end)]
    DoesNotFit { signature: String, length: u64, window: Range<u64> },
    #[error(
        "rsdp: {address:#x} must be a multiple of 16 and outside the tables at {:#x} to {:#x}",
        tables.start, tables.end
    )]
    RsdpAddress { address: u64, tables: Range<u64> },
}

impl Error {
    /// A name for programs; does not change when the text does.
    pub fn code(&self) -> &'static str {
        match self {
            Error::ProcessorCount { .. } => "acpi-processor-count",
            Error::DuplicateUid { .. } => "acpi-duplicate-uid",
            Error::DuplicateApicId { .. } => "acpi-duplicate-apic-id",
            Error::BroadcastApicId { .. } => "acpi-broadcast-apic-id",
            Error::DomainTooLarge { .. } => "acpi-domain-too-large",
            Error::EmptyMemory { .. } => "acpi-empty-memory",
            Error::MemoryTooLong { .. } => "acpi-memory-too-long",
            Error::MemoryOverlap { .. } => "acpi-memory-overlap",
            Error::LocalityCount { .. } => "acpi-locality-count",
            Error::LocalityRowLength { .. } => "acpi-locality-row-length",
            Error::LocalityDistance { .. } => "acpi-locality-distance",
            Error::DomainWithoutDistances { .. } => "acpi-domain-without-distances",
            Error::HmatInitiator { .. } => "acpi-hmat-initiator",
            Error::HmatTarget { .. } => "acpi-hmat-target",
            Error::HmatDomainTwice { .. } => "acpi-hmat-domain-twice",
            Error::HmatKindTwice { .. } => "acpi-hmat-kind-twice",
            Error::HmatMatrixSize { .. } => "acpi-hmat-matrix-size",
            Error::HmatZero { .. } => "acpi-hmat-zero",
            Error::HmatCacheLevel { .. } => "acpi-hmat-cache-level",
            Error::SerialPort { .. } => "acpi-serial-port",
            Error::BridgeCount { .. } => "acpi-bridge-count",
            Error::BridgeBuses { .. } => "acpi-bridge-buses",
            Error::BridgeOverlap { .. } => "acpi-bridge-overlap",
            Error::BridgeEcam { .. } => "acpi-bridge-ecam",
            Error::BridgeWindow { .. } => "acpi-bridge-window",
            Error::BridgeRangeOverlap { .. } => "acpi-bridge-range-overlap",
            Error::TableTooLong { .. } => "acpi-table-too-long",
            Error::DoesNotFit { .. } => "acpi-does-not-fit",
            Error::RsdpAddress { .. } => "acpi-rsdp-address",
        }
    }
}
