//! The APIC id of each vCPU: a package per vnode, a core per vCPU, so that CPUID, MADT and SRAT agree. `vmm` encodes
//! CPUID leaves.

use crate::ids::{ApicId, VcpuId};
use crate::topology::VmTopology;

/// Bits for the core number where there are several packages: Linux takes the last-level cache of AMD's first Zen
/// cores, and of Hygon's, to be shared by APIC ids that differ in their lowest 3 bits only
/// (`cacheinfo_amd_init_llc_id`), so no two packages may share such a group.
const LEAST_CORE_BITS: u32 = 3;

/// Places in the x2APIC id: the core number in the low bits, the package above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuTopology {
    core_bits: u32,
    positions: Vec<Position>,
    packages: u32,
}

/// Where a vCPU sits in the guest's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Package, dense from 0 over the vnodes that have vCPUs, in order of their lowest vCPU: vCPU 0 has APIC id 0.
    pub package: u32,
    /// Core in the package, dense from 0.
    pub core: u32,
    /// How many cores the package has.
    pub cores: u32,
}

impl CpuTopology {
    /// One package per vnode that has vCPUs; cores in vCPU order.
    pub fn new(topology: &VmTopology) -> Self {
        let mut homes: Vec<_> = topology.vnodes().iter().filter(|v| !v.vcpus.is_empty()).collect();
        homes.sort_by_key(|vnode| vnode.vcpus.first());
        let mut positions = vec![Position { package: 0, core: 0, cores: 1 }; topology.vcpu_count()];
        let mut most = 1;
        for (package, vnode) in (0..).zip(&homes) {
            let cores = u32::try_from(vnode.vcpus.len()).unwrap_or(u32::MAX);
            most = most.max(cores);
            for (core, vcpu) in (0..).zip(vnode.vcpus.iter()) {
                positions[vcpu.index()] = Position { package, core, cores };
            }
        }
        let packages = u32::try_from(homes.len()).unwrap_or(u32::MAX);
        let core_bits = most.next_power_of_two().trailing_zeros();
        let core_bits = if packages > 1 { core_bits.max(LEAST_CORE_BITS) } else { core_bits };
        Self { core_bits, positions, packages }
    }

    /// Bits of the APIC id that number the core.
    pub fn core_bits(&self) -> u32 {
        self.core_bits
    }

    /// How many packages.
    pub fn packages(&self) -> u32 {
        self.packages
    }

    /// Where one vCPU sits. Panics never: vCPUs past the last sit with vCPU 0.
    pub fn position(&self, vcpu: VcpuId) -> Position {
        self.positions.get(vcpu.index()).copied().unwrap_or(Position { package: 0, core: 0, cores: 1 })
    }

    /// The APIC id of one vCPU.
    pub fn apic_id(&self, vcpu: VcpuId) -> ApicId {
        let Position { package, core, .. } = self.position(vcpu);
        ApicId((package << self.core_bits) | core)
    }

    /// The highest APIC id in use.
    pub fn max_apic_id(&self) -> ApicId {
        (0..).map(VcpuId).take(self.positions.len()).map(|v| self.apic_id(v)).max().unwrap_or(ApicId(0))
    }
}

#[cfg(test)]
mod tests {
    use super::CpuTopology;
    use crate::test_host::vm_of_vcpus;
    use crate::{ApicId, VcpuId};

    fn topology(vcpus: &[&str]) -> CpuTopology {
        CpuTopology::new(&vm_of_vcpus(vcpus))
    }

    fn apic_ids(topology: &CpuTopology, vcpus: u32) -> Vec<u32> {
        (0..vcpus).map(|v| topology.apic_id(VcpuId(v)).0).collect()
    }

    #[test]
    fn each_vnode_is_a_package() {
        assert_eq!(apic_ids(&topology(&["0-1", "2-3"]), 4), [0, 1, 8, 9]);
        assert_eq!(apic_ids(&topology(&["0-8", "9"]), 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 16]);
        assert_eq!(apic_ids(&topology(&["0-2"]), 3), [0, 1, 2]);
    }

    #[test]
    fn interleaved_vcpus_keep_their_vnodes_package() {
        assert_eq!(apic_ids(&topology(&["0,2", "1,3"]), 4), [0, 8, 1, 9]);
    }

    #[test]
    fn vcpu_0_always_has_apic_id_0() {
        assert_eq!(apic_ids(&topology(&["2-3", "0-1"]), 4), [0, 1, 8, 9]);
        assert_eq!(apic_ids(&topology(&["", "0-1", "2"]), 3), [0, 1, 8]);
    }

    #[test]
    fn uneven_vnodes_push_apic_ids_past_254_before_there_are_that_many_vcpus() {
        let lists = ["0-64", "65", "66"];
        assert_eq!(topology(&lists).max_apic_id(), ApicId(256));
    }
}
