//! Compares what a set of tables says, as the parser reads it, with the platform it was made of.
//! Which platforms are compared is for the tests.

use super::aml::{self, Term, Value};
use super::cases;
use super::parse::{self, HmatEntry, MadtEntry, SratEntry};
use acpi::{
    IoPort, Localities, MemoryAffinity, MemoryPerformance, MmioWindow, PciHostBridge, Performance,
    PerformanceKind, PerformanceMatrix, Platform, Processor, ProximityDomain, TableSet,
};
use std::collections::BTreeSet;

/// Walks from the RSDP as a guest would and compares all there is with the platform.
pub fn check(platform: &Platform, set: &TableSet) {
    check_layout(set);
    let at = |address: u64| {
        let table = set.tables.iter().find(|table| table.address == address);
        &table.unwrap_or_else(|| panic!("no table at {address:#x}")).bytes
    };
    let listed = parse::xsdt(at(parse::rsdp(&set.rsdp)));
    let signatures: Vec<&[u8]> = listed.iter().map(|&address| &at(address)[..4]).collect();
    let mut expected: Vec<&[u8]> = vec![b"FACP", b"APIC", b"SRAT"];
    let told = platform.slit.as_ref().is_some_and(|slit| slit.count() > 1);
    expected.extend(told.then_some(b"SLIT".as_slice()));
    expected.extend(platform.hmat.as_ref().map(|_| b"HMAT".as_slice()));
    expected.extend((!platform.pci.is_empty()).then_some(b"MCFG".as_slice()));
    assert_eq!(signatures, expected);
    for address in listed {
        let table = at(address);
        match &table[..4] {
            b"FACP" => check_dsdt(platform, at(check_fadt(platform, table))),
            b"APIC" => assert_eq!(parse::madt(table), expected_madt(platform)),
            b"SRAT" => assert_eq!(parse::srat(table), expected_srat(platform)),
            b"SLIT" => check_slit(platform.slit.as_ref().expect("given"), table),
            b"HMAT" => check_hmat(platform.hmat.as_ref().expect("given"), table),
            b"MCFG" => check_mcfg(&platform.pci, table),
            other => panic!("unexpected table {other:?}"),
        }
    }
}

fn check_layout(set: &TableSet) {
    let mut next = cases::WINDOW.start;
    for table in &set.tables {
        assert_eq!(table.address, next.next_multiple_of(16));
        assert_eq!(table.signature, table.bytes[..4]);
        next = table.address + u64::try_from(table.bytes.len()).expect("small");
    }
    assert!(next <= cases::WINDOW.end);
    let signatures: BTreeSet<_> = set.tables.iter().map(|table| table.signature).collect();
    assert_eq!(signatures.len(), set.tables.len(), "every table once");
}

