//! The platforms whose tables are stored under `tests/golden`, one directory each.
//! Addresses and ports are like those of a real machine, but only the tables depend on them.

use acpi::{
    Associativity, IoApic, IoPort, Localities, MemoryAffinity, MemoryAttachment, MemoryPerformance,
    MemorySideCache, MmioWindow, PciHostBridge, Performance, PerformanceKind, PerformanceMatrix, Platform,
    Power, Processor, ProximityDomain, Serial, TableSet, WritePolicy,
};
use std::ops::Range;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// Where the hole for devices below 4 GiB begins and ends.
const HOLE: Range<u64> = 3 * GIB..4 * GIB;
/// 256 KiB with the RSDP, which is first and has 36 bytes.
pub const WINDOW: Range<u64> = 0xa_0040..0xe_0000;
pub const RSDP: u64 = 0xa_0000;

pub fn build(platform: &Platform) -> TableSet {
    acpi::build(platform, WINDOW, RSDP).expect("the platform can be told")
}

pub fn platform() -> Platform {
    Platform {
        processors: Vec::new(),
        memory: Vec::new(),
        slit: None,
        hmat: None,
        local_apic_address: 0xfee0_0000,
        io_apic: IoApic { id: 0, address: 0xfec0_0000, gsi_base: 0 },
        serial: Some(Serial { io_base: IoPort(0x3f8), irq: 4 }),
        power: Power {
            sleep_control: IoPort(0x600),
            sleep_status: IoPort(0x601),
            reset: IoPort(0x602),
            reset_value: 1,
            event_status: IoPort(0x603),
            event_gsi: 5,
        },
        keyboard_controller: false,
        pci: Vec::new(),
    }
}

/// vCPU i is in `domains[i]` and has APIC id i.
pub fn processors(domains: impl IntoIterator<Item = u32>) -> Vec<Processor> {
    (0..)
        .zip(domains)
        .map(|(id, domain)| Processor {
            uid: id,
            apic_id: id,
            domain: ProximityDomain(domain),
            present: true,
        })
        .collect()
}

/// Memory from 0 on around the hole, `sizes[i]` bytes in domain i.
pub fn memory(sizes: &[u64]) -> Vec<MemoryAffinity> {
    let mut ranges = Vec::new();
    let mut base = 0;
    for (domain, &size) in (0..).map(ProximityDomain).zip(sizes) {
        let mut rest = size;
        while rest > 0 {
            if base == HOLE.start {
                base = HOLE.end;
            }
            let length = if base < HOLE.start { rest.min(HOLE.start - base) } else { rest };
            ranges.push(MemoryAffinity { domain, base, length, hotpluggable: false });
            base += length;
            rest -= length;
        }
    }
    ranges
}

/// The same distance between any two of `count` localities.
pub fn uniform(count: usize, remote: u8) -> Localities {
    let row = |from| (0..count).map(|to| if to == from { 10 } else { remote }).collect();
    Localities::new(&(0..count).map(row).collect::<Vec<_>>()).expect("a valid matrix")
}

pub fn localities(rows: &[&[u8]]) -> Localities {
    Localities::new(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>()).expect("a valid matrix")
}

/// `vcpus` in each of `domains`, `size` bytes each.
fn regular(domains: u32, vcpus: usize, size: u64) -> Platform {
    let count = usize::try_from(domains).expect("small");
    Platform {
        processors: processors((0..domains).flat_map(|domain| std::iter::repeat_n(domain, vcpus))),
        memory: memory(&vec![size; count]),
        slit: Some(uniform(count, 20)),
        ..platform()
    }
}

fn bridge(index: u8, domain: u32) -> PciHostBridge {
    let offset = u64::from(index);
    PciHostBridge {
        segment: u16::from(index),
        bus_first: 0,
        bus_last: 0,
        ecam_base: 0xe000_0000 + offset * MIB,
        domain: ProximityDomain(domain),
        mmio32: Some(MmioWindow { base: 0xc000_0000 + u32::from(index) * 0x100_0000, length: 0x100_0000 }),
        mmio64: Some(MmioWindow { base: 1 << 40 | offset << 36, length: 1 << 36 }),
    }
}

fn matrix(kind: PerformanceKind, rows: &[&[u64]]) -> PerformanceMatrix {
    let rows = rows.iter().map(|row| row.iter().map(|&value| Performance::Value(value)).collect()).collect();
    PerformanceMatrix { kind, rows }
}

fn own_memory(domains: u32) -> Vec<MemoryAttachment> {
    let domains = (0..domains).map(ProximityDomain);
    domains.map(|domain| MemoryAttachment { memory: domain, initiator: Some(domain) }).collect()
}

fn hmat_access() -> Platform {
    let domains = vec![ProximityDomain(0), ProximityDomain(1)];
    let hmat = MemoryPerformance {
        attachments: own_memory(2),
        initiators: domains.clone(),
        targets: domains,
        matrices: vec![
            matrix(PerformanceKind::AccessLatency, &[&[80_000, 140_000], &[140_000, 80_000]]),
            matrix(PerformanceKind::AccessBandwidth, &[&[25_600, 12_800], &[12_800, 25_600]]),
        ],
        caches: Vec::new(),
    };
    Platform { hmat: Some(hmat), ..regular(2, 2, GIB) }
}

