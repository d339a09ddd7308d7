//! CPUID for each vCPU: what KVM supports, with the topology that SRAT tells: a package per vnode, its cores, no SMT,
//! a last-level cache shared inside the package only. Otherwise Linux complains that "LLC siblings are not on one
//! node". Which APIC id a vCPU has was decided in `resources`.

mod amd;
#[cfg(test)]
mod guest_view;
#[cfg(test)]
mod hosts_tests;
mod name;

pub use name::name_of_host;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use resources::{CpuTopology, VcpuId};

const VENDOR: u32 = 0;
const FEATURES: u32 = 1;
const CACHES_INTEL: u32 = 4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const KVM_FEATURES: u32 = 0x4000_0001;
const TOPOLOGY_AMD: u32 = 0x8000_001e;
const TOPOLOGY_AMD_V2: u32 = 0x8000_0026;

/// Leaf 1 ECX: x2APIC, TSC deadline timer, hypervisor present. EDX: more than one id per package.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
/// `KVM_FEATURE_MSI_EXT_DEST_ID`: 15-bit destinations in MSIs and the IO-APIC, without interrupt remapping.
const MSI_EXT_DEST_ID: u32 = 1 << 15;

/// CPUID as all vCPUs share it.
#[derive(Debug, Clone)]
pub struct CpuidTemplate {
    entries: Vec<kvm_cpuid_entry2>,
}

/// CPUID that the kernel's 256 entries cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CPUID has more entries than KVM takes")]
pub struct TooManyEntries;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Intel,
    Amd,
}

impl CpuidTemplate {
    /// From what KVM supports; `tsc_deadline` when KVM has that timer.
    pub fn new(supported: &CpuId, tsc_deadline: bool) -> Self {
        let mut entries: Vec<_> = supported.as_slice().to_vec();
        // Intel's v2 topology comes and goes with v1's; AMD's v2 names dies and clusters that the guest has not.
        entries.retain(|e| !matches!(e.function, TOPOLOGY | TOPOLOGY_V2 | TOPOLOGY_AMD | TOPOLOGY_AMD_V2));
        let mut template = Self { entries };
        template.change(FEATURES, |e| {
            e.ecx |= HYPERVISOR | X2APIC;
            if tsc_deadline {
                e.ecx |= TSC_DEADLINE;
            }
        });
        template.change(KVM_FEATURES, |e| e.eax |= MSI_EXT_DEST_ID);
        template
    }

    /// With the processor's name, which KVM leaves out.
    #[must_use]
    pub fn named(mut self, leaves: &[(u32, [u32; 4])]) -> Self {
        self.entries.retain(|e| leaves.iter().all(|(function, _)| *function != e.function));
        self.entries.extend(leaves.iter().map(|(function, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
            function: *function,
            eax: *eax,
            ebx: *ebx,
            ecx: *ecx,
            edx: *edx,
            ..Default::default()
        }));
        self
    }

    /// CPUID of one vCPU.
    pub fn for_vcpu(&self, vcpu: VcpuId, cpus: &CpuTopology) -> Result<CpuId, TooManyEntries> {
        let mut this = self.clone();
        let (apic_id, position) = (cpus.apic_id(vcpu).0, cpus.position(vcpu));
        let ids_per_package = 1_u32 << cpus.core_bits();
        this.change(FEATURES, |e| {
            // EBX 31:24 lowest 8 bits of the APIC id, 23:16 ids per package up to 255; leaf 0xB has all of them.
            e.ebx = e.ebx & 0xffff | apic_id << 24 | ids_per_package.min(255) << 16;
            e.edx = if position.cores > 1 { e.edx | HTT } else { e.edx & !HTT };
        });
        this.add_topology_leaves(apic_id, position.cores, cpus.core_bits());
        match this.maker() {
            Some(Maker::Intel) => this.share_caches_intel(ids_per_package),
            Some(Maker::Amd) => amd::describe(&mut this, apic_id, position, cpus.core_bits()),
            None => {}
        }
        CpuId::from_entries(&this.entries).map_err(|_| TooManyEntries)
    }

    /// Intel SDM volume 2, CPUID, leaves 0BH and 1FH; AMD APM volume 3, E.3.12 has the first too.
    fn add_topology_leaves(&mut self, apic_id: u32, cores: u32, core_bits: u32) {
        const LEVEL_SMT: u32 = 1;
        const LEVEL_CORE: u32 = 2;
        let max = self.find(VENDOR).map_or(0, |e| e.eax);
        for function in [TOPOLOGY, TOPOLOGY_V2] {
            if max < function {
                continue;
            }
            let levels = [(0, 1, LEVEL_SMT), (core_bits, cores, LEVEL_CORE), (0, 0, 0)];
            for (index, (shift, count, level)) in (0..).zip(levels) {
                self.entries.push(kvm_cpuid_entry2 {
                    function,
                    index,
                    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                    eax: shift,
                    ebx: count,
                    ecx: level << 8 | index,
                    edx: apic_id,
                    ..Default::default()
                });
            }
        }
    }

