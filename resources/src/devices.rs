//! The devices of a VM, validated: each has a vnode, and what can be wrong without looking at the host is not. What
//! they do is modelled in the crate `devices`.

use crate::ids::VnodeId;
use crate::spec::device::{ConsoleSpec, DiskFormat, DiskInterrupts, DiskSpec, NetSpec, VsockSpec};
use crate::spec::{Switch, VmSpec};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Component, PathBuf};

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

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Net {
    /// Where its frames go.
    pub tap: Tap,
    /// The guest's address.
    pub mac: [u8; 6],
    /// The MTU that the guest is told.
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
    /// As typed.
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
    /// Validates what was typed, for a VM whose vnodes have so many vCPUs.
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
        let nets =
            (0..).zip(&spec.nets).map(|(i, net)| Net::new(net, i, vnodes)).collect::<Result<Vec<_>, _>>()?;
        let vsock = spec.vsock.as_ref().map(|vsock| Vsock::new(vsock, vnodes)).transpose()?;
        let console = spec.console.as_ref().map(|console| Console::new(console, vnodes)).transpose()?;
        let rng = spec.rng.is_some_and(|Switch(on)| on).then_some(VnodeId(0));
        let free_page_reporting = spec.free_page_reporting.is_some_and(|Switch(on)| on);
        Ok(Self { disks, nets, vsock, console, rng, free_page_reporting })
    }
}

/// A disk that is written has one user. Other names for one file are found when it is opened.
fn given_once(disks: &[Disk]) -> Result<(), DeviceError> {
    let name =
        |disk: &Disk| disk.path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    let mut seen: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (index, disk) in disks.iter().enumerate() {
        let before = seen.entry(name(disk)).or_default();
        let writes = |other: &&usize| !disk.read_only || !disks[**other].read_only;
        if let Some(other) = before.iter().find(writes) {
            let rule =
                format!("is disks[{other}] too; a disk that is written is given once, readonly=on shares it");
            let shown: String = disk.path.display().to_string().chars().take(MAX_SHOWN).collect();
            return refuse(format!("disks[{index}].path"), shown, rule);
        }
        before.push(index);
    }
    Ok(())
}

impl Disk {
    fn new(spec: &DiskSpec, at: &str, vcpus: &[usize]) -> Result<Self, DeviceError> {
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
    fn new(spec: &NetSpec, index: u32, vnodes: usize) -> Result<Self, DeviceError> {
        let at = format!("nets[{index}]");
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
            (Some(_), Some(_)) => return refuse(at, "tap and fd", "exclude each other, must be one of them"),
            (None, None) => return refuse(at, "neither tap nor fd", "is given, must be one of them"),
        };
        if let Some(mtu) = spec.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return refuse(format!("{at}.mtu"), mtu, format!("is too small, must be {MIN_MTU} to 65535"));
        }
        Ok(Self {
            mac: match &spec.mac {
                Some(text) => parse_mac(text, &at)?,
                None => default_mac(&tap, index),
            },
            tap,
            mtu: spec.mtu,
            queues: queues(spec.queues, 1, MAX_NET_QUEUES, &at)?,
            vnode: vnode(spec.vnode, &at, vnodes)?,
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
                format!("is not a guest's, must be {FIRST_GUEST_CID} to {last}"),
            );
        }
        Ok(Self { cid: spec.cid, socket: spec.socket.clone(), vnode: vnode(spec.vnode, "vsock", vnodes)? })
    }
}

