//! `/dev/kvm`: opened, checked for what we need, and a VM made on it, with interrupt controllers.

use crate::cpu::{CpuidTemplate, name_of_host};
use crate::host_side::add_memory;
use crate::memory::GuestRam;
use crate::sys::{GuestVm, HostError};
use devices::IOAPIC_PINS;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Cap, Kvm, VmFd};
use resources::{Diagnosis, ErrorKind, Gpa, Plan};
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// `KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK` (`linux/kvm.h`).
const X2APIC_API: u64 = 1 | 2;
/// Intel's KVM wants four pages of guest addresses for itself: in the hole below 4 GiB, away from APICs and PCI.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// Memory type range registers (Intel SDM volume 4, table 2-2), which KVM has and does not list: pairs for ranges, the
/// fixed ranges, and the default type.
const MTRRS: [RangeInclusive<u32>; 5] =
    [0x200..=0x20f, 0x250..=0x250, 0x258..=0x259, 0x268..=0x26f, 0x2ff..=0x2ff];

/// Why this host's KVM will not do.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// A call was refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `/dev/kvm` does not open.
    #[error(transparent)]
    Open(Box<HostError>),
    /// Without hardware virtualization, and the guest needs it.
    #[error(
        "kernel: {path}: is Linux, which this host's KVM cannot run: it is kvm_pvm, which emulates the guest kernel \
         and not all of its instructions; use a host whose CPUs offer VMX or SVM, or --force-host to try it here",
        path = path.display()
    )]
    NoHardware {
        /// The kernel, as typed.
        path: PathBuf,
    },
    /// Too many vCPUs.
    #[error("vcpus: {asked} vCPUs, this host's KVM supports at most {most}")]
    TooManyVcpus {
        /// As asked.
        asked: usize,
        /// KVM_CAP_MAX_VCPUS.
        most: usize,
    },
    /// APIC ids too high.
    #[error(
        "vcpus: APIC id {asked} is needed, this host's KVM supports at most {most}; use fewer vnodes, or vnodes of similar size"
    )]
    ApicIdTooHigh {
        /// The highest needed.
        asked: u32,
        /// KVM_CAP_MAX_VCPU_ID less one.
        most: usize,
    },
    /// A capability is missing.
    #[error("/dev/kvm does not support {0}, Linux 4.14 or later is required")]
    Missing(&'static str),
    /// More addresses than the CPU can name.
    #[error(
        "memory: the VM needs guest-physical addresses up to {end}, this host's CPUs have {bits} physical address bits"
    )]
    TooManyAddresses {
        /// First address after all.
        end: Gpa,
        /// As CPUID says.
        bits: u32,
    },
    /// More RAM ranges than memory slots.
    #[error("vnodes: {asked} memory ranges, this host's KVM supports at most {most}")]
    TooManyRanges {
        /// As needed.
        asked: usize,
        /// KVM_CAP_NR_MEMSLOTS.
        most: usize,
    },
}

impl KvmError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Host(error) => error.diagnosis(),
            Self::Open(error) => {
                let found = error.diagnosis();
                match found.kind {
                    ErrorKind::Forbidden => Diagnosis { code: "kvm_forbidden", ..found },
                    ErrorKind::Unsupported => Diagnosis { code: "kvm_missing", ..found },
                    _ => found,
                }
            }
            Self::NoHardware { .. } => {
                Diagnosis::new(ErrorKind::Unsupported, "kvm_without_hardware").at("kernel")
            }
            Self::TooManyVcpus { .. } | Self::ApicIdTooHigh { .. } => {
                Diagnosis::new(ErrorKind::Invalid, "kvm_vcpus").at("vcpus")
            }
            Self::Missing(_) => Diagnosis::new(ErrorKind::Unsupported, "kvm_too_old"),
            Self::TooManyAddresses { .. } => Diagnosis::new(ErrorKind::Invalid, "kvm_addresses").at("memory"),
            Self::TooManyRanges { .. } => Diagnosis::new(ErrorKind::Invalid, "kvm_ranges").at("vnodes"),
        }
    }
}