    /// Intel SDM volume 2, CPUID, leaf 04H: who shares each cache.
    fn share_caches_intel(&mut self, ids_per_package: u32) {
        for entry in self.entries.iter_mut().filter(|e| e.function == CACHES_INTEL && e.eax & 0x1f != 0) {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { ids_per_package } else { 1 };
            // 25:14 ids that share the cache, 31:26 cores in the package, each less one.
            entry.eax =
                entry.eax & 0x3fff | (sharing - 1).min(0xfff) << 14 | (ids_per_package - 1).min(0x3f) << 26;
        }
    }

    fn maker(&self) -> Option<Maker> {
        let vendor = self.find(VENDOR)?;
        let name: Vec<u8> =
            [vendor.ebx, vendor.edx, vendor.ecx].iter().flat_map(|r| r.to_le_bytes()).collect();
        match name.as_slice() {
            b"GenuineIntel" | b"CentaurHauls" | b"  Shanghai  " => Some(Maker::Intel),
            b"AuthenticAMD" | b"HygonGenuine" => Some(Maker::Amd),
            _ => None,
        }
    }

    fn find(&self, function: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|e| e.function == function)
    }

    fn change(&mut self, function: u32, change: impl Fn(&mut kvm_cpuid_entry2)) {
        self.entries.iter_mut().filter(|e| e.function == function).for_each(change);
    }
}

#[cfg(test)]
mod tests {
    use super::CpuidTemplate;
    use kvm_bindings::{CpuId, kvm_cpuid_entry2};
    use resources::test_host::vm_of_vcpus;
    use resources::{CpuTopology, VcpuId};

