//! What guests are told on processors of several makers and ages, checked against rules that know nothing of how it is
//! written. The processors are the tables in `hosts`.

use super::CpuidTemplate;
use super::guest_view::{Cache, GuestView, Level, group};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use resources::test_host::vm_of_vcpus;
use resources::{CpuTopology, VcpuId, VmTopology};
use std::collections::{BTreeMap, BTreeSet};

const INTEL: [(&str, &str); 4] = [
    ("Skylake-SP", include_str!("hosts/skylake_sp.txt")),
    ("Ice Lake-SP", include_str!("hosts/icelake_sp.txt")),
    ("Sapphire Rapids", include_str!("hosts/sapphire_rapids.txt")),
    ("Sapphire Rapids, Linux 6.2", include_str!("hosts/sapphire_rapids_6_2.txt")),
];
const AMD: [(&str, &str); 3] = [
    ("Zen 1", include_str!("hosts/zen1.txt")),
    ("Zen 3", include_str!("hosts/zen3.txt")),
    ("Zen 4", include_str!("hosts/zen4.txt")),
];

/// The vCPUs of each vnode.
const MACHINES: [&[&str]; 10] = [
    &["0"],
    &["0-1"],
    &["0-6"],
    &["0-63"],
    &["0-1", "2-3"],
    &["0,2", "1,3"],
    &["4-5", "0-2,6", "3"],
    &["0", "", "1", "2"],
    &["0-64", "65", "66"],
    &["0-299", "300-599"],
];

fn table(text: &str) -> Vec<kvm_cpuid_entry2> {
    let entry = |line: &str| {
        let word = |word: &str| u32::from_str_radix(word.trim_end_matches(':'), 16).unwrap();
        let words: Vec<u32> = line.split_whitespace().map(word).collect();
        let [function, index, flags, eax, ebx, ecx, edx] = words[..] else { panic!("{line}") };
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    };
    text.lines().filter(|line| !line.starts_with('#')).map(entry).collect()
}

fn template(entries: &[kvm_cpuid_entry2]) -> CpuidTemplate {
    CpuidTemplate::new(&CpuId::from_entries(entries).unwrap(), true)
}

fn machines() -> impl Iterator<Item = VmTopology> {
    // And as many vnodes as there may be, and a vCPU more than fits in the fields of 12 bits.
    let many: Vec<String> = (0..256).map(|vnode| format!("{vnode},{}", vnode + 256)).collect();
    let one: Vec<&str> = vec!["0-4095"];
    let many = vm_of_vcpus(&many.iter().map(String::as_str).collect::<Vec<_>>());
    MACHINES.into_iter().map(vm_of_vcpus).chain([many, vm_of_vcpus(&one)])
}

/// CPUID of some vCPUs of a machine: of all, or of a few of very many.
fn vcpus(template: &CpuidTemplate, vm: &VmTopology) -> Vec<(VcpuId, u32, Vec<kvm_cpuid_entry2>)> {
    let cpus = CpuTopology::new(vm);
    let step = 1 + vm.vcpu_count() / 300;
    let one = |(vcpu, vnode): (VcpuId, resources::VnodeId)| {
        (vcpu, vnode.0, template.for_vcpu(vcpu, &cpus).unwrap().as_slice().to_vec())
    };
    vm.vcpus().step_by(step).map(one).collect()
}

