//! Model-specific registers that firmware would have set before the kernel starts. What a kernel sets itself is left to it.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use resources::VcpuId;

/// `IA32_MISC_ENABLE` (Intel SDM volume 4, table 2-2). Bit 0: fast strings. KVM's reset value has it clear, and Linux on
/// Intel then does without `rep movsb` and `rep stosb` for copying and clearing memory (`early_init_intel`). The other
/// bits keep what KVM says.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE` (Intel SDM volume 3, 12.11.2.1): MTRRs on, write-back by default.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

/// Sets them one by one, so that one that this KVM does not have keeps none of the others from being set. A kernel boots
/// without any of them, but slower.
pub fn set_boot_msrs(vcpu: &VcpuFd, id: VcpuId) {
    let misc_enable = get(vcpu, MISC_ENABLE).unwrap_or_default() | FAST_STRINGS;
    for (index, data) in [(MISC_ENABLE, misc_enable), (MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK)] {
        let msrs = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]);
        match msrs.map(|msrs| vcpu.set_msrs(&msrs)) {
            Ok(Ok(1)) => {}
            _ => tracing::info!(vcpu = %id, msr = format!("{index:#x}"), "cannot set MSR"),
        }
    }
}

/// `None` where this KVM does not have it.
fn get(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    let count = vcpu.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().first().filter(|_| count == 1).map(|entry| entry.data)
}

#[cfg(test)]
mod tests {
    use super::{FAST_STRINGS, MISC_ENABLE, MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK, get, set_boot_msrs};
    use resources::VcpuId;

    #[test]
    fn what_firmware_sets_reads_back_and_the_rest_of_misc_enable_stays() {
        if !testing::kvm() {
            return;
        }
        let vm = kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let before = get(&vcpu, MISC_ENABLE);
        set_boot_msrs(&vcpu, VcpuId(0));
        assert_eq!(get(&vcpu, MISC_ENABLE), before.map(|before| before | FAST_STRINGS));
        assert!(before.is_some(), "this KVM has no IA32_MISC_ENABLE");
        assert_eq!(get(&vcpu, MTRR_DEF_TYPE), Some(MTRR_ENABLE_WRITE_BACK));
        assert_eq!(get(&vcpu, 0x1234_5678), None);
    }
}
