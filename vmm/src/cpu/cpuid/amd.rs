//! AMD's and Hygon's own topology leaves (AMD APM volume 3, E.4). The common ones are `cpuid`'s.

use super::{CpuidTemplate, FEATURES, TOPOLOGY_AMD};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use resources::cpu_topology::Position;

const EXTENDED_MAX: u32 = 0x8000_0000;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const L1_CACHES: u32 = 0x8000_0005;
const L2_L3_CACHES: u32 = 0x8000_0006;
const SIZES: u32 = 0x8000_0008;
const CACHES: u32 = 0x8000_001d;

/// Leaf 0x80000001 ECX: legacy multi-core, and leaves 0x8000001D and 0x8000001E.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOEXT: u32 = 1 << 22;
/// Every Zen has the topology leaves. They are words only, so a guest can have them where KVM's host hides them; Linux
/// takes the node and the last-level cache from the legacy leaves otherwise, in 8 bits.
const FIRST_ZEN_FAMILY: u32 = 0x17;

/// Writes who shares the package and the caches.
pub fn describe(cpuid: &mut CpuidTemplate, apic_id: u32, position: Position, core_bits: u32) {
    let cores = position.cores;
    let zen = cpuid.find(FEATURES).is_some_and(|e| family(e.eax) >= FIRST_ZEN_FAMILY);
    cpuid.change(EXTENDED_FEATURES, |e| {
        e.ecx = if cores > 1 { e.ecx | CMP_LEGACY } else { e.ecx & !CMP_LEGACY };
        e.ecx |= if zen { TOPOEXT } else { 0 };
    });
    // ECX 7:0 threads in the package less one, 15:12 bits that number them.
    cpuid.change(SIZES, |e| e.ecx = e.ecx & 0xffff_0f00 | (cores - 1).min(0xff) | core_bits.min(15) << 12);
    if cpuid.find(EXTENDED_FEATURES).is_none_or(|e| e.ecx & TOPOEXT == 0) {
        return;
    }
    cpuid.change(EXTENDED_MAX, |e| e.eax = e.eax.max(TOPOLOGY_AMD));
    if cpuid.find(CACHES).is_none_or(|e| e.eax == 0) {
        cpuid.entries.retain(|e| e.function != CACHES);
        let caches = caches_from_legacy_leaves(cpuid);
        cpuid.entries.extend(caches);
    }
    for entry in cpuid.entries.iter_mut().filter(|e| e.function == CACHES && e.eax & 0x1f != 0) {
        let level = entry.eax >> 5 & 7;
        let sharing = if level >= 3 { 1 << core_bits } else { 1_u32 };
        entry.eax = entry.eax & !(0xfff << 14) | (sharing - 1).min(0xfff) << 14;
    }
    cpuid.entries.push(kvm_cpuid_entry2 {
        function: TOPOLOGY_AMD,
        eax: apic_id,
        // 15:8 threads per core less one, 7:0 core; 10:8 nodes per package less one, 7:0 node.
        ebx: position.core.min(0xff),
        ecx: position.package.min(0xff),
        ..Default::default()
    });
}

/// Base family, and the extended one on top where the base is full.
fn family(signature: u32) -> u32 {
    match signature >> 8 & 0xf {
        0xf => 0xf + (signature >> 20 & 0xff),
        base => base,
    }
}

/// One cache of a core.
struct Cache {
    kind: u32,
    level: u32,
    bytes: u32,
    ways: u32,
    line: u32,
}

fn caches_from_legacy_leaves(cpuid: &CpuidTemplate) -> Vec<kvm_cpuid_entry2> {
    let leaf = |function| cpuid.find(function).copied().unwrap_or_default();
    let (l1, l2_l3) = (leaf(L1_CACHES), leaf(L2_L3_CACHES));
    let level_1 = |kind, register: u32| {
        let (bytes, ways, line) = ((register >> 24) << 10, register >> 16 & 0xff, register & 0xff);
        Cache { kind, level: 1, bytes, ways, line }
    };
    let unified = |level, bytes, register: u32| Cache {
        kind: 3,
        level,
        bytes,
        ways: associativity(register >> 12 & 0xf),
        line: register & 0xff,
    };
    let all = [
        level_1(1, l1.ecx),
        level_1(2, l1.edx),
        unified(2, (l2_l3.ecx >> 16) << 10, l2_l3.ecx),
        unified(3, (l2_l3.edx >> 18) << 19, l2_l3.edx),
    ];
    let present = all.iter().filter(|c| c.bytes > 0 && c.ways > 0 && c.line > 0);
    let mut entries: Vec<_> = (0..).zip(present).map(|(index, cache)| cache.entry(index)).collect();
    let end = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    entries.push(kvm_cpuid_entry2 {
        function: CACHES,
        index: end,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..Default::default()
    });
    entries
}

impl Cache {
    fn entry(&self, index: u32) -> kvm_cpuid_entry2 {
        const SELF_INITIALIZING: u32 = 1 << 8;
        let sets = (self.bytes / self.line / self.ways).max(1);
        kvm_cpuid_entry2 {
            function: CACHES,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: SELF_INITIALIZING | self.level << 5 | self.kind,
            ebx: (self.ways - 1) << 22 | (self.line - 1),
            ecx: sets - 1,
            ..Default::default()
        }
    }
}

/// AMD APM volume 3, table E-4; full associativity (15) cannot be told in ways here.
fn associativity(code: u32) -> u32 {
    match code {
        1 | 2 | 4 => code,
        6 => 8,
        8 => 16,
        10 => 32,
        11 => 48,
        12 => 64,
        13 => 96,
        14 => 128,
        _ => 0,
    }
}