impl Console {
    fn new(spec: &ConsoleSpec, vnodes: usize) -> Result<Self, DeviceError> {
        let end = match (&spec.socket, &spec.file) {
            (Some(path), None) => ConsoleEnd::Socket(path.clone()),
            (None, Some(path)) => ConsoleEnd::File(path.clone()),
            (Some(_), Some(_)) => {
                return refuse("console", "socket and file", "exclude each other, must be one of them");
            }
            (None, None) => {
                return refuse("console", "neither socket nor file", "is given, must be one of them");
            }
        };
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

fn parse_mac(text: &str, at: &str) -> Result<[u8; 6], DeviceError> {
    let shown = || text.chars().take(40).collect::<String>();
    let mut mac = [0; 6];
    let parts: Vec<&str> = text.split(':').collect();
    let fits = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() != mac.len() || !parts.iter().all(fits) {
        return refuse(format!("{at}.mac"), shown(), "is not an address, must be such as 52:54:00:12:34:56");
    }
    for (byte, part) in mac.iter_mut().zip(parts) {
        *byte = u8::from_str_radix(part, 16).unwrap_or(0);
    }
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return refuse(format!("{at}.mac"), shown(), "is a group address or zero, must be a station's");
    }
    Ok(mac)
}

/// Locally administered and the same at every start of the same VM: from the interface's name (FNV-1a).
fn default_mac(tap: &Tap, index: u32) -> [u8; 6] {
    let name = match tap {
        Tap::Name(name) => name.clone(),
        Tap::Fd(fd) => format!("fd{fd}"),
    };
    let hash = name.bytes().chain(index.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, d, ..] = hash.to_le_bytes();
    [0x52, 0x54, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::{DiskInterrupts, Tap, VmDevices, disk_queues};
    use crate::VnodeId;
    use crate::spec::VmSpec;

    fn devices(json: &str) -> Result<VmDevices, String> {
        let spec: VmSpec = serde_json::from_str(json).unwrap();
        VmDevices::new(&spec, &[1, 2]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_disk_has_a_queue_per_vcpu_up_to_four_unless_told_otherwise() {
        for (vcpus, queues) in [(1, 1), (3, 3), (4, 4), (5, 4), (70_000, 4)] {
            assert_eq!(disk_queues(&[0, vcpus]), queues);
        }
        let disks = devices(r#"{"disks": [{"path": "a"}, {"path": "b", "queues": 1}]}"#).unwrap().disks;
        assert_eq!(disks.iter().map(|disk| disk.queues).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_disk_interrupts_its_node_where_that_is_not_all_of_the_guest() {
        use DiskInterrupts::{Node, Queue};
        let interrupts = |vcpus: &[usize], disk: &str| {
            let spec: VmSpec = serde_json::from_str(&format!(r#"{{"disks": [{disk}]}}"#)).unwrap();
            VmDevices::new(&spec, vcpus).map(|all| (all.disks[0].interrupts, all.disks[0].queues))
        };
        assert_eq!(interrupts(&[1, 2], r#"{"path": "a"}"#), Ok((Node, 3)));
        assert_eq!(interrupts(&[0, 2], r#"{"path": "a"}"#), Ok((Queue, 2)));
        assert_eq!(interrupts(&[1, 2], r#"{"path": "a", "queues": 1}"#), Ok((Queue, 1)));
        assert_eq!(interrupts(&[1, 2], r#"{"path": "a", "interrupts": "queue"}"#), Ok((Queue, 3)));
        assert_eq!(interrupts(&[1], r#"{"path": "a", "interrupts": "node"}"#), Ok((Node, 2)));
        let refused = interrupts(&[1, 2], r#"{"path": "a", "interrupts": "node", "queues": 1}"#).unwrap_err();
        assert_eq!(refused.to_string(), "disks[0].interrupts: node needs 2 queues or more");
    }

    #[test]
    fn a_disk_that_is_written_is_given_once() {
        let twice = |a: &str, b: &str| {
            let text = devices(&format!(r#"{{"disks": [{{"path": "c"}}, {a}, {b}]}}"#));
            text.map(|all| all.disks.len()).map_err(|error| error.to_string())
        };
        let refused = |path: &str| {
            let rule = "is disks[1] too; a disk that is written is given once, readonly=on shares it";
            Err(format!("disks[2].path: {path} {rule}"))
        };
        let readonly = |path: &str| format!(r#"{{"path": "{path}", "readonly": "on"}}"#);
        assert_eq!(twice(r#"{"path": "d"}"#, r#"{"path": "d"}"#), refused("d"));
        assert_eq!(twice(r#"{"path": "/x/d"}"#, r#"{"path": "/x//./d"}"#), refused("/x//./d"));
        assert_eq!(twice(r#"{"path": "d"}"#, &readonly("./d")), refused("./d"));
        assert_eq!(twice(&readonly("d"), &readonly("d")), Ok(3));
        assert_eq!(twice(&readonly("d"), r#"{"path": "e/d"}"#), Ok(3));
    }

    #[test]
    fn a_device_sits_on_vnode_0_unless_told_otherwise() {
        let all = devices(
            r#"{"disks": [{"path": "a"}, {"path": "b", "vnode": 1, "readonly": "on"}], "rng": true}"#,
        )
        .unwrap();
        assert_eq!((all.disks[0].vnode, all.disks[1].vnode), (VnodeId(0), VnodeId(1)));
        assert_eq!((all.disks[0].read_only, all.disks[1].read_only), (false, true));
        assert_eq!(all.rng, Some(VnodeId(0)));
    }

    #[test]
    fn an_interface_without_an_address_has_the_same_one_each_time() {
        let net =
            || devices(r#"{"nets": [{"tap": "tap0"}, {"fd": 7, "mac": "52:54:00:12:34:Fe"}]}"#).unwrap().nets;
        assert_eq!(net()[0].mac, net()[0].mac);
        assert_eq!(net()[0].mac[0] & 3, 2);
        assert_eq!((net()[1].tap.clone(), net()[1].mac), (Tap::Fd(7), [0x52, 0x54, 0, 0x12, 0x34, 0xfe]));
    }

    #[test]
    fn what_cannot_be_is_refused_by_field_value_and_rule() {
        for (json, error) in [
            (r#"{"disks": [{"path": "a", "vnode": 2}]}"#, "disks[0].vnode: 2 does not exist, must be 0 to 1"),
            (r#"{"disks": [{"path": "a", "queues": 17}]}"#, "disks[0].queues: 17 queues, must be 1 to 16"),
            (r#"{"nets": [{}]}"#, "nets[0]: neither tap nor fd is given, must be one of them"),
            (
                r#"{"nets": [{"tap": "a", "fd": 1}]}"#,
                "nets[0]: tap and fd exclude each other, must be one of them",
            ),
            (r#"{"nets": [{"tap": "a", "mtu": 67}]}"#, "nets[0].mtu: 67 is too small, must be 68 to 65535"),
            (
                r#"{"nets": [{"tap": "a", "mac": "01:00:00:00:00:00"}]}"#,
                "nets[0].mac: 01:00:00:00:00:00 is a group address or zero, must be a station's",
            ),
            (
                r#"{"nets": [{"tap": "a", "mac": "+1:00:00:00:00:00"}]}"#,
                "nets[0].mac: +1:00:00:00:00:00 is not an address, must be such as 52:54:00:12:34:56",
            ),
            (r#"{"console": {}}"#, "console: neither socket nor file is given, must be one of them"),
            (
                r#"{"console": {"socket": "a", "file": "b"}}"#,
                "console: socket and file exclude each other, must be one of them",
            ),
            (r#"{"console": {"file": "b", "vnode": 2}}"#, "console.vnode: 2 does not exist, must be 0 to 1"),
            (
                r#"{"vsock": {"cid": 2, "socket": "s"}}"#,
                "vsock.cid: 2 is not a guest's, must be 3 to 4294967294",
            ),
        ] {
            assert_eq!(devices(json).unwrap_err(), error);
        }
    }
}
