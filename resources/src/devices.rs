//! The devices of a VM, validated as far as possible without the host. The crate `devices` models them.

mod mac;
mod slots;
#[cfg(test)]
mod tests;

use crate::ids::VnodeId;
use crate::spec::device::{ConsoleSpec, DiskFormat, DiskInterrupts, DiskSpec, NetSpec, VsockSpec};
use crate::spec::{SerialSpec, Switch, VmSpec};
use crate::topology::VmTopology;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

pub use mac::Mac;
pub use slots::MAX_DEVICES_OF_VNODE;

/// Most devices of a VM: half of what 64 vnodes' segments hold, far below the interrupts that KVM has for them.
pub const MAX_DEVICES: usize = 1024;
/// Most queues of a disk.
pub const MAX_DISK_QUEUES: u16 = 16;
/// Most queues of a disk that nobody asked for: each has an interrupt, a ring and three descriptors.
const DEFAULT_DISK_QUEUES: u16 = 4;
/// Most queue pairs of an interface.
pub const MAX_NET_QUEUES: u16 = 64;
/// Longest name of a network interface (`IFNAMSIZ` less the NUL).
const MAX_INTERFACE_NAME: usize = 15;
/// Longest part of a path in an error.
const MAX_SHOWN: usize = 40;
/// Context ids from here on are guests'; 2 is the host (virtio 1.3, 5.10.4).
const FIRST_GUEST_CID: u64 = 3;
/// Least MTU of IPv4 (RFC 791), which is also virtio's (virtio 1.3, 5.1.4.1).
const MIN_MTU: u16 = 68;

/// All devices, in the order typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VmDevices {
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub nets: Vec<Net>,
    /// The socket device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<Vsock>,
    /// The console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
    /// The vnode of the entropy device, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<VnodeId>,
    /// Whether the first balloon takes the guest's reports of free pages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub free_page_reporting: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// A raw file or a block device.
    pub path: PathBuf,
    /// Where it sits.
    pub vnode: VnodeId,
    /// It is known to be raw, whatever it begins with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub known_raw: bool,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether the host's page cache is passed by.
    pub direct: bool,
    /// Queues.
    pub queues: u16,
    /// Which CPUs it interrupts.
    pub interrupts: DiskInterrupts,
    /// The serial number.
    pub serial: String,
}

/// Where a network interface's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tap {
    /// An interface by name.
    Name(String),
    /// A descriptor of this process.
    Fd(i32),
}

impl Tap {
    /// Its name, where it is given by name.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Fd(_) => None,
        }
    }

    /// Its descriptor, where it is given by one.
    pub fn descriptor(&self) -> Option<i32> {
        match self {
            Self::Name(_) => None,
            Self::Fd(fd) => Some(*fd),
        }
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Net {
    /// Where its frames go.
    pub tap: Tap,
    /// The guest's address; none until the host it runs on is known, see [`Mac::of_tap`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The MTU of the guest.
    pub mtu: Option<u16>,
    /// Queue pairs.
    pub queues: u16,
    /// Where it sits.
    pub vnode: VnodeId,
    /// Whether the host kernel may serve the queues.
    pub vhost: bool,
}

/// A socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u64,
    /// The unix socket that stands for the guest on the host; none if the host kernel serves the guest.
    pub socket: Option<PathBuf>,
    /// Where it sits.
    pub vnode: VnodeId,
}

/// Where a console's bytes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleEnd {
    /// To the client of a unix socket.
    Socket(PathBuf),
    /// To the end of a file.
    File(PathBuf),
}

/// A console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Console {
    /// Where its bytes go.
    pub end: ConsoleEnd,
    /// Where it sits.
    pub vnode: VnodeId,
}

/// Why a device cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} {rule}")]
pub struct DeviceError {
    /// Such as `disks[0].vnode`.
    pub field: String,
    /// The given value.
    pub value: String,
    /// What it must be.
    pub rule: String,
}

fn refuse<T>(
    field: impl Into<String>,
    value: impl ToString,
    rule: impl Into<String>,
) -> Result<T, DeviceError> {
    Err(DeviceError { field: field.into(), value: value.to_string(), rule: rule.into() })
}

impl VmDevices {
    /// Those of a VM.
    pub fn of(spec: &VmSpec, topology: &VmTopology) -> Result<Self, DeviceError> {
        let devices = Self::new(spec, &topology.vcpus_of_vnodes())?;
        devices.fit_slots(topology)?;
        Ok(devices)
    }