/// Two domains with processors, a third with memory alone that one of them cannot reach, and a cache before it.
fn hmat_read_write() -> Platform {
    let third = ProximityDomain(2);
    let initiators = vec![ProximityDomain(0), ProximityDomain(1)];
    let targets = vec![ProximityDomain(0), ProximityDomain(1), third];
    let mut read = matrix(PerformanceKind::ReadLatency, &[&[81_300, 139_700, 1], &[140_100, 80_900, 1]]);
    let mut write = matrix(PerformanceKind::WriteBandwidth, &[&[200_000, 90_000, 7], &[90_000, 200_000, 7]]);
    read.rows[0][2] = Performance::Value(350_000_000);
    read.rows[1][2] = Performance::Unreachable;
    write.rows[1][2] = Performance::NotProvided;
    let cache = MemorySideCache {
        memory: third,
        size: 64 * MIB,
        levels: 1,
        level: 1,
        associativity: Associativity::DirectMapped,
        write_policy: WritePolicy::WriteBack,
        line_size: 64,
    };
    let attachments =
        own_memory(2).into_iter().chain([MemoryAttachment { memory: third, initiator: None }]).collect();
    let hmat = MemoryPerformance {
        attachments,
        initiators,
        targets,
        matrices: vec![read, write],
        caches: vec![cache],
    };
    Platform {
        processors: processors([0, 0, 1, 1]),
        memory: memory(&[GIB, GIB, 2 * GIB]),
        slit: Some(localities(&[&[10, 20, 40], &[20, 10, 255], &[40, 255, 10]])),
        hmat: Some(hmat),
        ..platform()
    }
}

fn cpus_only() -> Platform {
    let mut memory = memory(&[512 * MIB]);
    memory.extend([MemoryAffinity {
        domain: ProximityDomain(2),
        base: 512 * MIB,
        length: 512 * MIB,
        hotpluggable: false,
    }]);
    Platform { memory, ..regular(3, 2, 0) }
}

/// All that can come later: processors, memory, and a keyboard controller for good measure.
fn hotplug() -> Platform {
    let mut platform = regular(2, 2, GIB);
    for processor in &mut platform.processors[2..] {
        processor.present = false;
    }
    for domain in [0, 1] {
        platform.memory.push(MemoryAffinity {
            domain: ProximityDomain(domain),
            base: (8 + 8 * u64::from(domain)) * GIB,
            length: 8 * GIB,
            hotpluggable: true,
        });
    }
    platform.keyboard_controller = true;
    platform.serial = None;
    platform
}

/// 300 vCPUs with room between the packages, as the CPUID topology wants it.
fn beyond_255() -> Platform {
    let mut platform = regular(2, 150, 2 * GIB);
    for processor in &mut platform.processors[150..] {
        processor.apic_id = processor.uid - 150 + 256;
    }
    platform
}

pub fn all() -> Vec<(&'static str, Platform)> {
    let one = Platform { processors: processors([0]), memory: memory(&[512 * MIB]), ..platform() };
    let uneven = Platform {
        processors: processors([0, 1, 1, 2, 2, 2, 3]),
        memory: memory(&[256 * MIB, GIB, 128 * MIB, 4 * GIB]),
        slit: Some(uniform(4, 20)),
        ..platform()
    };
    let memory_only = Platform { processors: processors([0, 0]), ..regular(2, 0, 512 * MIB) };
    let straddling = Platform { memory: memory(&[2 * GIB, 2 * GIB, GIB]), ..regular(3, 1, 0) };
    let interleaved = Platform { processors: processors([0, 1, 0, 1]), ..regular(2, 0, 512 * MIB) };
    let asymmetric = Platform { slit: Some(localities(&[&[10, 21], &[31, 10]])), ..regular(2, 1, 512 * MIB) };
    // Given are 0:1=15 and 2:0=40; the rest is mirrored or 20.
    let partial = Platform {
        slit: Some(localities(&[&[10, 15, 40], &[15, 10, 20], &[40, 20, 10]])),
        ..regular(3, 1, 512 * MIB)
    };
    let pci = Platform { pci: vec![bridge(0, 0), bridge(1, 1)], ..regular(2, 2, 512 * MIB) };
    let mut high = bridge(2, 1);
    (high.bus_first, high.bus_last, high.ecam_base) = (0x10, 0xff, 1 << 39);
    (high.mmio32, high.segment) = (None, 0xffff);
    let pci_high = Platform { pci: vec![bridge(0, 0), high], ..regular(2, 2, 512 * MIB) };
    vec![
        ("one-domain", one),
        ("two-domains", regular(2, 2, 512 * MIB)),
        ("four-domains-uneven", uneven),
        ("eight-domains", regular(8, 2, 512 * MIB)),
        ("sixty-four-domains", regular(64, 2, 256 * MIB)),
        ("domain-with-cpus-only", cpus_only()),
        ("domain-with-memory-only", memory_only),
        ("domain-around-the-hole", straddling),
        ("interleaved-vcpus", interleaved),
        ("three-hundred-vcpus", beyond_255()),
        ("asymmetric-distances", asymmetric),
        ("partial-distances", partial),
        ("hmat-access", hmat_access()),
        ("hmat-read-write-unreachable-cache", hmat_read_write()),
        ("hotplug", hotplug()),
        ("pci-bridge-per-domain", pci),
        ("pci-high-ecam", pci_high),
    ]
}
