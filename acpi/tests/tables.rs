//! What the tables say equals the platform, for every golden case and for arbitrary platforms; no platform panics.

mod support;

use acpi::{
    Error, IoPort, Localities, MemoryAffinity, MemoryAttachment, MemoryPerformance, MmioWindow,
    PciHostBridge, Performance, PerformanceKind, PerformanceMatrix, Platform, Processor, ProximityDomain,
    Serial, TableSet,
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use support::cases;
use support::check::{check, check_dsdt};

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
fn processors_that_local_apic_entries_cannot_tell_in_order_are_all_told_in_x2apic_entries() {
    const X2APIC: u8 = 9;
    let entries = |change: fn(&mut Platform)| -> Vec<u8> {
        let madt = changed(change).expect("told").get(b"APIC").expect("a MADT").bytes.clone();
        let mut rest = &madt[44..];
        let mut kinds = Vec::new();
        while let [kind, length, ..] = *rest {
            kinds.push(kind);
            rest = &rest[usize::from(length)..];
        }
        kinds
    };
    let processors = changed(|_| ()).map(|_| cases::all()[1].1.processors.len()).expect("told");
    assert_eq!(entries(|_| ())[..processors], vec![0; processors]);
    assert_eq!(entries(|platform| platform.processors[1].uid = 255)[..processors], vec![X2APIC; processors]);
    assert_eq!(
        entries(|platform| platform.processors[0].apic_id = 300)[..processors],
        vec![X2APIC; processors]
    );
    let last_is_wide = entries(|platform| platform.processors.last_mut().expect("one").apic_id = 300);
    assert_eq!(last_is_wide[..processors].iter().filter(|kind| **kind == X2APIC).count(), 1);
}

#[test]
fn a_platform_that_cannot_be_told_is_refused_by_its_rule() {
    let code = |change: fn(&mut Platform)| changed(change).expect_err("refused").code();
    assert_eq!(code(|platform| platform.processors.clear()), "acpi-processor-count");
    assert_eq!(code(|platform| platform.processors[1].uid = 0), "acpi-duplicate-uid");
    assert_eq!(code(|platform| platform.processors[1].apic_id = 0), "acpi-duplicate-apic-id");
    assert_eq!(code(|platform| platform.processors[1].apic_id = u32::MAX), "acpi-broadcast-apic-id");
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
fn a_window_of_the_length_that_is_asked_for_holds_the_tables_and_a_byte_less_does_not() {
    const START: u64 = 0x7fff_0000;
    for (name, platform) in cases::all() {
        let end = START + acpi::length(&platform).expect("the platform can be told");
        let set = acpi::build(&platform, START..end, cases::RSDP).expect("they fit");
        let last = set.tables.last().expect("tables");
        assert_eq!(last.address + u64::try_from(last.bytes.len()).expect("small"), end, "{name}");
        assert!(acpi::build(&platform, START..end - 1, cases::RSDP).is_err(), "{name}");
    }
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