    /// Validates the configuration, for a VM whose vnodes have so many vCPUs.
    pub fn new(spec: &VmSpec, vcpus: &[usize]) -> Result<Self, DeviceError> {
        let vnodes = vcpus.len();
        let count = spec.disks.len() + spec.nets.len();
        if count > MAX_DEVICES {
            return refuse("disks, nets", count, format!("devices, must be at most {MAX_DEVICES}"));
        }
        let disks =
            spec.disks.iter().enumerate().map(|(i, disk)| Disk::new(disk, &format!("disks[{i}]"), vcpus));
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        given_once(&disks)?;
        let nets = spec.nets.iter().enumerate().map(|(i, net)| Net::new(net, &format!("nets[{i}]"), vnodes));
        let nets = nets.collect::<Result<Vec<_>, _>>()?;
        differ("nets", "tap", nets.iter().map(|net| net.tap.name().map(str::to_owned)))?;
        differ("nets", "fd", nets.iter().map(|net| net.tap.descriptor()))?;
        differ("nets", "mac", nets.iter().map(|net| net.mac))?;
        differ("disks", "serial", disks.iter().map(|disk| Some(&disk.serial).filter(|it| !it.is_empty())))?;
        let vsock = spec.vsock.as_ref().map(|vsock| Vsock::new(vsock, vnodes)).transpose()?;
        let console = spec.console.as_ref().map(|console| Console::new(console, vnodes)).transpose()?;
        used_once(spec, &disks)?;
        let rng = spec.rng.is_some_and(|Switch(on)| on).then_some(VnodeId(0));
        let free_page_reporting = spec.free_page_reporting.is_some_and(|Switch(on)| on);
        Ok(Self { disks, nets, vsock, console, rng, free_page_reporting })
    }
}

/// Of several devices no two have the same of what one device alone can have.
fn differ<T: Ord + ToString>(
    list: &str,
    field: &str,
    values: impl Iterator<Item = Option<T>>,
) -> Result<(), DeviceError> {
    let mut seen: BTreeMap<T, usize> = BTreeMap::new();
    for (index, value) in values.enumerate() {
        let Some(value) = value else { continue };
        if let Some(other) = seen.get(&value) {
            let rule = format!("is that of {list}[{other}] too, must be another");
            return refuse(format!("{list}[{index}].{field}"), value, rule);
        }
        seen.insert(value, index);
    }
    Ok(())
}

/// A path without what makes no difference.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn named(field: impl ToString, path: &Path) -> Result<(), DeviceError> {
    match path.as_os_str().is_empty() {
        true => refuse(field.to_string(), "``", "is empty, must be a path"),
        false => Ok(()),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string().chars().take(MAX_SHOWN).collect()
}

/// What is written or listened on has one purpose. Other names for one file are found when it is opened, or not at all.
fn used_once(spec: &VmSpec, disks: &[Disk]) -> Result<(), DeviceError> {
    let mut seen: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (index, disk) in disks.iter().enumerate() {
        seen.entry(plain(&disk.path)).or_insert_with(|| format!("disks[{index}].path"));
    }
    let serial = match &spec.serial {
        SerialSpec::File(path) => Some(("serial", path)),
        SerialSpec::Stdio | SerialSpec::None => None,
    };
    let console = spec.console.iter();
    let files = console.clone().filter_map(|console| Some(("console.file", console.file.as_ref()?)));
    let sockets = console.filter_map(|console| Some(("console.socket", console.socket.as_ref()?)));
    let vsock = spec.vsock.iter().filter_map(|vsock| Some(("vsock.socket", vsock.socket.as_ref()?)));
    for (field, path) in serial.into_iter().chain(files).chain(sockets).chain(vsock) {
        if path == Path::new("/dev/null") {
            continue;
        }
        if let Some(other) = seen.get(&plain(path)) {
            return refuse(field, shown(path), format!("is {other} too, must be another path"));
        }
        seen.insert(plain(path), field.to_owned());
    }
    Ok(())
}

/// A disk that is written has one user. Other names for one file are found when it is opened.
fn given_once(disks: &[Disk]) -> Result<(), DeviceError> {
    let mut seen: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (index, disk) in disks.iter().enumerate() {
        let before = seen.entry(plain(&disk.path)).or_default();
        let writes = |other: &&usize| !disk.read_only || !disks[**other].read_only;
        if let Some(other) = before.iter().find(writes) {
            let rule = format!(
                "is disks[{other}] too; a writable disk can be given once, use readonly=on to share it"
            );
            return refuse(format!("disks[{index}].path"), shown(&disk.path), rule);
        }
        before.push(index);
    }
    Ok(())
}

impl Disk {
    fn new(spec: &DiskSpec, at: &str, vcpus: &[usize]) -> Result<Self, DeviceError> {
        named(format_args!("{at}.path"), &spec.path)?;
        let serial = spec.serial.clone().unwrap_or_default();
        if serial.len() > 20 || !serial.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let shown: String = serial.chars().take(40).collect();
            return refuse(
                format!("{at}.serial"),
                shown,
                "is not a serial number, must be at most 20 printable characters",
            );
        }
        let least = if spec.interrupts == Some(DiskInterrupts::Node) { 2 } else { 1 };
        let queues = queues(spec.queues, disk_queues(vcpus).max(least), MAX_DISK_QUEUES, at)?;
        if queues < least {
            // One queue cannot share: it has the vector that Linux deals out.
            return refuse(format!("{at}.interrupts"), "node", "needs 2 queues or more");
        }
        let spread = vcpus.iter().filter(|&&count| count > 0).count() > 1;
        let default = if spread && queues > 1 { DiskInterrupts::Node } else { DiskInterrupts::Queue };
        Ok(Self {
            path: spec.path.clone(),
            vnode: vnode(spec.vnode, at, vcpus.len())?,
            known_raw: spec.format == Some(DiskFormat::Raw),
            read_only: on(spec.readonly, false),
            direct: on(spec.direct, false),
            queues,
            interrupts: spec.interrupts.unwrap_or(default),
            serial,
        })
    }
}

