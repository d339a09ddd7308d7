//! Valid devices, and the errors of invalid ones.

use super::{DiskInterrupts, Mac, Tap, VmDevices, disk_queues};
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
        let rule = "is disks[1] too; a writable disk can be given once, use readonly=on to share it";
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
    let all =
        devices(r#"{"disks": [{"path": "a"}, {"path": "b", "vnode": 1, "readonly": "on"}], "rng": true}"#)
            .unwrap();
    assert_eq!((all.disks[0].vnode, all.disks[1].vnode), (VnodeId(0), VnodeId(1)));
    assert_eq!((all.disks[0].read_only, all.disks[1].read_only), (false, true));
    assert_eq!(all.rng, Some(VnodeId(0)));
}

#[test]
fn an_interface_has_the_address_typed_or_none_yet() {
    let nets = devices(r#"{"nets": [{"tap": "tap0"}, {"fd": 7, "mac": "52:54:00:12:34:Fe"}]}"#).unwrap().nets;
    assert_eq!((nets[0].tap.name(), nets[0].mac), (Some("tap0"), None));
    let bytes = nets[1].mac.map(Mac::bytes);
    assert_eq!((nets[1].tap.clone(), bytes), (Tap::Fd(7), Some([0x52, 0x54, 0, 0x12, 0x34, 0xfe])));
}

#[test]
fn what_cannot_be_is_refused_by_field_value_and_rule() {
    for (json, error) in [
        (r#"{"disks": [{"path": "a", "vnode": 2}]}"#, "disks[0].vnode: 2 does not exist, must be 0 to 1"),
        (r#"{"disks": [{"path": "a", "queues": 17}]}"#, "disks[0].queues: 17 queues, must be 1 to 16"),
        (r#"{"nets": [{}]}"#, "nets[0]: neither tap nor fd is given, use one of them"),
        (r#"{"nets": [{"tap": "a", "fd": 1}]}"#, "nets[0]: tap and fd cannot be combined, use one of them"),
        (r#"{"nets": [{"tap": "a", "mtu": 67}]}"#, "nets[0].mtu: 67 is too small, must be 68 to 65535"),
        (
            r#"{"nets": [{"tap": "a", "mac": "01:00:00:00:00:00"}]}"#,
            "nets[0].mac: 01:00:00:00:00:00 is a multicast address or zero, must be unicast",
        ),
        (
            r#"{"nets": [{"tap": "a", "mac": "+1:00:00:00:00:00"}]}"#,
            "nets[0].mac: +1:00:00:00:00:00 is not a MAC address, must look like 52:54:00:12:34:56",
        ),
        (
            r#"{"nets": [{"fd": 3}]}"#,
            "nets[0].mac: none is given, must be given with fd: descriptor numbers are not unique to a VM",
        ),
        (
            r#"{"nets": [{"tap": "a", "mac": "52:54:00:00:00:0A"}, {"tap": "b", "mac": "52:54:00:00:00:0a"}]}"#,
            "nets[1].mac: 52:54:00:00:00:0a is that of nets[0] too, must be another",
        ),
        (
            r#"{"nets": [{"tap": "a"}, {"tap": "b"}, {"tap": "a", "mac": "52:54:00:00:00:0a"}]}"#,
            "nets[2].tap: a is that of nets[0] too, must be another",
        ),
        (
            r#"{"nets": [{"fd": 3, "mac": "52:54:00:00:00:0a"}, {"fd": 3, "mac": "52:54:00:00:00:0b"}]}"#,
            "nets[1].fd: 3 is that of nets[0] too, must be another",
        ),
        (
            r#"{"disks": [{"path": "a", "serial": "x"}, {"path": "b", "serial": "x"}]}"#,
            "disks[1].serial: x is that of disks[0] too, must be another",
        ),
        (
            r#"{"disks": [{"path": "a"}], "serial": "file=./a"}"#,
            "serial: ./a is disks[0].path too, must be another path",
        ),
        (
            r#"{"console": {"file": "a"}, "serial": "file=a"}"#,
            "console.file: a is serial too, must be another path",
        ),
        (
            r#"{"console": {"socket": "a"}, "vsock": {"cid": 3, "socket": "./a"}}"#,
            "vsock.socket: ./a is console.socket too, must be another path",
        ),
        (r#"{"disks": [{"path": ""}]}"#, "disks[0].path: `` is empty, must be a path"),
        (r#"{"console": {"file": ""}}"#, "console.file: `` is empty, must be a path"),
        (r#"{"vsock": {"cid": 3, "socket": ""}}"#, "vsock.socket: `` is empty, must be a path"),
        (r#"{"console": {}}"#, "console: neither socket nor file is given, use one of them"),
        (
            r#"{"console": {"socket": "a", "file": "b"}}"#,
            "console: socket and file cannot be combined, use one of them",
        ),
        (r#"{"console": {"file": "b", "vnode": 2}}"#, "console.vnode: 2 does not exist, must be 0 to 1"),
        (r#"{"vsock": {"cid": 2, "socket": "s"}}"#, "vsock.cid: 2 is reserved, must be 3 to 4294967294"),
    ] {
        assert_eq!(devices(json).unwrap_err(), error);
    }
}
