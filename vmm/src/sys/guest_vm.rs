//! A KVM VM and its vCPUs, which keep the guest's memory mapped for as long as any of them may touch it. KVM knows
//! memory by its address in this process alone: if it were unmapped earlier, the guest would get whatever is mapped
//! there next. What memory lies where is decided in `memory`.

use super::errno::HostError;
use super::mapping::Mapping;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuFd, VmFd};
use resources::{Bytes, Gpa};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A VM and the memory behind its guest-physical addresses.
pub struct GuestVm {
    // Before the memory: fields are dropped in this order.
    fd: VmFd,
    memory: Mutex<Vec<Arc<Mapping>>>,
}

impl GuestVm {
    /// A VM without memory.
    pub fn new(fd: VmFd) -> Self {
        Self { fd, memory: Mutex::default() }
    }

    /// Puts all of `mapping` at `start` in the guest, where no other memory is.
    pub fn add_memory(&self, slot: u32, start: Gpa, mapping: &Arc<Mapping>) -> Result<(), HostError> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start.0,
            memory_size: mapping.size() as u64,
            userspace_addr: mapping.address() as u64,
        };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range is mapped as long as `mapping` lives, which this VM and each of its vCPUs keep.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(|error| {
            HostError::kvm("KVM_SET_USER_MEMORY_REGION")(error)
                .of(format!("guest memory at {start}"))
                .length(Bytes(mapping.size() as u64))
        })?;
        memory.push(Arc::clone(mapping));
        Ok(())
    }

    /// A vCPU with this APIC id.
    pub fn create_vcpu(self: &Arc<Self>, apic_id: u64) -> Result<GuestVcpu, HostError> {
        let fd = self.fd.create_vcpu(apic_id).map_err(HostError::kvm("KVM_CREATE_VCPU"))?;
        Ok(GuestVcpu { fd, vm: Arc::clone(self) })
    }
}

impl Deref for GuestVm {
    type Target = VmFd;

    fn deref(&self) -> &VmFd {
        &self.fd
    }
}

/// A vCPU of a [`GuestVm`].
pub struct GuestVcpu {
    fd: VcpuFd,
    vm: Arc<GuestVm>,
}

impl GuestVcpu {
    /// The length of the `kvm_run` mapping.
    pub(super) fn run_size(&self) -> usize {
        self.vm.run_size()
    }

    /// Which `KVM_INTERNAL_ERROR_*` ended the last KVM_RUN; only meaningful right after `KVM_EXIT_INTERNAL_ERROR`.
    pub fn internal_suberror(&mut self) -> u32 {
        let run = self.fd.get_kvm_run();
        // SAFETY: the union's members are plain integers, so any of them may be read.
        unsafe { run.__bindgen_anon_1.internal.suberror }
    }
}

impl Deref for GuestVcpu {
    type Target = VcpuFd;

    fn deref(&self) -> &VcpuFd {
        &self.fd
    }
}

impl DerefMut for GuestVcpu {
    fn deref_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }
}

#[cfg(test)]
mod tests {
    use super::GuestVm;
    use crate::sys::{Backing, Mapping};
    use resources::{Bytes, Gpa};
    use std::sync::Arc;

    #[test]
    fn memory_is_mapped_as_long_as_the_vm_or_a_vcpu_of_it_is_there() {
        if !testing::kvm() {
            return;
        }
        let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
        let mapping = Arc::new(mapping);
        let vm = Arc::new(GuestVm::new(kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap()));
        vm.add_memory(0, Gpa(0), &mapping).unwrap();
        // A range that is taken is refused, and not kept.
        assert_eq!(vm.add_memory(1, Gpa(4096), &mapping).unwrap_err().errno(), libc::EEXIST);
        assert_eq!(Arc::strong_count(&mapping), 2);
        let vcpu = vm.create_vcpu(0).unwrap();
        drop(vm);
        assert_eq!(Arc::strong_count(&mapping), 2);
        drop(vcpu);
        assert_eq!(Arc::strong_count(&mapping), 1);
    }
}
