//! A KVM VM and its vCPUs, which keep the guest's memory mapped for as long as any of them may touch it. KVM knows
//! memory by its address in this process alone: if it were unmapped earlier, the guest would get whatever is mapped
//! there next. What memory lies where is decided in `memory`.

use super::errno::HostError;
use super::mapping::Mapping;
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KvmIrqRouting, Xsave, kvm_clock_data, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use resources::{Bytes, Gpa};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A VM and the memory behind its guest-physical addresses.
pub struct GuestVm {
    // Before the memory: fields are dropped in this order.
    fd: VmFd,
    slots: Mutex<Vec<Option<Memory>>>,
}

/// What lies in a slot.
struct Memory {
    start: Gpa,
    mapping: Arc<Mapping>,
}

impl GuestVm {
    /// A VM without memory.
    pub fn new(fd: VmFd) -> Self {
        Self { fd, slots: Mutex::default() }
    }

    /// Puts all of `mapping` at `start` in the guest, where no other memory is, in the lowest slot that is free.
    pub fn add_memory(&self, start: Gpa, mapping: &Arc<Mapping>) -> Result<(), HostError> {
        let mut slots = self.slots();
        let slot = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        let memory = Memory { start, mapping: Arc::clone(mapping) };
        self.set_slot(slot, &memory, memory.mapping.size(), 0)?;
        match slots.get_mut(slot) {
            Some(free) => *free = Some(memory),
            None => slots.push(Some(memory)),
        }
        Ok(())
    }

    /// Takes the memory at `start` out of the guest; an access there is one to no memory from now on.
    pub fn remove_memory(&self, start: Gpa) -> Result<(), HostError> {
        let mut slots = self.slots();
        let slot = find(&slots, start)?;
        if let Some(memory) = &slots[slot] {
            self.set_slot(slot, memory, 0, 0)?;
        }
        slots[slot] = None;
        Ok(())
    }

    /// Has KVM note which pages at `start` the guest writes, or no longer. What it notes costs a page fault for each page.
    pub fn log_writes(&self, start: Gpa, on: bool) -> Result<(), HostError> {
        let slots = self.slots();
        let slot = find(&slots, start)?;
        let Some(memory) = &slots[slot] else { return Ok(()) };
        self.set_slot(slot, memory, memory.mapping.size(), if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    /// The pages of the memory at `start` that the guest has written since the last call, a bit per 4 KiB, the first in the
    /// lowest; they are noted again from then on.
    pub fn dirty_log(&self, start: Gpa) -> Result<Vec<u64>, HostError> {
        let slots = self.slots();
        let slot = find(&slots, start)?;
        let size = slots[slot].as_ref().map_or(0, |memory| memory.mapping.size());
        let log = self.fd.get_dirty_log(number(slot), size);
        log.map_err(|error| refused("KVM_GET_DIRTY_LOG", start)(error))
    }

    fn set_slot(&self, slot: usize, memory: &Memory, size: usize, flags: u32) -> Result<(), HostError> {
        let region = kvm_userspace_memory_region {
            slot: number(slot),
            flags,
            guest_phys_addr: memory.start.0,
            memory_size: size as u64,
            userspace_addr: memory.mapping.address() as u64,
        };
        // SAFETY: the range is mapped as long as `mapping` lives, which this VM and each of its vCPUs keep while the slot is set.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(|error| {
            refused("KVM_SET_USER_MEMORY_REGION", memory.start)(error).length(Bytes(size as u64))
        })
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<Memory>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The slot of the memory at `start`.
fn find(slots: &[Option<Memory>], start: Gpa) -> Result<usize, HostError> {
    let here = |slot: &Option<Memory>| slot.as_ref().is_some_and(|memory| memory.start == start);
    slots.iter().position(here).ok_or_else(|| {
        HostError::new("KVM_SET_USER_MEMORY_REGION", std::io::Error::from_raw_os_error(libc::ENOENT))
            .of(format!("guest memory at {start}"))
    })
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

fn refused(call: &'static str, start: Gpa) -> impl FnOnce(kvm_ioctls::Error) -> HostError {
    move |error| HostError::kvm(call)(error).of(format!("guest memory at {start}"))
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
        vm.add_memory(Gpa(0), &mapping).unwrap();
        // A range that is taken is refused, and not kept.
        assert_eq!(vm.add_memory(Gpa(4096), &mapping).unwrap_err().errno(), libc::EEXIST);
        assert_eq!(Arc::strong_count(&mapping), 2);
        let other = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
        let other = Arc::new(other);
        vm.add_memory(Gpa(4 << 20), &other).unwrap();
        // A slot that is free is the next to be taken.
        vm.remove_memory(Gpa(0)).unwrap();
        assert_eq!(Arc::strong_count(&mapping), 1);
        assert_eq!(vm.remove_memory(Gpa(0)).unwrap_err().errno(), libc::ENOENT);
        vm.add_memory(Gpa(8 << 20), &mapping).unwrap();
        let starts = |slot: &Option<super::Memory>| slot.as_ref().map(|memory| memory.start.0 >> 20);
        assert_eq!(vm.slots().iter().map(starts).collect::<Vec<_>>(), [Some(8), Some(4)]);
        let vcpu = vm.create_vcpu(0).unwrap();
        drop(vm);
        assert_eq!(Arc::strong_count(&mapping), 2);
        drop(vcpu);
        assert_eq!(Arc::strong_count(&mapping), 1);
    }
}