/// Every rule that holds for any maker. `caches` is the maker's leaf of caches.
fn check(name: &str, host: &[kvm_cpuid_entry2], vm: &VmTopology, caches: u32) {
    let cpus = CpuTopology::new(vm);
    let all = vcpus(&template(host), vm);
    let in_vnode = |vnode: u32| vm.vnodes()[vnode as usize].vcpus.len();
    let several = vm.vcpus_of_vnodes().iter().filter(|vcpus| **vcpus > 0).count() > 1;
    let mut ids = BTreeSet::new();
    let mut packages: BTreeMap<u32, u32> = BTreeMap::new();
    let mut last_level: BTreeMap<u32, u32> = BTreeMap::new();
    let mut eights: BTreeMap<u32, u32> = BTreeMap::new();
    for (vcpu, vnode, entries) in &all {
        let view = GuestView(entries);
        let at = format!("{name}, vCPU {vcpu} of vnode {vnode} in {:?}", vm.vcpus_of_vnodes());
        let madt = cpus.apic_id(*vcpu).0;
        assert!(ids.insert(madt), "{at}");
        for e in entries {
            assert_eq!(view.leaf(e.function, e.index), Some([e.eax, e.ebx, e.ecx, e.edx]), "{at}: {e:?}");
            let range = e.function & 0xc000_0000;
            assert!(e.function <= view.highest(range), "{at}: leaf {:#x} is past the last", e.function);
        }
        let [_, _, ecx, _] = view.leaf(1, 0).unwrap();
        assert_eq!(ecx >> 31 & ecx >> 24 & ecx >> 21 & 1, 1, "{at}: hypervisor, TSC deadline, x2APIC");
        assert_eq!(view.leaf(0x4000_0000, 0).unwrap()[1..], [0x4b4d_564b, 0x564b_4d56, 0x4d], "{at}: KVM");
        assert_eq!(view.leaf(0x4000_0001, 0).unwrap()[0] >> 15 & 1, 1, "{at}: 15-bit destinations");

        // Leaf 1 and the topology leaves say one thing.
        let cores = u32::try_from(in_vnode(*vnode)).unwrap();
        let (low, per_package, told) = view.legacy();
        assert_eq!((low, told), (madt & 0xff, cores > 1), "{at}");
        assert!(per_package == 255 || per_package.is_power_of_two() && per_package >= cores, "{at}");
        let leaves: Vec<u32> = [0xb, 0x1f].into_iter().filter(|leaf| *leaf <= view.highest(0)).collect();
        assert!(!leaves.is_empty(), "{at}");
        for leaf in leaves {
            let (id, levels) = view.levels(leaf);
            assert_eq!(id, madt, "{at}: leaf {leaf:#x}");
            let [smt, core] = levels[..] else { panic!("{at}: leaf {leaf:#x}: {levels:?}") };
            assert_eq!(smt, Level { shift: 0, processors: 1, kind: 1 }, "{at}: no SMT");
            assert_eq!((core.kind, core.processors), (2, cores), "{at}");
            let package = id >> core.shift;
            assert_eq!(*packages.entry(package).or_insert(*vnode), *vnode, "{at}: package {package}");
        }

        // No cache is shared between vnodes; only the last level is shared at all, by the whole vnode.
        let list = view.caches(caches);
        assert_eq!(list.iter().map(|c| c.level).collect::<Vec<_>>(), [1, 1, 2, 3], "{at}");
        for Cache { level, sharing, bytes, .. } in list {
            assert!((16 << 10..1 << 30).contains(&bytes), "{at}: L{level} of {bytes} bytes");
            if level < 3 {
                assert_eq!(sharing, 1, "{at}: L{level}");
            } else {
                assert!(sharing >= cores, "{at}: L3 is shared by {sharing}");
                let id = group(madt, sharing);
                assert_eq!(*last_level.entry(id).or_insert(*vnode), *vnode, "{at}: L3 {id}");
            }
        }
        if several {
            // Linux on Zen 1 and on Hygon takes 8 neighbouring ids for sharers of a cache.
            assert_eq!(*eights.entry(madt >> 3).or_insert(*vnode), *vnode, "{at}: eight {}", madt >> 3);
        }
    }
    let of_vcpus: BTreeSet<u32> = all.iter().map(|(_, vnode, _)| *vnode).collect();
    assert_eq!(
        (packages.len(), last_level.len()),
        (of_vcpus.len(), of_vcpus.len()),
        "{name}: one for each vnode"
    );
}

#[test]
fn on_intel_every_leaf_tells_the_vnodes() {
    for (name, text) in INTEL {
        let host = table(text);
        for vm in machines() {
            check(name, &host, &vm, 4);
            for (vcpu, vnode, entries) in vcpus(&template(&host), &vm) {
                let view = GuestView(&entries);
                assert_eq!(view.vendor(), "GenuineIntel");
                // Six bits of cores; older kernels divide ids by them.
                let cores = vm.vnodes()[vnode as usize].vcpus.len().min(64);
                for cache in view.caches(4) {
                    assert!(cache.cores_in_package as usize >= cores, "{name} {vcpu}: {cache:?}");
                    assert!(cache.cores_in_package.is_power_of_two(), "{name} {vcpu}: {cache:?}");
                }
                assert_eq!(view.leaf(0x8000_001e, 0), None);
            }
        }
    }
}

