//! What a VM has of the host for its guest, taken once and kept over resets: devices with their taps, files and sockets,
//! guest memory, and KVM's VM with its vCPUs and their threads. Machines come and go with their guests; what a device is for
//! a driver is `devices`' knowledge.

use crate::Error;
use crate::attach::{self, Handles, OnFull};
use crate::cpu::VcpuThreads;
use crate::memory::{GuestRam, RamError};
use crate::pci::HostDevice;
use crate::socket_file::Janitor;
use crate::sys::{GuestVm, HostError};
use resources::Plan;
use std::sync::Arc;

/// Devices and memory while no machine has them.
pub struct HostSide {
    /// At rest, in the order in which the guest shall find those of one vnode.
    pub devices: Vec<HostDevice>,
    /// What stays outside of them.
    pub handles: Handles,
    /// Untouched.
    pub ram: Arc<GuestRam>,
    /// Of the machine before.
    pub kvm: Option<KvmSide>,
}

/// A VM of KVM's, and its vCPUs at rest.
pub struct KvmSide {
    // vCPUs first.
    vcpus: VcpuThreads,
    vm: Arc<GuestVm>,
}

impl KvmSide {
    /// The vCPUs have no guest.
    pub fn new(vm: Arc<GuestVm>, vcpus: VcpuThreads) -> Self {
        Self { vcpus, vm }
    }

    /// The same with other memory. `None` if KVM refuses; then it is made anew.
    fn with_memory(
        self,
        before: Arc<GuestRam>,
        make: impl FnOnce() -> Result<GuestRam, RamError>,
    ) -> Result<(Arc<GuestRam>, Option<Self>), RamError> {
        let removed = before.regions().try_for_each(|region| self.vm.remove_memory(region.range.start));
        drop(before);
        let kept = removed
            .inspect_err(|error| tracing::warn!(%error, "resetting with new vCPUs"))
            .is_ok()
            .then_some(self);
        // What KVM still had mapped is gone with it.
        let ram = Arc::new(make()?);
        let kept = kept.filter(|kvm| {
            let added = add_memory(&kvm.vm, &ram);
            added.inspect_err(|error| tracing::warn!(%error, "resetting with new vCPUs")).is_ok()
        });
        Ok((ram, kept))
    }

    /// As it was at power-on: no interrupt goes anywhere, the clock is at 0, and vCPUs wait for their first guest. `None` if
    /// KVM does not do that; then it is made anew.
    pub fn reset(self) -> Option<(Arc<GuestVm>, VcpuThreads)> {
        let Self { vcpus, vm } = self;
        let done = vcpus.reset().and_then(|()| Ok(vm.power_on()?));
        done.inspect_err(|error| tracing::warn!(%error, "resetting with new vCPUs")).ok()?;
        Some((vm, vcpus))
    }
}

/// Gives a VM all of it.
pub fn add_memory(vm: &GuestVm, ram: &GuestRam) -> Result<(), HostError> {
    ram.regions().try_for_each(|region| vm.add_memory(region.range.start, &region.mapping))
}

impl HostSide {
    /// Opens the devices and maps the memory.
    pub fn acquire(plan: &Plan, janitor: &Janitor, on_full: &OnFull) -> Result<Self, Error> {
        let (devices, handles) = attach::open(&plan.devices, plan.memory_map.ram().len(), janitor, on_full)?;
        Ok(Self { devices, handles, ram: Arc::new(GuestRam::new(plan)?), kvm: None })
    }

    /// For a guest that starts again: the same memory, unless there is less of it now or more.
    pub fn renew(self, plan: &Plan) -> Result<Self, Error> {
        let Self { devices, handles, ram, kvm } = self;
        let (ram, kvm) = match ram.fits(plan) {
            true => {
                ram.renew(plan)?;
                (ram, kvm)
            }
            false => match kvm {
                Some(kvm) => kvm.with_memory(ram, || GuestRam::new(plan))?,
                None => {
                    drop(ram);
                    (Arc::new(GuestRam::new(plan)?), None)
                }
            },
        };
        Ok(Self { devices, handles, ram, kvm })
    }
}

#[cfg(test)]
mod tests {
    use super::KvmSide;
    use crate::cpu::test_vm::{ENTRY, TestVm};
    use crate::cpu::{VcpuSetup, VcpuThreads};
    use crate::memory::GuestRam;
    use crate::test_kernel::{SPINNING, spin_on_all_vcpus};
    use resources::{Bytes, HostRoot, HostTopology, Plan, VmSpec};
    use std::sync::Arc;
    use vm_memory::{Bytes as _, GuestAddress};

    #[test]
    fn vcpus_begin_a_guest_in_other_memory_than_the_one_before() {
        let Some((vm, threads)) = TestVm::spinning(2) else { return };
        threads.rest();
        let TestVm { setup, ram, .. } = vm;
        let before = Arc::downgrade(&ram.regions().next().unwrap().mapping);
        let VcpuSetup { vm, cpuid, msrs, pio, mmio, ioapic, .. } =
            Arc::into_inner(setup).expect("vCPUs at rest hold nothing");
        let spec = VmSpec { vcpus: Some(2), memory: Some(Bytes::mib(64)), ..VmSpec::default() };
        let plan = Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
        let side = KvmSide::new(Arc::clone(&vm), threads);
        let (ram, side) = side.with_memory(ram, || GuestRam::new(&plan)).unwrap();
        assert!(before.upgrade().is_none(), "KVM has nothing of the memory before");
        let (_, mut threads): (_, VcpuThreads) = side.unwrap().reset().unwrap();
        ram.memory().write_slice(&spin_on_all_vcpus(), GuestAddress(crate::cpu::test_vm::CODE)).unwrap();
        let setup = VcpuSetup { vm, ram: Arc::clone(&ram), cpuid, msrs, pio, mmio, ioapic };
        threads.begin(&Arc::new(setup), &plan, ENTRY, |cause| panic!("{cause:?}")).unwrap();
        threads.run();
        while ram.memory().read_obj::<u16>(GuestAddress(SPINNING.into())).unwrap() < 2 {
            std::thread::yield_now();
        }
    }
}
