//! Tells KVM which host memory stands behind guest-physical addresses.

use super::errno::HostError;
use super::mapping::Mapping;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuFd, VmFd};
use resources::{Bytes, Gpa};

/// Puts all of `mapping` at `start` in the guest. The caller keeps the mapping until the VM is gone: dropping it
/// earlier makes the guest fault, it does not give the guest anybody else's memory.
pub fn set_memslot(vm: &VmFd, slot: u32, start: Gpa, mapping: &Mapping) -> Result<(), HostError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: start.0,
        memory_size: mapping.size() as u64,
        userspace_addr: mapping.address() as u64,
    };
    // SAFETY: the range is mapped and owned by `mapping`, which no other slot uses.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| {
        HostError::kvm("KVM_SET_USER_MEMORY_REGION")(error)
            .of(format!("guest memory at {start}"))
            .length(Bytes(mapping.size() as u64))
    })
}

/// Which `KVM_INTERNAL_ERROR_*` ended the last KVM_RUN; only meaningful right after `KVM_EXIT_INTERNAL_ERROR`.
pub fn internal_suberror(vcpu: &mut VcpuFd) -> u32 {
    let run = vcpu.get_kvm_run();
    // SAFETY: the union's members are plain integers, so any of them may be read.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}