#[test]
fn on_amd_the_extended_leaves_agree_with_the_common_ones() {
    for (name, text) in AMD {
        let host = table(text);
        for vm in machines() {
            check(name, &host, &vm, 0x8000_001d);
            for (vcpu, vnode, entries) in vcpus(&template(&host), &vm) {
                let view = GuestView(&entries);
                let at = format!("{name}, vCPU {vcpu} in {:?}", vm.vcpus_of_vnodes());
                assert_eq!(view.vendor(), "AuthenticAMD");
                let (id, levels) = view.levels(0xb);
                let cores = u32::try_from(vm.vnodes()[vnode as usize].vcpus.len()).unwrap();
                let core_bits = levels[1].shift;
                // AMD APM volume 3, E.4.15: APIC id; threads per core and core; nodes per package and node.
                let [apic, core, node, _] = view.leaf(0x8000_001e, 0).unwrap();
                assert_eq!(apic, id, "{at}");
                assert_eq!(
                    (core >> 8 & 0xff, node >> 8 & 7),
                    (0, 0),
                    "{at}: one thread a core, one node a package"
                );
                assert_eq!(core & 0xff, (id & ((1 << core_bits) - 1)).min(255), "{at}");
                assert_eq!(node & 0xff, id >> core_bits, "{at}");
                // E.4.7: bits that number the cores, and their number less one.
                let [.., sizes, _] = view.leaf(0x8000_0008, 0).unwrap();
                assert_eq!((sizes >> 12 & 0xf, sizes & 0xff), (core_bits, (cores - 1).min(255)), "{at}");
                let [.., features, _] = view.leaf(0x8000_0001, 0).unwrap();
                assert_eq!((features >> 22 & 1, features >> 1 & 1 == 1), (1, cores > 1), "{at}");
                assert_eq!(view.leaf(0x8000_0026, 0), None, "{at}: dies and complexes are the host's");
            }
        }
    }
}

/// The same processor in a host of another shape: every field that says where a processor sits and who shares what,
/// set to other values.
fn elsewhere(host: &[kvm_cpuid_entry2], amd: bool) -> Vec<kvm_cpuid_entry2> {
    let change = |mut e: kvm_cpuid_entry2| {
        match e.function {
            1 => {
                e.ebx = e.ebx & 0xffff | 0x5a25_0000;
                e.edx ^= 1 << 28;
            }
            4 if !amd && e.eax & 0x1f != 0 => e.eax = e.eax & 0x3fff | 0xa940_4000,
            0xb | 0x1f | 0x8000_001e | 0x8000_0026 => {
                [e.eax, e.ebx, e.ecx, e.edx] = [3, 11, e.ecx ^ 0x300, 0x5a];
            }
            0x8000_0001 if amd => e.ecx ^= 1 << 1,
            0x8000_0008 if amd => e.ecx = e.ecx & 0xffff_0f00 | 0x5025,
            0x8000_001d if e.eax & 0x1f != 0 => e.eax = e.eax & !(0xfff << 14) | 0x2a << 14,
            _ => {}
        }
        e
    };
    host.iter().copied().map(change).collect()
}

#[test]
fn nothing_of_the_hosts_topology_reaches_a_guest() {
    for (name, text) in INTEL.into_iter().chain(AMD) {
        let host = table(text);
        let other = elsewhere(&host, AMD.iter().any(|(amd, _)| *amd == name));
        assert_ne!(host, other);
        for vm in machines() {
            let (here, there) = (vcpus(&template(&host), &vm), vcpus(&template(&other), &vm));
            assert!(here == there, "{name} in {:?}", vm.vcpus_of_vnodes());
        }
    }
}

/// Where vCPUs are told the same, they are told what KVM said.
#[test]
fn what_is_not_topology_is_what_kvm_says_for_every_vcpu() {
    const WRITTEN: [u32; 9] =
        [1, 4, 0xb, 0x1f, 0x4000_0001, 0x8000_0000, 0x8000_0001, 0x8000_0008, 0x8000_001d];
    for (name, text) in INTEL.into_iter().chain(AMD) {
        let host = table(text);
        let other = |e: &&kvm_cpuid_entry2| !WRITTEN.contains(&e.function) && e.function < 0x8000_001e;
        let said: Vec<_> = host.iter().filter(other).collect();
        for (vcpu, _, entries) in vcpus(&template(&host), &vm_of_vcpus(&["0-2", "3"])) {
            let told: Vec<_> = entries.iter().filter(other).collect();
            assert_eq!(told, said, "{name} vCPU {vcpu}");
        }
    }
}

/// Leaf 4 of the three Intel generations as they have it: sizes and ways reach the guest as they are.
#[test]
fn cache_sizes_are_the_processors_own() {
    let sizes = |text: &str, leaf| {
        let entries = vcpus(&template(&table(text)), &vm_of_vcpus(&["0-3"])).remove(0).2;
        GuestView(&entries).caches(leaf).iter().map(|cache| cache.bytes >> 10).collect::<Vec<_>>()
    };
    assert_eq!(sizes(INTEL[0].1, 4), [32, 32, 1024, 39_424]);
    assert_eq!(sizes(INTEL[1].1, 4), [48, 32, 1280, 61_440]);
    assert_eq!(sizes(INTEL[2].1, 4), [48, 32, 2048, 107_520]);
    assert_eq!(sizes(AMD[0].1, 0x8000_001d), [32, 64, 512, 8192]);
    assert_eq!(sizes(AMD[1].1, 0x8000_001d), [32, 32, 512, 32_768]);
    assert_eq!(sizes(AMD[2].1, 0x8000_001d), [32, 32, 1024, 32_768]);
}
