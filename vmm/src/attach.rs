//! The devices of a plan, opened on the host and ready to be put on their segments. Nothing of the VM exists yet, so
//! whatever is refused here costs nothing.

mod check;

pub use check::check;

use crate::console::{self, ConsoleError};
use crate::diagnosis::of_file;
use crate::disk::{DiskError, DiskOptions, Identity, RawDisk};
use crate::handle::{DeviceFigures, DiskFull};
use crate::net::{Interface, InterfaceOptions, NetError, SocketDevice, SocketHost, TapSource, Vhost};
use crate::pci::GuestMemory;
use crate::socket_file::Janitor;
use crate::sys::{HostError, TapQueue};
use devices::virtio::blk::{Blk, BlkError, BlkHandle, BlkOptions, Serial};
use devices::virtio::console::{Console, ConsoleMeter};
use devices::virtio::net::{MacAddress, NetHandle};
use devices::virtio::vsock::VsockHandle;
use devices::virtio::{self, Rng, RngMeter, VirtioDevice};
use resources::devices::{Disk, Net, Tap, VmDevices};
use resources::spec::device::DiskInterrupts;
use resources::{Diagnosis, ErrorKind, VnodeId};
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU16;
use std::sync::Arc;

/// Where entropy comes from: never blocks once the host has booted.
const ENTROPY: &str = "/dev/urandom";

/// A device that is ready.
pub struct Attached {
    /// Where it sits.
    pub vnode: VnodeId,
    /// Its name in logs and counters, and that of its thread: at most 15 bytes (`comm` in proc(5)).
    pub name: String,
    /// The device.
    pub device: Box<dyn VirtioDevice<GuestMemory>>,
    /// What it counts.
    pub gauge: Option<Gauge>,
}

/// Where a device's own counts are read.
pub enum Gauge {
    /// A disk's.
    Disk(BlkHandle),
    /// An interface's.
    Net(Arc<NetHandle>),
    /// A socket device's that this process serves.
    Vsock(Arc<VsockHandle>),
    /// A console's.
    Console(Arc<ConsoleMeter>),
    /// An entropy device's.
    Rng(Arc<RngMeter>),
}

impl Gauge {
    /// The counts as they are now.
    pub fn read(&self) -> DeviceFigures {
        match self {
            Self::Disk(disk) => DeviceFigures::Disk(disk.figures()),
            Self::Net(net) => DeviceFigures::Net(net.datapath(), net.counters()),
            Self::Vsock(vsock) => DeviceFigures::Vsock(vsock.counters()),
            Self::Console(console) => DeviceFigures::Console(console.counters()),
            Self::Rng(rng) => DeviceFigures::Rng(rng.counters()),
        }
    }
}

/// What stays outside of the devices to look at and steer them.
#[derive(Default)]
pub struct Handles {
    /// By number.
    pub disks: Vec<BlkHandle>,
    /// By the device's name.
    pub gauges: Arc<BTreeMap<String, Gauge>>,
    /// The balloons, which exist once there is memory.
    pub balloons: Arc<[crate::balloon::Entry]>,
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
) -> Result<(Vec<Attached>, Handles), AttachError> {
    let (mut attached, mut handles) = (Vec::new(), Handles::default());
    let mut identities = Vec::new();
    for (index, disk) in all.disks.iter().enumerate() {
        given_once(&mut identities, index, disk)?;
        let device = open_disk(index, disk, on_full)?;
        handles.disks.push(device.handle());
        attached.push(Attached {
            vnode: disk.vnode,
            name: format!("blk{index}"),
            gauge: Some(Gauge::Disk(device.handle())),
            device: Box::new(device),
        });
    }
    for (index, net) in all.nets.iter().enumerate() {
        let device = open_net(net, ranges).map_err(|source| AttachError::Net { index, source })?;
        attached.push(Attached {
            vnode: net.vnode,
            name: format!("net{index}"),
            gauge: Some(Gauge::Net(device.handle())),
            device: Box::new(device),
        });
    }
    if let Some(vsock) = &all.vsock {
        let host = match &vsock.socket {
            Some(socket) => SocketHost::unix(vsock.cid, socket, janitor),
            None => SocketHost::kernel(vsock.cid, ranges),
        };
        let host = host.map_err(AttachError::Vsock)?;
        let (gauge, device): (_, Box<dyn VirtioDevice<GuestMemory>>) = match host.device() {
            SocketDevice::Unix(device) => (Some(Gauge::Vsock(device.handle())), Box::new(device)),
            SocketDevice::Kernel(device) => (None, Box::new(device)),
        };
        attached.push(Attached { vnode: vsock.vnode, name: "vsock".into(), gauge, device });
    }
    if let Some(console) = &all.console {
        let device = Console::new(console::open(&console.end, janitor)?);
        let gauge = Some(Gauge::Console(device.meter()));
        attached.push(Attached {
            vnode: console.vnode,
            name: "console".into(),
            gauge,
            device: Box::new(device),
        });
    }
    if let Some(vnode) = all.rng {
        let source = File::open(ENTROPY).map_err(|e| HostError::new("open", e).of(ENTROPY))?;
        let device = Rng::new(Box::new(source), None);
        let gauge = Some(Gauge::Rng(device.meter()));
        attached.push(Attached { vnode, name: "rng".into(), gauge, device: Box::new(device) });
    }
    Ok((attached, handles))
}

