//! What a VM has of the host for its guest, taken once and kept over resets: devices with their taps, files and sockets,
//! guest memory, and KVM's VM with its vCPUs and their threads. Machines come and go with their guests; what a device is for
//! a driver is `devices`' knowledge.

use crate::Error;
use crate::attach::{self, Handles, OnFull};
use crate::cpu::VcpuThreads;
use crate::memory::GuestRam;
use crate::pci::HostDevice;
use crate::socket_file::Janitor;
use crate::sys::GuestVm;
use resources::{CpuSet, Plan, VcpuId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Devices and memory while no machine has them.
pub struct HostSide {
    /// At rest, in the order in which the guest shall find those of one vnode.
    pub devices: Vec<HostDevice>,
    /// What stays outside of them.
    pub handles: Handles,
    /// Untouched.
    pub ram: Arc<GuestRam>,
    /// Where vCPUs ran, if there was a machine before.
    pub affinity: BTreeMap<VcpuId, CpuSet>,
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

    /// As it was at power-on: no interrupt goes anywhere, the clock is at 0, and vCPUs wait for their first guest. `None` if
    /// KVM does not do that; then it is made anew.
    pub fn reset(self) -> Option<(Arc<GuestVm>, VcpuThreads)> {
        let Self { vcpus, vm } = self;
        let done = vcpus.reset().and_then(|()| Ok(vm.power_on()?));
        done.inspect_err(|error| tracing::warn!(%error, "the guest starts again on new vCPUs")).ok()?;
        Some((vm, vcpus))
    }
}

impl HostSide {
    /// Opens the devices and maps the memory.
    pub fn acquire(plan: &Plan, janitor: &Janitor, on_full: &OnFull) -> Result<Self, Error> {
        let (devices, handles) = attach::open(&plan.devices, plan.memory_map.ram().len(), janitor, on_full)?;
        Ok(Self {
            devices,
            handles,
            ram: Arc::new(GuestRam::new(plan)?),
            affinity: BTreeMap::new(),
            kvm: None,
        })
    }

    /// For a guest that starts again: the same memory, unless there is less of it now or more.
    pub fn renew(self, plan: &Plan) -> Result<Self, Error> {
        let Self { devices, handles, ram, affinity, kvm } = self;
        let (ram, kvm) = match ram.fits(plan) {
            true => {
                ram.renew(plan)?;
                (ram, kvm)
            }
            false => {
                // KVM keeps memory mapped.
                drop((kvm, ram));
                (Arc::new(GuestRam::new(plan)?), None)
            }
        };
        Ok(Self { devices, handles, ram, affinity, kvm })
    }
}