    fn entry(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn vendor(max: u32, name: &[u8; 12]) -> kvm_cpuid_entry2 {
        let word = |i: usize| u32::from_le_bytes([name[i], name[i + 1], name[i + 2], name[i + 3]]);
        entry(0, [max, word(0), word(8), word(4)])
    }

    fn cache(function: u32, index: u32, level: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { index, flags: 1, ..entry(function, [level << 5 | 3 | 0xffff_c000, 0, 0, 0]) }
    }

    fn intel() -> CpuidTemplate {
        let caches = [cache(4, 0, 1), cache(4, 1, 3), kvm_cpuid_entry2 { index: 2, ..entry(4, [0; 4]) }];
        let mut entries = vec![vendor(0x1f, b"GenuineIntel"), entry(1, [0; 4]), entry(0x4000_0001, [0; 4])];
        entries.extend(caches);
        entries.push(kvm_cpuid_entry2 { edx: 77, ..entry(0xb, [9; 4]) });
        CpuidTemplate::new(&CpuId::from_entries(&entries).unwrap(), true)
    }

    fn amd(topoext: bool) -> CpuidTemplate {
        let entries = [
            vendor(0xd, b"AuthenticAMD"),
            entry(1, [if topoext { 0x00a2_0f10 } else { 0x0060_0f12 }, 0, 0, 0]),
            entry(0x8000_0000, [0x8000_0026, 0, 0, 0]),
            entry(0x8000_0001, [0, 0, u32::from(topoext) << 22, 0]),
            entry(0x8000_0008, [0x3030, 0, 0xf0ff, 0]),
            cache(0x8000_001d, 0, 1),
            cache(0x8000_001d, 3, 3),
            entry(0x8000_001e, [5; 4]),
            entry(0x8000_0026, [5; 4]),
        ];
        CpuidTemplate::new(&CpuId::from_entries(&entries).unwrap(), false)
    }

    fn cpus(lists: &[&str]) -> CpuTopology {
        CpuTopology::new(&vm_of_vcpus(lists))
    }

    fn leaf(
        template: &CpuidTemplate,
        vcpu: u32,
        cpus: &CpuTopology,
        function: u32,
        index: u32,
    ) -> Option<[u32; 4]> {
        let cpuid = template.for_vcpu(VcpuId(vcpu), cpus).unwrap();
        let mut matching = cpuid.as_slice().iter().filter(|e| e.function == function && e.index == index);
        let found = matching.next().map(|e| [e.eax, e.ebx, e.ecx, e.edx]);
        assert!(matching.next().is_none(), "leaf {function:#x}.{index} twice");
        found
    }

    #[test]
    fn intel_packages_are_vnodes_in_every_leaf() {
        let (intel, cpus) = (intel(), cpus(&["0-2", "3-4"]));
        let [_, ebx, ecx, edx] = leaf(&intel, 4, &cpus, 1, 0).unwrap();
        assert_eq!((ebx, edx), (9 << 24 | 8 << 16, 1 << 28));
        assert_eq!(ecx, 1 << 31 | 1 << 24 | 1 << 21);
        for function in [0xb, 0x1f] {
            assert_eq!(leaf(&intel, 4, &cpus, function, 0), Some([0, 1, 0x100, 9]));
            assert_eq!(leaf(&intel, 4, &cpus, function, 1), Some([3, 2, 0x201, 9]));
            assert_eq!(leaf(&intel, 4, &cpus, function, 2), Some([0, 0, 2, 9]));
        }
        assert_eq!(leaf(&intel, 4, &cpus, 4, 0).unwrap()[0], 1 << 5 | 3 | 7 << 26);
        assert_eq!(leaf(&intel, 4, &cpus, 4, 1).unwrap()[0], 3 << 5 | 3 | 7 << 14 | 7 << 26);
        assert_eq!(leaf(&intel, 4, &cpus, 4, 2).unwrap()[0], 0);
        assert_eq!(leaf(&intel, 4, &cpus, 0x4000_0001, 0).unwrap()[0], 1 << 15);
    }

    #[test]
    fn amd_nodes_and_caches_are_vnodes() {
        let (amd, cpus) = (amd(true), cpus(&["0,2", "1,3"]));
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_001e, 0), Some([9, 1, 1, 0]));
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_0008, 0), Some([0x3030, 0, 0x3001, 0]));
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_001d, 3).unwrap()[0] >> 14 & 0xfff, 7);
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_001d, 0).unwrap()[0] >> 14 & 0xfff, 0);
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_0001, 0).unwrap()[2], 1 << 22 | 2);
        assert_eq!(leaf(&amd, 3, &cpus, 0x8000_0026, 0), None);
        assert_eq!(leaf(&amd, 3, &cpus, 0x1f, 0), None);
        assert_eq!(leaf(&amd, 3, &cpus, 0xb, 1), Some([3, 2, 0x201, 9]));
    }

    #[test]
    fn amd_before_zen_gets_no_topology_extensions() {
        let (amd, cpus) = (amd(false), cpus(&["0", "1"]));
        assert_eq!(leaf(&amd, 1, &cpus, 0x8000_001e, 0), None);
        assert_eq!(leaf(&amd, 1, &cpus, 0x8000_0001, 0).unwrap()[2], 0);
        assert_eq!(leaf(&amd, 1, &cpus, 1, 0).unwrap()[3] & 1 << 28, 0);
    }

    #[test]
    fn zen_gets_its_topology_leaves_even_where_kvm_hides_them() {
        // 32 KiB 8-way L1d, 64 KiB 4-way L1i, 512 KiB 8-way L2, 8 MiB 16-way L3, lines of 64 bytes.
        let entries = [
            vendor(0xd, b"AuthenticAMD"),
            entry(1, [0x0080_0f12, 0, 0, 0]),
            entry(0x8000_0000, [0x8000_001a, 0, 0, 0]),
            entry(0x8000_0001, [0; 4]),
            entry(0x8000_0005, [0, 0, 32 << 24 | 8 << 16 | 64, 64 << 24 | 4 << 16 | 64]),
            entry(0x8000_0006, [0, 0, 512 << 16 | 6 << 12 | 64, 16 << 18 | 8 << 12 | 64]),
        ];
        let template = CpuidTemplate::new(&CpuId::from_entries(&entries).unwrap(), true);
        let cpus = cpus(&["0-1", "2-3"]);
        assert_eq!(leaf(&template, 3, &cpus, 0x8000_0001, 0).unwrap()[2], 1 << 22 | 2);
        assert_eq!(leaf(&template, 3, &cpus, 0x8000_0000, 0).unwrap()[0], 0x8000_001e);
        assert_eq!(leaf(&template, 3, &cpus, 0x8000_001e, 0), Some([9, 1, 1, 0]));
        let cache = |index| leaf(&template, 3, &cpus, 0x8000_001d, index);
        assert_eq!(cache(0), Some([1 << 8 | 1 << 5 | 1, 7 << 22 | 63, 63, 0]));
        assert_eq!(cache(1), Some([1 << 8 | 1 << 5 | 2, 3 << 22 | 63, 255, 0]));
        assert_eq!(cache(2), Some([1 << 8 | 2 << 5 | 3, 7 << 22 | 63, 1023, 0]));
        assert_eq!(cache(3), Some([7 << 14 | 1 << 8 | 3 << 5 | 3, 15 << 22 | 63, 8191, 0]));
        assert_eq!(cache(4), Some([0; 4]));
    }

    #[test]
    fn the_name_takes_the_place_of_what_kvm_says() {
        let said = [entry(0x8000_0002, [0; 4]), entry(0x8000_0005, [7; 4])];
        let named = CpuidTemplate::new(&CpuId::from_entries(&said).unwrap(), true)
            .named(&[(0x8000_0002, [1, 2, 3, 4]), (0x8000_0003, [5; 4])]);
        let all: Vec<_> = named.entries.iter().map(|e| (e.function, [e.eax, e.ebx, e.ecx, e.edx])).collect();
        assert_eq!(all, [(0x8000_0005, [7; 4]), (0x8000_0002, [1, 2, 3, 4]), (0x8000_0003, [5; 4])]);
    }

    #[test]
    fn apic_ids_past_255_are_whole_in_the_topology_leaf() {
        let (intel, cpus) = (intel(), cpus(&["0-64", "65", "66"]));
        assert_eq!(leaf(&intel, 66, &cpus, 0xb, 0).unwrap()[3], 256);
        assert_eq!(leaf(&intel, 66, &cpus, 1, 0).unwrap()[1] >> 24, 0);
    }
}
