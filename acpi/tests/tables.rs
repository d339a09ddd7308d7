//! What the tables say equals the platform, for every golden case and for arbitrary platforms; no platform panics.

mod support;

use acpi::{
    Error, IoPort, Localities, MemoryAffinity, MemoryAttachment, MemoryPerformance, MmioWindow,
    PciHostBridge, Performance, PerformanceKind, PerformanceMatrix, Platform, Processor, ProximityDomain,
    Serial, TableSet,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use support::aml::{self, Term, Value};
use support::cases;
use support::parse::{self, HmatEntry, MadtEntry, SratEntry};

/// Walks from the RSDP as a guest would and compares all there is with the platform.
fn check(platform: &Platform, set: &TableSet) {
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
    for &Processor { uid, apic_id, present, .. } in &platform.processors {
        let flags = if present { 1 } else { 2 };
        entries.push(match u8::try_from(apic_id) {
            Ok(id) if id < 255 => MadtEntry::LocalApic { uid: u8::try_from(uid).expect("small"), id, flags },
            _ => MadtEntry::X2Apic { id: apic_id, flags, uid },
        });
    }
    let io_apic = platform.io_apic;
    entries.push(MadtEntry::IoApic { id: io_apic.id, address: io_apic.address, gsi_base: io_apic.gsi_base });
    if platform.processors.iter().any(|processor| processor.apic_id < 255) {
        entries.push(MadtEntry::LocalApicNmi { uid: 255, flags: 0, lint: 1 });
    }
    if platform.processors.iter().any(|processor| processor.apic_id >= 255) {
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

fn check_dsdt(platform: &Platform, table: &[u8]) {
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

#[test]
fn every_golden_case_says_what_the_platform_is() {
    for (case, platform) in cases::all() {
        println!("{case}");
        check(&platform, &cases::build(&platform));
    }
}

/// The platform of design: 1024 vCPUs on 64 domains with everything there is, in 256 KiB.
#[test]
fn tables_of_1024_processors_on_64_domains_fit_256_kib() {
    let domains: Vec<ProximityDomain> = (0..64).map(ProximityDomain).collect();
    let matrix =
        |kind| PerformanceMatrix { kind, rows: vec![vec![Performance::Value(123_456); domains.len()]; 64] };
    let hmat = MemoryPerformance {
        attachments: Vec::new(),
        initiators: domains.clone(),
        targets: domains.clone(),
        matrices: vec![matrix(PerformanceKind::AccessLatency), matrix(PerformanceKind::AccessBandwidth)],
        caches: Vec::new(),
    };
    let bridges = (0..64u8).map(|segment| PciHostBridge {
        segment: u16::from(segment),
        bus_first: 0,
        bus_last: 0,
        ecam_base: 0xe000_0000 + (u64::from(segment) << 20),
        domain: ProximityDomain(u32::from(segment)),
        mmio32: Some(MmioWindow { base: 0xc000_0000 + (u32::from(segment) << 20), length: 1 << 20 }),
        mmio64: Some(MmioWindow { base: u64::from(segment) << 36 | 1 << 44, length: 1 << 36 }),
    });
    let platform = Platform {
        processors: cases::processors((0..64).flat_map(|domain| std::iter::repeat_n(domain, 16))),
        memory: cases::memory(&[cases::GIB; 64]),
        slit: Some(cases::uniform(64, 21)),
        hmat: Some(hmat),
        pci: bridges.collect(),
        ..cases::platform()
    };
    let set = cases::build(&platform);
    check(&platform, &set);
    let aml = set.get(b"DSDT").expect("a DSDT").bytes.len();
    let without = Platform { processors: cases::processors([0]), hmat: None, ..platform };
    let per_processor = (aml - cases::build(&without).get(b"DSDT").expect("a DSDT").bytes.len()) / 1023;
    assert!(per_processor <= 64, "{per_processor} bytes of AML for each processor");
}

#[test]
fn every_name_of_4096_processors_is_unique() {
    let processors = (0..4096)
        .map(|id| Processor { uid: id, apic_id: id + 1000, domain: ProximityDomain(0), present: true })
        .collect();
    let platform = Platform { processors, ..cases::platform() };
    let set = acpi::build(&platform, 0x10_0000..0x20_0000, 0xf_0000).expect("1 MiB is enough");
    check_dsdt(&platform, &set.get(b"DSDT").expect("a DSDT").bytes);
    let mut more = platform;
    more.processors.push(Processor { uid: 4096, apic_id: 0, domain: ProximityDomain(0), present: true });
    let result = acpi::build(&more, 0x10_0000..0x20_0000, 0xf_0000);
    assert_eq!(result, Err(Error::ProcessorCount { count: 4097 }));
}

/// The two-domain case with one thing changed.
fn changed(change: impl FnOnce(&mut Platform)) -> Result<TableSet, Error> {
    let (_, mut platform) = cases::all().swap_remove(1);
    change(&mut platform);
    acpi::build(&platform, cases::WINDOW, cases::RSDP)
}

#[test]
fn a_platform_that_cannot_be_told_is_refused_by_its_rule() {
    let code = |change: fn(&mut Platform)| changed(change).expect_err("refused").code();
    assert_eq!(code(|platform| platform.processors.clear()), "acpi-processor-count");
    assert_eq!(code(|platform| platform.processors[1].uid = 0), "acpi-duplicate-uid");
    assert_eq!(code(|platform| platform.processors[1].apic_id = 0), "acpi-duplicate-apic-id");
    assert_eq!(code(|platform| platform.processors[1].apic_id = u32::MAX), "acpi-broadcast-apic-id");
    assert_eq!(code(|platform| platform.processors[1].uid = 255), "acpi-local-apic-uid");
    assert_eq!(code(|platform| platform.processors[1].domain.0 = 1024), "acpi-domain-too-large");
    assert_eq!(code(|platform| platform.memory[1].length = 0), "acpi-empty-memory");
    assert_eq!(code(|platform| platform.memory[1].length = u64::MAX), "acpi-memory-too-long");
    assert_eq!(code(|platform| platform.memory[1].base -= 1), "acpi-memory-overlap");
    assert_eq!(code(|platform| platform.memory[1].domain.0 = 2), "acpi-domain-without-distances");
    assert_eq!(
        code(|platform| platform.serial = Some(Serial { io_base: IoPort(0xfff9), irq: 4 })),
        "acpi-serial-port"
    );
}

#[test]
fn a_host_bridge_that_cannot_be_told_is_refused_by_its_rule() {
    let (_, pci) =
        cases::all().into_iter().find(|(name, _)| *name == "pci-bridge-per-domain").expect("the case");
    let code = |change: fn(&mut Vec<PciHostBridge>)| {
        let mut platform = pci.clone();
        change(&mut platform.pci);
        acpi::build(&platform, cases::WINDOW, cases::RSDP).expect_err("refused").code()
    };
    assert_eq!(code(|pci| pci[1].bus_first = 1), "acpi-bridge-buses");
    assert_eq!(code(|pci| pci[1].segment = 0), "acpi-bridge-overlap");
    assert_eq!(code(|pci| pci[1].ecam_base += 1), "acpi-bridge-ecam");
    assert_eq!(
        code(|pci| (pci[1].ecam_base, pci[1].bus_last) = (0u64.wrapping_sub(1 << 20), 1)),
        "acpi-bridge-ecam"
    );
    assert_eq!(code(|pci| pci[1].ecam_base = pci[0].ecam_base), "acpi-bridge-range-overlap");
    assert_eq!(code(|pci| pci[1].ecam_base = 0), "acpi-bridge-range-overlap");
    assert_eq!(
        code(|pci| pci[1].mmio32 = Some(MmioWindow { base: 0xc000_0000, length: 0 })),
        "acpi-bridge-window"
    );
    assert_eq!(
        code(|pci| pci[1].mmio64 = Some(MmioWindow { base: 1, length: u64::MAX })),
        "acpi-bridge-range-overlap"
    );
    assert_eq!(
        code(|pci| pci[1].mmio64 = Some(MmioWindow { base: 2, length: u64::MAX })),
        "acpi-bridge-window"
    );
    assert_eq!(code(|pci| pci[1].domain.0 = 2), "acpi-domain-without-distances");
}

#[test]
fn figures_that_cannot_be_told_are_refused_by_their_rule() {
    let (_, hmat) = cases::all().into_iter().find(|(name, _)| *name == "hmat-access").expect("the case");
    let code = |change: fn(&mut MemoryPerformance)| {
        let mut platform = hmat.clone();
        platform.hmat.as_mut().map(change);
        acpi::build(&platform, cases::WINDOW, cases::RSDP).expect_err("refused").code()
    };
    assert_eq!(code(|hmat| hmat.initiators[1].0 = 2), "acpi-hmat-initiator");
    assert_eq!(code(|hmat| hmat.targets[1].0 = 2), "acpi-hmat-target");
    assert_eq!(code(|hmat| hmat.attachments[1].memory.0 = 0), "acpi-hmat-domain-twice");
    assert_eq!(code(|hmat| hmat.matrices[1].kind = hmat.matrices[0].kind), "acpi-hmat-kind-twice");
    assert_eq!(code(|hmat| drop(hmat.matrices[0].rows.pop())), "acpi-hmat-matrix-size");
    assert_eq!(code(|hmat| hmat.matrices[0].rows[0][0] = Performance::Value(0)), "acpi-hmat-zero");
}

#[test]
fn distances_that_linux_would_throw_away_are_refused() {
    let refused = |rows: &[&[u8]]| {
        Localities::new(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>()).expect_err("refused")
    };
    assert_eq!(refused(&[]), Error::LocalityCount { count: 0 });
    assert_eq!(refused(&[&[10, 20], &[20]]), Error::LocalityRowLength { row: 1, length: 1, expected: 2 });
    assert_eq!(refused(&[&[10, 10], &[20, 10]]), Error::LocalityDistance { from: 0, to: 1, distance: 10 });
    assert_eq!(refused(&[&[10, 9], &[20, 10]]), Error::LocalityDistance { from: 0, to: 1, distance: 9 });
    assert_eq!(refused(&[&[10, 20], &[20, 11]]), Error::LocalityDistance { from: 1, to: 1, distance: 11 });
}

#[test]
fn tables_never_leave_their_window() {
    let (_, platform) = cases::all().swap_remove(1);
    let whole = acpi::build(&platform, 0x1000..0x2000, 0).expect("4 KiB is enough");
    let last = whole.tables.last().expect("tables");
    let end = last.address + u64::try_from(last.bytes.len()).expect("small");
    assert_eq!(acpi::build(&platform, 0x1000..end, 0), Ok(whole));
    let short = acpi::build(&platform, 0x1000..end - 1, 0).expect_err("a byte is missing");
    assert_eq!(short, Error::DoesNotFit { signature: "XSDT".into(), length: 68, window: 0x1000..end - 1 });
    for window in [u64::MAX - 8..u64::MAX, 0..0, u64::MAX - 0x100..u64::MAX] {
        let result = acpi::build(&platform, window, 0x1000).expect_err("no room");
        assert_eq!(result.code(), "acpi-does-not-fit");
    }
    for rsdp in [8, 0xff0, 0x1000, end - end % 16, u64::MAX, u64::MAX - 15] {
        let result = acpi::build(&platform, 0x1000..0x2000, rsdp).expect_err("in the way or not aligned");
        assert_eq!(result.code(), "acpi-rsdp-address", "{rsdp:#x}");
    }
}

prop_compose! {
    /// Processors with ascending APIC ids, memory without overlap, distances: all valid.
    fn valid_platform()(domains in 1u32..6)(
        processors in prop::collection::vec((0u32..9, 0..domains, any::<bool>()), 1..70),
        memory in prop::collection::vec((0u64..1 << 33, 1u64..1 << 33, 0..domains, any::<bool>()), 0..9),
        distances in prop::collection::vec(11u8..=255, 36),
        entries in prop::collection::vec(performance(), 36),
        kind in prop::sample::select(vec![PerformanceKind::AccessLatency, PerformanceKind::WriteBandwidth]),
        parts in any::<[bool; 4]>(),
        bridges in prop::collection::vec((0..domains, 0u8..4, 0u8..4), 0..4),
        domains in Just(domains),
    ) -> Platform {
        let mut platform = cases::platform();
        let mut apic_id = 0;
        for (uid, (gap, domain, present)) in (0..).zip(processors) {
            apic_id += gap;
            platform.processors.push(Processor { uid, apic_id, domain: ProximityDomain(domain), present });
            apic_id += 1;
        }
        let mut base = 0;
        for (gap, length, domain, hotpluggable) in memory {
            let domain = ProximityDomain(domain);
            platform.memory.insert(0, MemoryAffinity { domain, base: base + gap, length, hotpluggable });
            base += gap + length;
        }
        let distance = |from: usize, to: usize| if from == to { 10 } else { distances[from * 6 + to] };
        let count = usize::try_from(domains).expect("small");
        let rows: Vec<Vec<u8>> =
            (0..count).map(|from| (0..count).map(|to| distance(from, to)).collect()).collect();
        platform.slit = parts[0].then(|| Localities::new(&rows).expect("valid"));
        platform.hmat = parts[1].then(|| performance_of(&platform, kind, &entries)).flatten();
        platform.keyboard_controller = parts[2];
        if parts[3] {
            platform.serial = None;
        }
        for (segment, (domain, first, more)) in (0u8..).zip(bridges) {
            platform.pci.push(PciHostBridge {
                segment: u16::from(segment),
                bus_first: first,
                bus_last: first + more,
                ecam_base: 1 << 44 | u64::from(segment) << 28,
                domain: ProximityDomain(domain),
                mmio32: None,
                mmio64: (more > 0).then(|| MmioWindow { base: u64::from(segment) << 40 | 1 << 45, length: 12345 }),
            });
        }
        platform
    }
}

fn performance() -> impl Strategy<Value = Performance> {
    prop_oneof![
        1 => Just(Performance::NotProvided),
        1 => Just(Performance::Unreachable),
        4 => (1u64..1 << 20).prop_map(Performance::Value),
        1 => (1u64..).prop_map(Performance::Value),
    ]
}

/// One matrix over all domains with processors and all with memory, `None` if there are none.
fn performance_of(
    platform: &Platform,
    kind: PerformanceKind,
    entries: &[Performance],
) -> Option<MemoryPerformance> {
    let initiators: BTreeSet<_> = platform.processors.iter().map(|processor| processor.domain).collect();
    let targets: BTreeSet<_> = platform.memory.iter().map(|range| range.domain).collect();
    let attach = |&memory: &ProximityDomain| MemoryAttachment {
        memory,
        initiator: initiators.contains(&memory).then_some(memory),
    };
    let rows = entries.chunks(6).take(initiators.len()).map(|row| row[..targets.len()].to_vec()).collect();
    (!targets.is_empty()).then(|| MemoryPerformance {
        attachments: targets.iter().map(attach).collect(),
        initiators: initiators.iter().copied().collect(),
        targets: targets.iter().copied().collect(),
        matrices: vec![PerformanceMatrix { kind, rows }],
        caches: Vec::new(),
    })
}

prop_compose! {
    /// Anything at all, most of it nonsense.
    fn any_platform()(
        processors in prop::collection::vec((0u32..300, 0u32..300, 0u32..1030, any::<bool>()), 0..4),
        memory in prop::collection::vec((any::<u64>(), any::<u64>(), 0u32..3, any::<bool>()), 0..4),
        bridges in prop::collection::vec(
            (any::<u16>(), any::<(u8, u8)>(), any::<u64>(), any::<Option<(u32, u32)>>(), any::<Option<(u64, u64)>>()),
            0..3,
        ),
        domains in prop::collection::vec(0u32..3, 0..3),
        port in any::<u16>(),
        rows in prop::collection::vec(prop::collection::vec(performance(), 0..3), 0..3),
    ) -> Platform {
        let domains: Vec<_> = domains.into_iter().map(ProximityDomain).collect();
        Platform {
            processors: processors.into_iter()
                .map(|(uid, apic_id, domain, present)| {
                    Processor { uid, apic_id, domain: ProximityDomain(domain), present }
                })
                .collect(),
            memory: memory.into_iter()
                .map(|(base, length, domain, hotpluggable)| {
                    MemoryAffinity { domain: ProximityDomain(domain), base, length, hotpluggable }
                })
                .collect(),
            hmat: (!rows.is_empty()).then(|| MemoryPerformance {
                attachments: Vec::new(),
                initiators: domains.clone(),
                targets: domains,
                matrices: vec![PerformanceMatrix { kind: PerformanceKind::ReadLatency, rows }],
                caches: Vec::new(),
            }),
            serial: Some(Serial { io_base: IoPort(port), irq: u32::MAX }),
            pci: bridges.into_iter()
                .map(|(segment, (bus_first, bus_last), ecam_base, mmio32, mmio64)| PciHostBridge {
                    segment,
                    bus_first,
                    bus_last,
                    ecam_base: ecam_base & !0xf_ffff,
                    domain: ProximityDomain(0),
                    mmio32: mmio32.map(|(base, length)| MmioWindow { base, length }),
                    mmio64: mmio64.map(|(base, length)| MmioWindow { base, length }),
                })
                .collect(),
            ..cases::platform()
        }
    }
}

proptest! {
    #[test]
    fn tables_of_any_valid_platform_say_what_it_is(platform in valid_platform()) {
        check(&platform, &cases::build(&platform));
    }

    #[test]
    fn no_platform_panics_and_what_is_told_is_right(
        platform in any_platform(),
        start in any::<u64>(),
        length in any::<u64>(),
    ) {
        let _ = acpi::build(&platform, start..start.saturating_add(length), start);
        if let Ok(set) = acpi::build(&platform, cases::WINDOW, cases::RSDP) {
            check(&platform, &set);
        }
    }
}