impl Net {
    fn new(spec: &NetSpec, at: &str, vnodes: usize) -> Result<Self, DeviceError> {
        let tap = match (&spec.tap, spec.fd) {
            (Some(name), None) if is_interface_name(name) => Tap::Name(name.clone()),
            (Some(name), None) => {
                let shown: String = name.chars().take(40).collect();
                return refuse(
                    format!("{at}.tap"),
                    shown,
                    "is not an interface name, must be 1 to 15 characters without blank, slash or colon",
                );
            }
            (None, Some(fd)) if fd >= 0 => Tap::Fd(fd),
            (None, Some(fd)) => {
                return refuse(format!("{at}.fd"), fd, "is not a descriptor, must be 0 or more");
            }
            (Some(_), Some(_)) => return refuse(at, "tap and fd", "cannot be combined, use one of them"),
            (None, None) => return refuse(at, "neither tap nor fd", "is given, use one of them"),
        };
        if let Some(mtu) = spec.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return refuse(format!("{at}.mtu"), mtu, format!("is too small, must be {MIN_MTU} to 65535"));
        }
        let mac = spec.mac.as_ref().map(|text| Mac::parse(text, at)).transpose()?;
        if mac.is_none() && tap.name().is_none() {
            let rule = "is given, must be given with fd: descriptor numbers are not unique to a VM";
            return refuse(format!("{at}.mac"), "none", rule);
        }
        Ok(Self {
            mac,
            tap,
            mtu: spec.mtu,
            queues: queues(spec.queues, 1, MAX_NET_QUEUES, at)?,
            vnode: vnode(spec.vnode, at, vnodes)?,
            vhost: on(spec.vhost, true),
        })
    }
}

impl Vsock {
    fn new(spec: &VsockSpec, vnodes: usize) -> Result<Self, DeviceError> {
        let last = u64::from(u32::MAX) - 1;
        if !(FIRST_GUEST_CID..=last).contains(&spec.cid) {
            return refuse(
                "vsock.cid",
                spec.cid,
                format!("is reserved, must be {FIRST_GUEST_CID} to {last}"),
            );
        }
        spec.socket.iter().try_for_each(|socket| named("vsock.socket", socket))?;
        Ok(Self { cid: spec.cid, socket: spec.socket.clone(), vnode: vnode(spec.vnode, "vsock", vnodes)? })
    }
}

impl Console {
    fn new(spec: &ConsoleSpec, vnodes: usize) -> Result<Self, DeviceError> {
        let end = match (&spec.socket, &spec.file) {
            (Some(path), None) => ConsoleEnd::Socket(path.clone()),
            (None, Some(path)) => ConsoleEnd::File(path.clone()),
            (Some(_), Some(_)) => {
                return refuse("console", "socket and file", "cannot be combined, use one of them");
            }
            (None, None) => {
                return refuse("console", "neither socket nor file", "is given, use one of them");
            }
        };
        match &end {
            ConsoleEnd::Socket(path) => named("console.socket", path)?,
            ConsoleEnd::File(path) => named("console.file", path)?,
        }
        Ok(Self { end, vnode: vnode(spec.vnode, "console", vnodes)? })
    }
}

fn on(switch: Option<Switch>, default: bool) -> bool {
    switch.map_or(default, |Switch(on)| on)
}

fn vnode(id: Option<u32>, at: &str, vnodes: usize) -> Result<VnodeId, DeviceError> {
    let id = id.unwrap_or(0);
    if id as usize >= vnodes {
        return refuse(
            format!("{at}.vnode"),
            id,
            format!("does not exist, must be 0 to {}", vnodes.saturating_sub(1)),
        );
    }
    Ok(VnodeId(id))
}

/// A queue for each vCPU: then none waits for another.
fn disk_queues(vcpus: &[usize]) -> u16 {
    u16::try_from(vcpus.iter().sum::<usize>()).unwrap_or(u16::MAX).clamp(1, DEFAULT_DISK_QUEUES)
}

fn queues(count: Option<u16>, default: u16, most: u16, at: &str) -> Result<u16, DeviceError> {
    let count = count.unwrap_or(default);
    if !(1..=most).contains(&count) {
        return refuse(format!("{at}.queues"), count, format!("queues, must be 1 to {most}"));
    }
    Ok(count)
}

fn is_interface_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
    (1..=MAX_INTERFACE_NAME).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}
