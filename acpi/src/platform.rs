//! The platform in words: processors, memory ranges, devices and how they are near or far from each other.
//! Holds plain values only; `check` says whether they can be told to a guest, the table modules say how.

use crate::{Localities, MemoryPerformance};

/// Most processors a platform may have: their AML names are `C` and three hexadecimal digits.
pub const MAX_PROCESSORS: usize = 4096;

/// Proximity domains run from 0 to one less than this: Linux on x86 has at most 2^10 nodes (`NODES_SHIFT`) and
/// ignores a larger domain number.
pub const MAX_PROXIMITY_DOMAINS: u32 = 1024;

/// The number that SRAT, SLIT, HMAT and `_PXM` share (ACPI 6.5, 6.2.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProximityDomain(pub u32);

impl std::fmt::Display for ProximityDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An 8-bit register in the I/O port space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoPort(pub u16);

/// One logical processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// The same in MADT and in `_UID`.
    pub uid: u32,
    /// The local APIC's id; from 255 on it is told in x2APIC entries.
    pub apic_id: u32,
    /// Where the processor is.
    pub domain: ProximityDomain,
    /// Runs from the start; otherwise it is only announced as one that may come later.
    pub present: bool,
}

/// One range of guest-physical memory; `length` is in bytes and not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryAffinity {
    /// Where the memory is.
    pub domain: ProximityDomain,
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// Memory may come and go here, none has to be there at the start.
    pub hotpluggable: bool,
}

/// The only interrupt controller besides the local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// Where its registers are.
    pub address: u32,
    /// Global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// A 16550 serial port with eight registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial {
    /// First register.
    pub io_base: IoPort,
    /// Global system interrupt, edge triggered, active high.
    pub irq: u32,
}

/// Power off, reset and the events the machine can raise; all registers are 8 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Power {
    /// The guest powers off by writing [`POWER_OFF_VALUE`](crate::POWER_OFF_VALUE) here (ACPI 6.5, 4.8.3.7).
    pub sleep_control: IoPort,
    /// The guest writes the wake status bit here and reads it back (ACPI 6.5, 4.8.3.7).
    pub sleep_status: IoPort,
    /// The guest resets by writing `reset_value` here (ACPI 6.5, 4.8.3.6).
    ///
    /// Linux 6.1 and 6.12 on a hardware-reduced machine without EFI do so only with `reboot=acpi` (or
    /// `efi=noruntime`) on the command line: otherwise they choose EFI and, as there is none, jump to F000:FFF0 in
    /// real mode.
    pub reset: IoPort,
    /// See `reset`.
    pub reset_value: u8,
    /// Reading says which events are pending, as bits, and clears them.
    pub event_status: IoPort,
    /// Global system interrupt raised (edge, active high) when an event becomes pending.
    pub event_gsi: u32,
}

/// A range of addresses a host bridge forwards; `length` is in bytes and not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioWindow<T> {
    /// First byte.
    pub base: T,
    /// Bytes.
    pub length: T,
}

/// A PCI host bridge. A device's node is that of its host bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciHostBridge {
    /// Segment group, `_SEG`.
    pub segment: u16,
    /// The root bus, `_BBN`.
    pub bus_first: u8,
    /// The last bus behind the bridge.
    pub bus_last: u8,
    /// Where bus 0's configuration space is or would be, 1 MiB per bus; the part of the bridge's own buses is
    /// reserved for it.
    pub ecam_base: u64,
    /// Where the bridge, and all that is behind it, is.
    pub domain: ProximityDomain,
    /// Memory window below 4 GiB.
    pub mmio32: Option<MmioWindow<u32>>,
    /// Memory window anywhere.
    pub mmio64: Option<MmioWindow<u64>>,
}

/// All that the tables tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// In vCPU order, which is the order in MADT and the one in which Linux numbers its CPUs.
    pub processors: Vec<Processor>,
    /// In any order.
    pub memory: Vec<MemoryAffinity>,
    /// Relative distances; told when there is more than one locality.
    pub slit: Option<Localities>,
    /// Latencies and bandwidths.
    pub hmat: Option<MemoryPerformance>,
    /// Where every processor finds its own local APIC.
    pub local_apic_address: u32,
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// COM1.
    pub serial: Option<Serial>,
    /// Power off, reset and events.
    pub power: Power,
    /// The machine has a keyboard controller (FADT, `IAPC_BOOT_ARCH`).
    pub keyboard_controller: bool,
    /// PCI host bridges, in the order of their AML names and `_UID`s.
    pub pci: Vec<PciHostBridge>,
}