fn open_net(net: &Net, ranges: usize) -> Result<virtio::net::Net<GuestMemory, TapQueue>, NetError> {
    Interface::open(&interface_options(net, ranges))?.device()
}

fn interface_options(net: &Net, ranges: usize) -> InterfaceOptions {
    InterfaceOptions {
        tap: match &net.tap {
            Tap::Name(name) => TapSource::Name(name.clone()),
            Tap::Fd(fd) => TapSource::Descriptors(vec![*fd]),
        },
        mac: net.mac.and_then(|mac| MacAddress::new(mac.bytes()).ok()),
        mtu: net.mtu,
        queues: net.queues,
        vhost: if net.vhost { Vhost::Auto } else { Vhost::Off },
        ranges,
    }
}

/// One file may have several names.
fn given_once(
    before: &mut Vec<(usize, Identity, bool)>,
    index: usize,
    disk: &Disk,
) -> Result<(), AttachError> {
    // What cannot be looked at cannot be opened either, and opening says why.
    let Ok(metadata) = std::fs::metadata(&disk.path) else { return Ok(()) };
    let identity = Identity::of(&metadata);
    let same = |(_, other, read_only): &&(usize, Identity, bool)| {
        *other == identity && !(*read_only && disk.read_only)
    };
    if let Some((other, ..)) = before.iter().find(same) {
        let other = *other;
        return Err(AttachError::Disk { index, source: DiskError::Twice { path: disk.path.clone(), other } });
    }
    before.push((index, identity, disk.read_only));
    Ok(())
}

fn disk_options(disk: &Disk) -> DiskOptions {
    DiskOptions {
        read_only: disk.read_only,
        direct: disk.direct,
        known_raw: disk.known_raw,
        ..DiskOptions::new(&disk.path)
    }
}

fn open_disk(index: usize, disk: &Disk, on_full: &OnFull) -> Result<Blk<GuestMemory>, AttachError> {
    let raw = RawDisk::open(&disk_options(disk)).map_err(|source| AttachError::Disk { index, source })?;
    if let Some(reason) = raw.no_ring() {
        tracing::warn!(disk = index, reason, "no io_uring, helper threads instead");
    }
    let blk = |source| AttachError::Blk { index, source };
    let options = BlkOptions {
        queues: NonZeroU16::new(disk.queues).unwrap_or(NonZeroU16::MIN),
        shared_vector: disk.interrupts == DiskInterrupts::Node,
        serial: Serial::new(&disk.serial).map_err(blk)?,
    };
    let (on_full, path) = (Arc::clone(on_full), disk.path.clone());
    let raw =
        raw.reporting_full(move |failed| on_full(&DiskFull { disk: index, path: path.clone(), failed }));
    Blk::new(Arc::new(raw), options).map_err(blk)
}

#[cfg(test)]
mod tests {
    use super::{AttachError, given_once};
    use crate::disk::DiskError;
    use resources::VnodeId;
    use resources::devices::Disk;
    use resources::spec::device::DiskInterrupts;
    use std::path::Path;

    fn disk(path: &Path, read_only: bool) -> Disk {
        Disk {
            path: path.to_owned(),
            vnode: VnodeId(0),
            known_raw: false,
            read_only,
            direct: false,
            queues: 1,
            interrupts: DiskInterrupts::Queue,
            serial: String::new(),
        }
    }

    #[test]
    fn a_disk_under_two_names_is_refused_by_the_number_of_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, missing] = ["file", "link", "missing"].map(|name| directory.path().join(name));
        std::fs::write(&file, [0; 512]).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (first, second, refused) in
            [(false, false, true), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mut before = Vec::new();
            given_once(&mut before, 0, &disk(&missing, false)).unwrap();
            given_once(&mut before, 1, &disk(&file, first)).unwrap();
            match given_once(&mut before, 2, &disk(&link, second)) {
                Err(AttachError::Disk { index: 2, source: error @ DiskError::Twice { other: 1, .. } }) => {
                    assert!(refused && error.to_string().contains("is the same as disks[1]"), "{error}");
                }
                Ok(()) => assert!(!refused),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
