//! The devices of a plan for people: what each is, and where it sits.

use crate::show::or_dash;
use crate::show::table::{Side, Table};
use resources::devices::{ConsoleEnd, Disk, Net, Tap};
use resources::{Plan, VnodeId};

/// A row for each device, or nothing.
pub fn text(plan: &Plan) -> Option<String> {
    let devices = &plan.devices;
    let mut rows: Vec<(String, VnodeId, String)> = Vec::new();
    rows.extend(
        (0..)
            .zip(&devices.disks)
            .map(|(i, disk): (u32, _)| (format!("disk {i}"), disk.vnode, describe_disk(disk))),
    );
    rows.extend(
        (0..).zip(&devices.nets).map(|(i, net): (u32, _)| (format!("net {i}"), net.vnode, describe_net(net))),
    );
    rows.extend(devices.vsock.iter().map(|vsock| {
        let by = vsock
            .socket
            .as_ref()
            .map_or_else(|| "vhost-vsock".to_owned(), |socket| format!("socket {}", socket.display()));
        ("vsock".to_owned(), vsock.vnode, format!("cid {}, {by}", vsock.cid))
    }));
    rows.extend(devices.console.iter().map(|console| {
        let what = match &console.end {
            ConsoleEnd::Socket(path) => format!("socket {}", path.display()),
            ConsoleEnd::File(path) => format!("file {}", path.display()),
        };
        ("console".to_owned(), console.vnode, what)
    }));
    rows.extend(devices.rng.map(|vnode| ("rng".to_owned(), vnode, String::new())));
    let titles = [
        ("DEVICE", Side::Left),
        ("VNODE", Side::Right),
        ("THREADS ON CPUS", Side::Left),
        ("WHAT", Side::Left),
    ];
    let mut table = Table::new(titles.map(|(title, side)| (title.to_owned(), side)));
    let any = !rows.is_empty();
    for (device, vnode, what) in rows {
        let cpus = plan.placement.vnodes.get(vnode.index()).map(|at| at.cpus.to_string());
        table.row([device, vnode.to_string(), or_dash(cpus.unwrap_or_default()), or_dash(what)]);
    }
    any.then(|| table.text())
}

fn describe_disk(disk: &Disk) -> String {
    let mut what = disk.path.display().to_string();
    for (word, on) in [(", read-only", disk.read_only), (", direct", disk.direct)] {
        what.push_str(if on { word } else { "" });
    }
    what
}

fn describe_net(net: &Net) -> String {
    let [a, b, c, d, e, f] = net.mac;
    let tap = match &net.tap {
        Tap::Name(name) => format!("tap {name}"),
        Tap::Fd(fd) => format!("descriptor {fd}"),
    };
    format!("{tap}, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
