//! The grammars of `--disk`, `--net`, `--vsock` and `--console`: `key=value` separated by commas. What the values
//! mean is decided by `resources`.

use crate::args::numa::{NumaError, from_str, key_value, parts, put, refuse};
use crate::args::{count, long_count, number};
use resources::spec::{ConsoleSpec, DiskSpec, NetSpec, VsockSpec};
use std::path::PathBuf;

pub const DISK_KEYS: &str = "path, format, vnode, readonly, direct, queues, interrupts, serial";
pub const NET_KEYS: &str = "tap, fd, mac, mtu, queues, vnode, vhost";
pub const VSOCK_KEYS: &str = "cid, socket, vnode";
pub const CONSOLE_KEYS: &str = "socket, file, vnode";

/// Calls `take` with each key and value.
fn each(
    text: &str,
    keys: &str,
    mut take: impl FnMut(&str, &str) -> Option<Result<(), NumaError>>,
) -> Result<(), NumaError> {
    for part in parts(text)? {
        let (key, value) = key_value(part)?;
        match take(key, value) {
            Some(result) => result?,
            None => return refuse(Some(key), format_args!("unknown key, must be one of {keys}")),
        }
    }
    Ok(())
}

/// A number of 16 bits.
fn small(value: &str) -> Result<u16, String> {
    number(value, u16::MAX.into())
}

/// A descriptor.
fn descriptor(value: &str) -> Result<i32, String> {
    number(value, i32::MAX.unsigned_abs().into())
}

/// A path that names something.
fn path(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("`` is empty, must be a path".to_owned()) } else { Ok(value.into()) }
}

/// Reads one `--disk`.
pub fn disk(text: &str) -> Result<DiskSpec, NumaError> {
    let (mut disk, mut at) = (DiskSpec::default(), None);
    each(text, DISK_KEYS, |key, value| {
        Some(match key {
            "path" => put(&mut at, key, value, path),
            "format" => put(&mut disk.format, key, value, from_str),
            "vnode" => put(&mut disk.vnode, key, value, count),
            "readonly" => put(&mut disk.readonly, key, value, from_str),
            "direct" => put(&mut disk.direct, key, value, from_str),
            "queues" => put(&mut disk.queues, key, value, small),
            "interrupts" => put(&mut disk.interrupts, key, value, from_str),
            "serial" => put(&mut disk.serial, key, value, from_str),
            _ => return None,
        })
    })?;
    match at {
        Some(path) => Ok(DiskSpec { path, ..disk }),
        None => refuse(Some("path"), "missing, every disk needs one"),
    }
}

/// Reads one `--net`.
pub fn net(text: &str) -> Result<NetSpec, NumaError> {
    let mut net = NetSpec::default();
    each(text, NET_KEYS, |key, value| {
        Some(match key {
            "tap" => put(&mut net.tap, key, value, from_str),
            "fd" => put(&mut net.fd, key, value, descriptor),
            "mac" => put(&mut net.mac, key, value, from_str),
            "mtu" => put(&mut net.mtu, key, value, small),
            "queues" => put(&mut net.queues, key, value, small),
            "vnode" => put(&mut net.vnode, key, value, count),
            "vhost" => put(&mut net.vhost, key, value, from_str),
            _ => return None,
        })
    })?;
    Ok(net)
}

/// Reads `--vsock`.
pub fn vsock(text: &str) -> Result<VsockSpec, NumaError> {
    let (mut cid, mut socket, mut vnode) = (None, None, None);
    each(text, VSOCK_KEYS, |key, value| {
        Some(match key {
            "cid" => put(&mut cid, key, value, long_count),
            "socket" => put(&mut socket, key, value, path),
            "vnode" => put(&mut vnode, key, value, count),
            _ => return None,
        })
    })?;
    match cid {
        Some(cid) => Ok(VsockSpec { cid, socket, vnode }),
        None => refuse(Some("cid"), "missing, the guest needs one"),
    }
}

/// Reads `--console`.
pub fn console(text: &str) -> Result<ConsoleSpec, NumaError> {
    let mut console = ConsoleSpec::default();
    each(text, CONSOLE_KEYS, |key, value| {
        Some(match key {
            "socket" => put(&mut console.socket, key, value, path),
            "file" => put(&mut console.file, key, value, path),
            "vnode" => put(&mut console.vnode, key, value, count),
            _ => return None,
        })
    })?;
    Ok(console)
}

#[cfg(test)]
mod tests {
    use super::{console, disk, net, vsock};
    use resources::spec::device::DiskFormat;
    use resources::spec::{DiskSpec, Switch};

    #[test]
    fn a_disk_is_read() {
        let expected = DiskSpec {
            path: "/a=b".into(),
            vnode: Some(1),
            readonly: Some(Switch(true)),
            ..DiskSpec::default()
        };
        assert_eq!(disk("path=/a=b,vnode=1,readonly=on"), Ok(expected));
        assert_eq!(disk("vnode=1").unwrap_err().to_string(), ".path: missing, every disk needs one");
        let unknown = ".size: unknown key, must be one of path, format, vnode, readonly, direct, queues, interrupts, serial";
        assert_eq!(disk("path=a,size=1").unwrap_err().to_string(), unknown);
        assert_eq!(disk("path=a,format=raw").unwrap().format, Some(DiskFormat::Raw));
        let refused = disk("path=a,format=qcow2").unwrap_err().to_string();
        let expected = ".format: `qcow2` is not raw; qemu-img convert -O raw makes one of another format";
        assert_eq!(refused, expected);
    }

    #[test]
    fn an_interface_and_a_socket_are_read() {
        assert_eq!(net("tap=tap0,mtu=9000").unwrap().mtu, Some(9000));
        assert!(net("tap=a,tap=b").unwrap_err().to_string().starts_with(".tap: given twice"));
        assert_eq!(vsock("cid=3,socket=s").unwrap().cid, 3);
        assert_eq!(vsock("cid=3").unwrap().socket, None);
        assert_eq!(console("file=f,vnode=2").unwrap().vnode, Some(2));
        assert_eq!(console("file=").unwrap_err().to_string(), ".file: `` is empty, must be a path");
        assert!(console("stdio").unwrap_err().to_string().contains("`stdio` is not key=value"));
        assert_eq!(vsock("socket=s").unwrap_err().to_string(), ".cid: missing, the guest needs one");
    }
}
