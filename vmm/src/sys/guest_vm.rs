//! A KVM VM and its vCPUs, which keep the guest's memory mapped for as long as any of them may touch it. KVM knows
//! memory by its address in this process alone: if it were unmapped earlier, the guest would get whatever is mapped
//! there next. What memory lies where is decided in `memory`.

use super::errno::HostError;
use super::mapping::Mapping;
use kvm_bindings::{KvmIrqRouting, Xsave, kvm_clock_data, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
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

    /// Has it as it was before its first guest, but for its vCPUs: no interrupt goes anywhere, and its clock is at 0.
    pub fn power_on(&self) -> Result<(), HostError> {
        let none = KvmIrqRouting::from_entries(&[]).map_err(|_| {
            HostError::new("KVM_SET_GSI_ROUTING", std::io::Error::from_raw_os_error(libc::ENOMEM))
        })?;
        self.fd.set_gsi_routing(&none).map_err(HostError::kvm("KVM_SET_GSI_ROUTING"))?;
        self.fd.set_clock(&kvm_clock_data::default()).map_err(HostError::kvm("KVM_SET_CLOCK"))
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

    /// What XSAVE saves (`KVM_GET_XSAVE2`; before Linux 5.17 `KVM_GET_XSAVE`, which has no more than 4 KiB).
    pub fn xsave(&self) -> Result<Xsave, HostError> {
        let extra = self.xsave_extra();
        if extra.is_none() {
            let area = self.fd.get_xsave().map_err(HostError::kvm("KVM_GET_XSAVE"))?;
            let mut xsave = Self::empty_xsave(0)?;
            // SAFETY: the length stays that of an area without more entries.
            unsafe { xsave.as_mut_fam_struct() }.xsave.region = area.region;
            return Ok(xsave);
        }
        let mut xsave = Self::empty_xsave(extra.unwrap_or(0))?;
        // SAFETY: it is as large as KVM says the state of this VM's vCPUs is; nothing in this process asks for more features.
        unsafe { self.fd.get_xsave2(&mut xsave) }.map_err(HostError::kvm("KVM_GET_XSAVE2"))?;
        Ok(xsave)
    }

    /// Gives back what [`xsave`](Self::xsave) has read, from a vCPU of this process.
    pub fn set_xsave(&self, xsave: &Xsave) -> Result<(), HostError> {
        let extra = self.xsave_extra().unwrap_or(0);
        if xsave.as_slice().len() < extra {
            return Err(HostError::new("KVM_SET_XSAVE", std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        // SAFETY: it was just seen to be as large as KVM reads.
        unsafe { self.fd.set_xsave2(xsave) }.map_err(HostError::kvm("KVM_SET_XSAVE"))
    }

    /// Another control word of the FPU (Intel SDM volume 1, 13.4).
    #[cfg(test)]
    pub fn set_fpu_control(&self, word: u32) -> Result<(), HostError> {
        let mut xsave = self.xsave()?;
        // SAFETY: its length stays.
        let region = unsafe { &mut xsave.as_mut_fam_struct().xsave.region };
        // In the header: there is something of the FPU.
        (region[0], region[512 / 4]) = (word, 1);
        self.set_xsave(&xsave)
    }

    /// Words beyond 4 KiB; `None` where KVM cannot say.
    fn xsave_extra(&self) -> Option<usize> {
        let size =
            usize::try_from(self.vm.fd.check_extension_int(Cap::Xsave2)).ok().filter(|size| *size > 0)?;
        Some(size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>()))
    }

    fn empty_xsave(extra: usize) -> Result<Xsave, HostError> {
        Xsave::new(extra)
            .map_err(|_| HostError::new("KVM_GET_XSAVE", std::io::Error::from_raw_os_error(libc::ENOMEM)))
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
