//! Why a VM did not start or could not go on, and whose that is to mend. What it means for a caller is `api`'s business.

use crate::attach::AttachError;
use crate::boot::BootError;
use crate::control::RunError;
use crate::cpu::VcpuError;
use crate::diagnosis::of_file;
use crate::firmware::TablesError;
use crate::kvm::KvmError;
use crate::memory::{PrefaultError, RamError};
use crate::pci::PciError;
use crate::sys::HostError;
use devices::pci::SegmentError;
use devices::virtio::VirtioPciError;
use resources::{Diagnosis, ErrorKind, SerialSpec};

/// Why a VM did not start or could not go on. One line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kernel, initramfs or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// `/dev/kvm`.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Taking guest memory.
    #[error(transparent)]
    Prefault(#[from] PrefaultError),
    /// The serial port's file.
    #[error("serial: {serial}: {source}")]
    Serial {
        /// As typed.
        serial: SerialSpec,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
    /// Running.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Starting vCPUs.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Two devices at one address: a mistake of ours.
    #[error(transparent)]
    Bus(#[from] devices::BusError),
    /// Opening a device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Putting a device on its segment.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The host refused something else.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Error {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Boot(error) => error.diagnosis(),
            Self::Tables(error) => match error {
                TablesError::Acpi(_) | TablesError::Range(_) => Diagnosis::new(ErrorKind::Invalid, "acpi"),
                TablesError::NoRoom(_) => Diagnosis::new(ErrorKind::Invalid, "acpi_room").at("memory"),
            },
            Self::Kvm(error) => error.diagnosis(),
            Self::Ram(error) => match error {
                RamError::Host(error) => error.diagnosis(),
                RamError::Plan(_) => Diagnosis::new(ErrorKind::Internal, "internal"),
            },
            Self::Prefault(PrefaultError::Host(error)) | Self::Host(error) => error.diagnosis(),
            Self::Serial { source, .. } => of_file(source).at("serial"),
            Self::Run(error) => match error {
                RunError::Host(error) => error.diagnosis(),
                RunError::Vcpu(error) => error.diagnosis(),
            },
            Self::Vcpu(error) => error.diagnosis(),
            Self::Bus(_) => Diagnosis::new(ErrorKind::Internal, "internal"),
            Self::Attach(error) => error.diagnosis(),
            Self::Pci(error) => pci(error),
        }
    }
}

fn pci(error: &PciError) -> Diagnosis {
    match error {
        PciError::Segment(error) => {
            let kind = match error {
                SegmentError::Full { .. } | SegmentError::WindowFull { .. } => ErrorKind::Invalid,
                // Slots are given one after the other.
                SegmentError::SlotTaken { .. } => ErrorKind::Internal,
            };
            Diagnosis::new(kind, error.code())
        }
        PciError::Function(error) => match error {
            VirtioPciError::Queues { .. }
            | VirtioPciError::Capability { .. }
            | VirtioPciError::Bar { .. } => Diagnosis::new(ErrorKind::Internal, "internal"),
            VirtioPciError::EventFd { source, .. } => crate::diagnosis::of_call(source),
        },
        PciError::NoSuchVnode { .. } => Diagnosis::new(ErrorKind::Internal, "internal"),
        PciError::Host(error) => error.diagnosis(),
    }
}