/// Returns the address of the DSDT.
fn check_fadt(platform: &Platform, table: &[u8]) -> u64 {
    let fadt = parse::fadt(table);
    let register = |IoPort(port): IoPort| {
        let [low, high] = port.to_le_bytes();
        [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
    };
    assert_eq!(fadt.boot_arch, if platform.keyboard_controller { 0x26 } else { 0x24 });
    assert_eq!(fadt.flags, 1 << 20 | 1 << 10 | 1 << 6 | 1 << 5 | 1 << 4 | 1);
    assert_eq!((fadt.reset, fadt.reset_value), (register(platform.power.reset), platform.power.reset_value));
    assert_eq!(fadt.sleep_control, register(platform.power.sleep_control));
    assert_eq!(fadt.sleep_status, register(platform.power.sleep_status));
    fadt.dsdt
}

fn expected_madt(platform: &Platform) -> (u32, Vec<MadtEntry>) {
    let mut entries = Vec::new();
    let wide: Vec<bool> = platform.processors.iter().map(|processor| processor.apic_id >= 255).collect();
    let in_order = wide.is_sorted();
    let uids_fit =
        platform.processors.iter().all(|processor| processor.apic_id >= 255 || processor.uid < 255);
    for &Processor { uid, apic_id, present, .. } in &platform.processors {
        let flags = if present { 1 } else { 2 };
        entries.push(match (u8::try_from(uid), u8::try_from(apic_id)) {
            (Ok(uid), Ok(id)) if id < 255 && in_order && uids_fit => MadtEntry::LocalApic { uid, id, flags },
            _ => MadtEntry::X2Apic { id: apic_id, flags, uid },
        });
    }
    let local = entries.iter().filter(|entry| matches!(entry, MadtEntry::LocalApic { .. })).count();
    let io_apic = platform.io_apic;
    entries.push(MadtEntry::IoApic { id: io_apic.id, address: io_apic.address, gsi_base: io_apic.gsi_base });
    if local > 0 {
        entries.push(MadtEntry::LocalApicNmi { uid: 255, flags: 0, lint: 1 });
    }
    if local < platform.processors.len() {
        entries.push(MadtEntry::X2ApicNmi { flags: 0, uid: u32::MAX, lint: 1 });
    }
    (platform.local_apic_address, entries)
}

fn expected_srat(platform: &Platform) -> Vec<SratEntry> {
    let mut entries = Vec::new();
    for (index, &Processor { apic_id, domain, .. }) in (0u64..).zip(&platform.processors) {
        let ProximityDomain(domain) = domain;
        let entry = match u8::try_from(apic_id) {
            Ok(id) if id < 255 => SratEntry::LocalApic { domain, id },
            _ => SratEntry::X2Apic { domain, id: apic_id },
        };
        entries.push(((domain, 0, index), entry));
    }
    for &MemoryAffinity { domain, base, length, hotpluggable } in &platform.memory {
        let ProximityDomain(domain) = domain;
        entries.push(((domain, 1, base), SratEntry::Memory { domain, base, length, hotpluggable }));
    }
    entries.sort_by_key(|(key, _)| *key);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn check_slit(slit: &Localities, table: &[u8]) {
    let distance = |from, to| slit.distance(ProximityDomain(from), ProximityDomain(to)).expect("in range");
    let row = |from| (0..slit.count()).map(|to| distance(from, to)).collect();
    assert_eq!(parse::slit(table), (0..slit.count()).map(row).collect::<Vec<Vec<u8>>>());
}

fn check_hmat(hmat: &MemoryPerformance, table: &[u8]) {
    let mut structures = parse::hmat(table).into_iter();
    for attachment in &hmat.attachments {
        let expected = match attachment.initiator {
            Some(initiator) => {
                HmatEntry::Memory { flags: 1, initiator: initiator.0, memory: attachment.memory.0 }
            }
            None => HmatEntry::Memory { flags: 0, initiator: 0, memory: attachment.memory.0 },
        };
        assert_eq!(structures.next(), Some(expected));
    }
    for matrix in &hmat.matrices {
        let Some(HmatEntry::Locality { data_type, unit, initiators, targets, entries }) = structures.next()
        else {
            panic!("a matrix is missing");
        };
        let kinds = [
            PerformanceKind::AccessLatency,
            PerformanceKind::ReadLatency,
            PerformanceKind::WriteLatency,
            PerformanceKind::AccessBandwidth,
            PerformanceKind::ReadBandwidth,
            PerformanceKind::WriteBandwidth,
        ];
        assert_eq!(kinds.get(usize::from(data_type)), Some(&matrix.kind));
        assert_eq!(initiators, hmat.initiators.iter().map(|domain| domain.0).collect::<Vec<_>>());
        assert_eq!(targets, hmat.targets.iter().map(|domain| domain.0).collect::<Vec<_>>());
        check_matrix(matrix, unit, &entries);
    }
    let caches = hmat.caches.len();
    assert_eq!(structures.filter(|entry| matches!(entry, HmatEntry::Cache { .. })).count(), caches);
}

/// Every figure is within half a unit of what was given, and no smaller unit would have done.
fn check_matrix(matrix: &PerformanceMatrix, unit: u64, entries: &[u16]) {
    let given: Vec<Performance> = matrix.rows.iter().flatten().copied().collect();
    assert_eq!(given.len(), entries.len());
    let mut largest = 0u128;
    for (&given, &entry) in given.iter().zip(entries) {
        let told = u128::from(entry) * u128::from(unit);
        match given {
            Performance::NotProvided => assert_eq!(entry, 0),
            Performance::Unreachable => assert_eq!(entry, 0xffff),
            Performance::Value(value) => {
                let value = u128::from(value);
                assert!((1..=0xfffe).contains(&entry));
                assert!(entry == 1 || value.abs_diff(told) * 2 <= u128::from(unit), "{value} told as {told}");
                assert!(entry != 1 || value < 2 * u128::from(unit));
                largest = largest.max(value);
            }
        }
    }
    let power_of_ten =
        std::iter::successors(Some(1u64), |unit| unit.checked_mul(10)).any(|power| power == unit);
    assert!(power_of_ten, "{unit}");
    let smaller = u128::from(unit / 10);
    assert!(unit == 1 || (2 * largest).div_ceil(2 * smaller) >= 0xfffe, "{unit} is larger than needed");
}

fn check_mcfg(bridges: &[PciHostBridge], table: &[u8]) {
    let expected: Vec<_> = bridges
        .iter()
        .map(|bridge| (bridge.ecam_base, bridge.segment, bridge.bus_first, bridge.bus_last))
        .collect();
    assert_eq!(parse::mcfg(table), expected);
}

fn integer(value: impl Into<u64>) -> Value {
    Value::Integer(value.into())
}

pub fn check_dsdt(platform: &Platform, table: &[u8]) {
    let terms = aml::terms(parse::body(table, b"DSDT", 2).0);
    let names: Vec<&str> = terms.iter().map(Term::name).collect();
    assert_eq!(names, ["_SB_", "_S5_"]);
    let Term::Scope(_, devices) = &terms[0] else { panic!("no scope") };
    let s5 = Value::Package(vec![integer(5u8), integer(0u8), integer(0u8), integer(0u8)]);
    assert_eq!(terms[1], Term::Name("_S5_".into(), s5));
    let unique: BTreeSet<&str> = devices.iter().map(Term::name).collect();
    assert_eq!(unique.len(), devices.len(), "every name once");
    check_processors(platform, devices);
    assert_eq!(aml::find(devices, "COM1").is_some(), platform.serial.is_some());
    if let Some(serial) = &platform.serial {
        let [low, high] = serial.io_base.0.to_le_bytes();
        let mut resources = vec![0x47, 1, low, high, low, high, 1, 8];
        resources.extend(edge_interrupt(serial.irq));
        let com1 = aml::find(devices, "COM1").expect("a serial port");
        assert_eq!(com1.value("_CRS"), Some(&Value::Buffer(resources)));
    }
    let ged = aml::find(devices, "GED_").expect("an event device");
    assert_eq!(ged.value("_HID"), Some(&Value::Text("ACPI0013".into())));
    assert_eq!(ged.value("_CRS"), Some(&Value::Buffer(edge_interrupt(platform.power.event_gsi))));
    let Some(Term::Region { space: 1, offset, length, .. }) = ged.get("EREG") else { panic!("no region") };
    assert_eq!((offset, length), (&integer(platform.power.event_status.0), &integer(1u8)));
    check_bridges(platform, devices);
}

/// An extended interrupt descriptor, and the end tag.
fn edge_interrupt(gsi: u32) -> Vec<u8> {
    let mut bytes = vec![0x89, 6, 0, 0b0011, 1];
    bytes.extend_from_slice(&gsi.to_le_bytes());
    bytes.extend_from_slice(&[0x79, 0]);
    bytes
}

fn check_processors(platform: &Platform, devices: &[Term]) {
    let found: Vec<&Term> = devices
        .iter()
        .filter(|device| device.value("_HID") == Some(&Value::Text("ACPI0007".into())))
        .collect();
    assert_eq!(found.len(), platform.processors.len());
    for (device, processor) in found.into_iter().zip(&platform.processors) {
        assert_eq!(device.value("_UID"), Some(&integer(processor.uid)));
        assert_eq!(device.returns("_PXM"), Some(u64::from(processor.domain.0)));
        assert_eq!(device.value("_STA"), (!processor.present).then_some(&integer(0u8)));
    }
}

fn check_bridges(platform: &Platform, devices: &[Term]) {
    let bridges: Vec<&Term> = devices.iter().filter(|device| device.get("_BBN").is_some()).collect();
    assert_eq!(bridges.len(), platform.pci.len());
    assert_eq!(aml::find(devices, "MBRD").is_some(), !platform.pci.is_empty());
    for (index, (device, bridge)) in (0u64..).zip(bridges.into_iter().zip(&platform.pci)) {
        assert_eq!(device.value("_UID"), Some(&integer(index)));
        assert_eq!(device.value("_SEG"), Some(&integer(bridge.segment)));
        assert_eq!(device.value("_BBN"), Some(&integer(bridge.bus_first)));
        assert_eq!(device.returns("_PXM"), Some(u64::from(bridge.domain.0)));
        assert!(device.get("_OSC").is_some());
        let Some(Value::Buffer(resources)) = device.value("_CRS") else { panic!("no resources") };
        assert_eq!(*resources, expected_resources(bridge));
    }
}

fn expected_resources(bridge: &PciHostBridge) -> Vec<u8> {
    let mut bytes = vec![0x88, 13, 0, 2, 0b1100, 0, 0, 0];
    let (first, last) = (u16::from(bridge.bus_first), u16::from(bridge.bus_last));
    for field in [first, last, 0, last - first + 1] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    if let Some(MmioWindow { base, length }) = bridge.mmio32 {
        bytes.extend_from_slice(&[0x87, 23, 0, 0, 0b1100, 1]);
        for field in [0, base, base + (length - 1), 0, length] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }
    if let Some(MmioWindow { base, length }) = bridge.mmio64 {
        bytes.extend_from_slice(&[0x8a, 43, 0, 0, 0b1100, 1]);
        for field in [0, base, base + (length - 1), 0, length] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&[0x79, 0]);
    bytes
}