/// KVM, open and able.
pub struct KvmHost {
    kvm: Kvm,
}

impl KvmHost {
    /// Opens `/dev/kvm` and checks that it can do what the plan needs.
    pub fn open(plan: &Plan) -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| {
            let refused = HostError::kvm("open")(error).of("/dev/kvm");
            KvmError::Open(Box::new(match error.errno() {
                libc::EACCES | libc::EPERM => refused.hint("run as root or join the group kvm"),
                libc::ENOENT | libc::ENODEV | libc::ENXIO => refused.hint(
                    "load kvm-intel or kvm-amd, and check that virtualization is enabled in the firmware",
                ),
                _ => refused,
            }))
        })?;
        let needed = [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::X2ApicApi, "KVM_CAP_X2APIC_API"),
        ];
        for (cap, name) in needed {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Missing(name));
            }
        }
        let (asked, most) = (plan.topology.vcpu_count(), kvm.get_max_vcpus());
        if asked > most {
            return Err(KvmError::TooManyVcpus { asked, most });
        }
        let (asked, most) = (plan.cpus.max_apic_id().0, kvm.get_max_vcpu_id().saturating_sub(1));
        if asked as usize > most {
            return Err(KvmError::ApicIdTooHigh { asked, most });
        }
        let (asked, most) = (plan.memory_map.ram().len(), kvm.get_nr_memslots());
        if asked > most {
            return Err(KvmError::TooManyRanges { asked, most });
        }
        let this = Self { kvm };
        this.check_addresses(plan)?;
        Ok(this)
    }

    /// Whether the guest's CPUs can name every address it has (Intel SDM volume 2, CPUID leaf 80000008H).
    fn check_addresses(&self, plan: &Plan) -> Result<(), KvmError> {
        const SIZES: u32 = 0x8000_0008;
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(HostError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let leaf = supported.as_slice().iter().find(|entry| entry.function == SIZES);
        let bits = leaf.map_or(36, |entry| entry.eax & 0xff);
        let end = plan.pci.end();
        match 1_u64.checked_shl(bits) {
            Some(limit) if end.0 > limit => Err(KvmError::TooManyAddresses { end, bits }),
            _ => Ok(()),
        }
    }

    /// CPUID that this KVM can offer.
    pub fn cpuid(&self) -> Result<CpuidTemplate, HostError> {
        let supported = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(HostError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let tsc_deadline = self.kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(CpuidTemplate::new(&supported, tsc_deadline).named(&name_of_host()))
    }

    /// Numbers of the model-specific registers that a vCPU's state has.
    pub fn msrs(&self) -> Result<Vec<u32>, HostError> {
        let list = self.kvm.get_msr_index_list().map_err(HostError::kvm("KVM_GET_MSR_INDEX_LIST"))?;
        let mut all = list.as_slice().to_vec();
        all.extend(MTRRS.into_iter().flatten().filter(|msr| !list.as_slice().contains(msr)));
        Ok(all)
    }

    /// Makes a VM with its memory and local APICs; the IO-APIC is ours, all interrupts are messages.
    pub fn create_vm(&self, ram: &GuestRam) -> Result<GuestVm, HostError> {
        let vm = loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                result => break result.map_err(HostError::kvm("KVM_CREATE_VM"))?,
            }
        };
        enable(&vm, Cap::X2ApicApi, X2APIC_API, "KVM_ENABLE_CAP(KVM_CAP_X2APIC_API)")?;
        enable(&vm, Cap::SplitIrqchip, u64::from(IOAPIC_PINS), "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)")?;
        if self.kvm.check_extension(Cap::SetIdentityMapAddr) {
            vm.set_identity_map_address(IDENTITY_MAP).map_err(HostError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        if self.kvm.check_extension(Cap::SetTssAddr) {
            vm.set_tss_address(TSS).map_err(HostError::kvm("KVM_SET_TSS_ADDR"))?;
        }
        let vm = GuestVm::new(vm);
        add_memory(&vm, ram)?;
        Ok(vm)
    }
}

fn enable(vm: &VmFd, cap: Cap, argument: u64, call: &'static str) -> Result<(), HostError> {
    let cap = kvm_enable_cap { cap: cap as u32, args: [argument, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&cap).map_err(HostError::kvm(call))
}

/// Why no Linux can be started on this host, as far as a look tells.
pub fn why_no_linux() -> Option<&'static str> {
    if !Path::new("/dev/kvm").exists() {
        return Some(
            "there is no /dev/kvm: load kvm-intel or kvm-amd, and check that virtualization is enabled in the firmware",
        );
    }
    is_emulating().then_some(
        "its KVM is kvm_pvm, which emulates a guest's kernel and not all of its instructions: use a host whose CPUs offer \
         VMX or SVM",
    )
}

/// Whether this host's KVM emulates a guest's kernel, for want of hardware virtualization.
pub fn is_emulating() -> bool {
    is_emulating_by(Path::new("/sys"), Path::new("/proc/cpuinfo"))
}

fn is_emulating_by(sysfs: &Path, cpuinfo: &Path) -> bool {
    sysfs.join("module/kvm_pvm").exists() && !has_hardware(cpuinfo)
}

/// Whether the first CPU has VMX or SVM; all of a host have.
fn has_hardware(cpuinfo: &Path) -> bool {
    let Ok(file) = std::fs::File::open(cpuinfo) else { return false };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let flags = lines.find_map(|line| line.strip_prefix("flags").map(str::to_owned));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// What to add to an internal error of KVM: some hosts offer a `/dev/kvm` without hardware virtualization, which
/// emulates privileged code and cannot do so for a stock kernel.
pub fn emulation_note() -> &'static str {
    if is_emulating() {
        "; this host's KVM is kvm_pvm, without hardware virtualization, and cannot run a stock kernel: \
         use a host whose CPUs offer VMX or SVM"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::{IDENTITY_MAP, TSS, is_emulating_by};
    use resources::memory_map::{HOLE_END, IO_APIC, LOCAL_APIC};
    use resources::{Bytes, MemoryMap, PciMap, VmSpec, VmTopology};

    #[test]
    fn a_host_emulates_that_has_kvm_pvm_and_no_hardware_virtualization() {
        let directory = tempfile::tempdir().unwrap();
        let cpuinfo = directory.path().join("cpuinfo");
        let emulates = |flags: &str| {
            std::fs::write(&cpuinfo, format!("processor\t: 0\nflags\t\t: fpu {flags} sse\n")).unwrap();
            is_emulating_by(directory.path(), &cpuinfo)
        };
        assert!(!emulates("de"));
        std::fs::create_dir_all(directory.path().join("module/kvm_pvm")).unwrap();
        assert_eq!(
            [emulates("de"), emulates("vmx"), emulates("svm"), emulates("avmx")],
            [true, false, false, true]
        );
    }

    /// Only Intel's KVM puts anything there, and only hosts of Intel would notice.
    #[test]
    fn intels_pages_lie_where_no_guest_has_anything() {
        const PAGE: u64 = 4096;
        let (start, end) = (IDENTITY_MAP, TSS as u64 + 3 * PAGE);
        assert_eq!((TSS as u64, start % PAGE), (start + PAGE, 0));
        // After the local APICs' addresses, where messages go too, and before RAM goes on.
        const _: () = assert!(LOCAL_APIC.0 + (1 << 20) <= IDENTITY_MAP && IO_APIC.0 < LOCAL_APIC.0);
        assert!(end <= HOLE_END.0);
        for vnodes in [1, 7, 256] {
            let spec =
                VmSpec { memory: Some(Bytes::gib(6)), vnodes: Some(vnodes.into()), ..VmSpec::default() };
            let topology = VmTopology::try_from(&spec).unwrap();
            let map = MemoryMap::new(&topology);
            assert!(map.ram().iter().all(|ram| ram.end().0 <= start || ram.start.0 >= end));
            let windows = PciMap::new(&topology, &map);
            let windows = windows.segments().iter().flat_map(|s| [s.ecam, s.mmio32, s.mmio64]);
            assert!(windows.into_iter().all(|window| window.end().0 <= start || window.start.0 >= end));
        }
    }
}
