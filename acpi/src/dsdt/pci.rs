//! PCI host bridges `\_SB.P000` and so on, each a segment or a range of buses with its own proximity domain.
//! Leaves interrupts out: devices use MSI-X only, so there is no `_PRT`.

use super::{Proximity, numbered_name};
use crate::platform::PciHostBridge;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, If,
    Local, Method, MethodCall, Name, NotEqual, Or, Path, ResourceTemplate, Return, Store, Uuid, ZERO,
};
use acpi_tables::{Aml, AmlSink};

/// Bridges are numbered with three hexadecimal digits.
pub(crate) const MAX_BRIDGES: usize = 4096;

/// PCI Express and PCI host bridge (PnP device ids, PNP0Axx).
const HID_HOST_BRIDGE: &str = "PNP0A08";
const CID_HOST_BRIDGE: &str = "PNP0A03";
/// Motherboard resources (PnP device ids, PNP0Cxx).
const HID_MOTHERBOARD: &str = "PNP0C02";

/// Configuration space of a bus (PCI Express Base Specification 6.0, 7.2.2).
const ECAM_BYTES_PER_BUS: u64 = 1 << 20;

/// `_OSC` of a host bridge (PCI Firmware Specification 3.3, 4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
const OSC_REVISION: u8 = 1;
/// First DWORD (ACPI 6.5, 6.2.11): what was wrong with the request.
const OSC_UNRECOGNIZED_UUID: u8 = 1 << 2;
const OSC_UNRECOGNIZED_REVISION: u8 = 1 << 3;
const OSC_CAPABILITIES_MASKED: u8 = 1 << 4;
/// Third DWORD (PCI Firmware Specification 3.3, 4.5.1): what the guest may control by itself. Native hot plug,
/// power management events, advanced error reporting, the PCI Express capability structure; not SHPC.
const OSC_GRANTED: u8 = 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// QWord address space descriptor (ACPI 6.5, 6.4.3.5.1): tag, length, memory, consumer with fixed minimum and
/// maximum, read-write and not cacheable.
const QWORD_ADDRESS_SPACE: [u8; 6] = [0x8a, 43, 0, 0, 0b1101, 1];

/// First and last byte of the configuration space of the bridge's own buses, `None` if it is not aligned to a bus
/// or reaches beyond 64 bits.
pub(crate) fn ecam_range(bridge: &PciHostBridge) -> Option<(u64, u64)> {
    if !bridge.ecam_base.is_multiple_of(ECAM_BYTES_PER_BUS) {
        return None;
    }
    let first = bridge.ecam_base.checked_add(u64::from(bridge.bus_first) * ECAM_BYTES_PER_BUS)?;
    let length = (u64::from(bridge.bus_last) + 1 - u64::from(bridge.bus_first)) * ECAM_BYTES_PER_BUS;
    Some((first, first.checked_add(length - 1)?))
}

pub(super) fn push(aml: &mut Vec<u8>, bridges: &[PciHostBridge]) {
    if bridges.is_empty() {
        return;
    }
    push_reservation(aml, bridges);
    push_osc(aml);
    for (index, bridge) in bridges.iter().enumerate() {
        push_bridge(aml, index, bridge);
    }
}

/// Linux uses a segment's configuration space only if a motherboard device claims it.
fn push_reservation(aml: &mut Vec<u8>, bridges: &[PciHostBridge]) {
    let ranges: Vec<_> =
        bridges.iter().filter_map(ecam_range).map(|(min, max)| Reserved { min, max }).collect();
    let descriptors = ranges.iter().map(|range| range as &dyn Aml).collect();
    Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(HID_MOTHERBOARD)),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(descriptors)),
        ],
    )
    .to_aml_bytes(aml);
}

/// Memory that a device uses itself; `acpi_tables` has only windows that are passed on. From first to last byte.
struct Reserved {
    min: u64,
    max: u64,
}

impl Aml for Reserved {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&QWORD_ADDRESS_SPACE);
        for field in [0, self.min, self.max, 0, (self.max - self.min).saturating_add(1)] {
            sink.qword(field);
        }
    }
}

fn push_bridge(aml: &mut Vec<u8>, index: usize, bridge: &PciHostBridge) {
    let buses = AddressSpace::new_bus_number(u16::from(bridge.bus_first), u16::from(bridge.bus_last));
    let uncached = AddressSpaceCacheable::NotCacheable;
    let mmio32 = bridge.mmio32.map(|window| {
        AddressSpace::new_memory(uncached, true, window.base, window.base + (window.length - 1), None)
    });
    let mmio64 = bridge.mmio64.map(|window| {
        AddressSpace::new_memory(uncached, true, window.base, window.base + (window.length - 1), None)
    });
    let mut resources: Vec<&dyn Aml> = vec![&buses];
    resources.extend(mmio32.iter().map(|window| window as &dyn Aml));
    resources.extend(mmio64.iter().map(|window| window as &dyn Aml));
    let shared = MethodCall::new(Path::new("POSC"), vec![&Arg(0), &Arg(1), &Arg(3)]);
    Device::new(
        numbered_name('P', index),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(HID_HOST_BRIDGE)),
            &Name::new(Path::new("_CID"), &EISAName::new(CID_HOST_BRIDGE)),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_SEG"), &bridge.segment),
            &Name::new(Path::new("_BBN"), &bridge.bus_first),
            &Proximity(bridge.domain),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)),
            &Method::new(Path::new("_OSC"), 4, false, vec![&Return::new(&shared)]),
        ],
    )
    .to_aml_bytes(aml);
}

/// `\_SB.POSC`, which every bridge's `_OSC` calls: grants what the guest asks for as far as we know it.
/// Arg0 is the UUID, Arg1 the revision, Arg2 the buffer of DWORDs.
fn push_osc(aml: &mut Vec<u8>) {
    let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
    let set = |bit: &'static u8| Or::new(&status, &status, bit);
    let wrong_revision = set(&OSC_UNRECOGNIZED_REVISION);
    let masked = set(&OSC_CAPABILITIES_MASKED);
    let wrong_uuid = set(&OSC_UNRECOGNIZED_UUID);
    Method::new(
        Path::new("POSC"),
        3,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(2), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new(OSC_UUID)),
                vec![
                    &CreateDWordField::new(&control, &Arg(2), &8u8),
                    &And::new(&Local(0), &control, &OSC_GRANTED),
                    &If::new(&NotEqual::new(&Arg(1), &OSC_REVISION), vec![&wrong_revision]),
                    &If::new(&NotEqual::new(&control, &Local(0)), vec![&masked]),
                    &Store::new(&control, &Local(0)),
                ],
            ),
            &Else::new(vec![&wrong_uuid]),
            &Return::new(&Arg(2)),
        ],
    )
    .to_aml_bytes(aml);
}
