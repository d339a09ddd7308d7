//! The devices of a plan, opened on the host and ready to be put on their segments. Nothing of the VM exists yet, so
//! whatever is refused here costs nothing.

mod console;
mod disk;
mod net;
mod rng;
mod vsock;

use crate::balloon;
use crate::board::BoardCounters;
use crate::console::ConsoleError;
use crate::cpu::ExitCounters;
use crate::diagnosis::of_file;
use crate::disk::DiskError;
use crate::handle::DiskFull;
use crate::net::NetError;
use crate::pci::HostDevice;
use crate::socket_file::Janitor;
use crate::sys::HostError;
use devices::virtio::blk::{BlkError, BlkHandle};
use devices::virtio::net::NetHandle;
use resources::devices::VmDevices;
use resources::{Diagnosis, ErrorKind, VcpuId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All kinds of devices, in the order in which the guest shall find those of one vnode. Only balloons are made elsewhere, with
/// the memory that they give back.
const KINDS: [Kind; 5] = [disk::KIND, net::KIND, vsock::KIND, console::KIND, rng::KIND];

/// A kind of device.
struct Kind {
    /// Opens all of a VM.
    open: fn(&mut Opening<'_>) -> Result<(), AttachError>,
    /// Why that would be refused now; nothing is left behind. Guest memory will lie in so many ranges.
    check: fn(&VmDevices, usize) -> Result<(), AttachError>,
}

/// What devices are opened with, and those that are.
struct Opening<'a> {
    all: &'a VmDevices,
    /// Ranges in which guest memory will lie.
    ranges: usize,
    janitor: &'a Janitor,
    on_full: &'a OnFull,
    devices: Vec<HostDevice>,
    handles: Handles,
}

/// What stays outside of devices and vCPUs to look at and steer them, over all guests of the VM.
#[derive(Default)]
pub struct Handles {
    /// By number.
    pub disks: Vec<BlkHandle>,
    /// By number.
    pub nets: Vec<Arc<NetHandle>>,
    /// The balloons, which exist once there is memory.
    pub balloons: Arc<[balloon::Entry]>,
    /// What they count.
    pub balloon_counters: balloon::AllCounters,
    /// How often each vCPU left the guest.
    pub exits: BTreeMap<VcpuId, Arc<ExitCounters>>,
    /// What goes wrong beside the devices.
    pub board: Arc<BoardCounters>,
}

/// Why a device is not ready.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A disk cannot be opened.
    #[error("disks[{index}]: {source}")]
    Disk {
        /// Which.
        index: usize,
        /// Why.
        source: DiskError,
    },
    /// A disk cannot be a device.
    #[error("disks[{index}]: {source}")]
    Blk {
        /// Which.
        index: usize,
        /// Why.
        source: BlkError,
    },
    /// An interface cannot be opened.
    #[error("nets[{index}]{}{source}", if source.is_of_field() { "." } else { ": " })]
    Net {
        /// Which.
        index: usize,
        /// Why.
        source: NetError,
    },
    /// The socket device cannot be.
    #[error(transparent)]
    Vsock(NetError),
    /// The console cannot be.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl AttachError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        let device = |field: String| Diagnosis::new(ErrorKind::Invalid, "device").at(field);
        match self {
            Self::Disk { index, source } => source.diagnosis().at(format_args!("disks[{index}].path")),
            Self::Blk { index, source } => match source {
                BlkError::Serial(_) => device(format!("disks[{index}].serial")),
                BlkError::Queues(_) => device(format!("disks[{index}].queues")),
                BlkError::Length { source, .. } | BlkError::Grow { source, .. } => {
                    of_file(source).at(format_args!("disks[{index}].path"))
                }
                BlkError::Size { .. } => device(format!("disks[{index}].path")),
                BlkError::Interrupt { .. } => Diagnosis::new(ErrorKind::Host, "host_refused"),
            },
            Self::Net { index, source } => {
                let found = source.diagnosis();
                let key = found.field.as_deref().and_then(|field| field.strip_prefix("net."));
                let field = format!("nets[{index}].{}", key.unwrap_or("tap"));
                found.at(field)
            }
            Self::Vsock(source) => {
                let found = source.diagnosis();
                if found.field.is_some() { found } else { found.at("vsock.cid") }
            }
            Self::Console(source) => source.diagnosis(),
            Self::Host(error) => error.diagnosis(),
        }
    }
}

/// Hears of disks whose storage is full.
pub type OnFull = Arc<dyn Fn(&DiskFull) + Send + Sync>;

/// Opens every device of a VM, in the order in which the guest shall find those of one vnode. Guest memory will lie in so
/// many `ranges`.
pub fn open(
    all: &VmDevices,
    ranges: usize,
    janitor: &Janitor,
    on_full: &OnFull,
) -> Result<(Vec<HostDevice>, Handles), AttachError> {
    let (devices, handles) = (Vec::new(), Handles::default());
    let mut opening = Opening { all, ranges, janitor, on_full, devices, handles };
    KINDS.iter().try_for_each(|kind| (kind.open)(&mut opening))?;
    Ok((opening.devices, opening.handles))
}

/// Why a device cannot be opened now: the same refusals as of opening them. Guest memory will lie in so many `ranges`.
pub fn check(all: &VmDevices, ranges: usize) -> Result<(), AttachError> {
    KINDS.iter().try_for_each(|kind| (kind.check)(all, ranges))
}
