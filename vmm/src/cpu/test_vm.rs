//! A VM without devices of its own, for tests of vCPUs: code at 1 MiB, entered in flat 32-bit mode.

use super::{VcpuSetup, VcpuThreads};
use crate::boot::Entry;
use crate::interrupts::Routes;
use crate::kvm::KvmHost;
use crate::memory::GuestRam;
use crate::test_kernel::{SPINNING, spin_on_all_vcpus};
use devices::{IoApic, MmioBusBuilder, PioBusBuilder};
use resources::{HostRoot, HostTopology, Plan, VmSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

/// Where the code is.
pub const CODE: u64 = 0x10_0000;
/// How the first vCPU starts.
pub const ENTRY: Entry = Entry::Pvh { rip: CODE };

/// The parts.
pub struct TestVm {
    pub plan: Arc<Plan>,
    pub ram: Arc<GuestRam>,
    pub setup: Arc<VcpuSetup>,
}

impl TestVm {
    /// `None` where there is no KVM.
    pub fn new(vcpus: u32, code: &[u8], pio: PioBusBuilder, mmio: MmioBusBuilder) -> Option<Self> {
        if !testing::kvm() {
            return None;
        }
        let spec = VmSpec { vcpus: Some(vcpus), ..VmSpec::default() };
        let plan = Arc::new(Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap());
        let kvm = KvmHost::open(&plan).unwrap();
        let ram = Arc::new(GuestRam::new(&plan).unwrap());
        ram.memory().write_slice(code, GuestAddress(CODE)).unwrap();
        let vm = Arc::new(kvm.create_vm(&ram).unwrap());
        let routes = Arc::new(Routes::new(Arc::clone(&vm)));
        let ioapic = Arc::new(Mutex::new(IoApic::new(routes, Arc::default())));
        let (pio, mmio) = (Arc::new(pio.build()), Arc::new(mmio.build()));
        let (cpuid, msrs) = (kvm.cpuid().unwrap(), kvm.msrs().unwrap());
        let setup = VcpuSetup { vm, ram: Arc::clone(&ram), cpuid, msrs, pio, mmio, ioapic };
        Some(Self { plan, ram, setup: Arc::new(setup) })
    }

    /// With threads that wait at the gate.
    pub fn threads(&self) -> VcpuThreads {
        crate::sys::prepare_kicks().unwrap();
        let stopped = |cause| panic!("{cause:?}");
        VcpuThreads::start(&self.setup, &self.plan, ENTRY, &mut BTreeMap::new(), stopped).unwrap()
    }

    /// All of `vcpus` run an endless loop.
    pub fn spinning(vcpus: u32) -> Option<(Self, VcpuThreads)> {
        let code = spin_on_all_vcpus();
        let vm = Self::new(vcpus, &code, PioBusBuilder::new(), MmioBusBuilder::new())?;
        let threads = vm.threads();
        threads.run();
        let count = GuestAddress(SPINNING.into());
        while u32::from(vm.ram.memory().read_obj::<u16>(count).unwrap()) < vcpus {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Some((vm, threads))
    }
}
