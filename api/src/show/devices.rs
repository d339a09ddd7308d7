//! The devices of a plan's document for people: what each is, and where it sits.

use crate::show::document::{list, word};
use crate::show::or_dash;
use crate::show::table::{Side, Table};
use serde_json::Value;

/// A row for each device, or nothing.
pub fn text(plan: &Value) -> Option<String> {
    let devices = &plan["devices"];
    let mut rows: Vec<(String, &Value, String)> = Vec::new();
    let numbered = |kind: &'static str, field| {
        list(devices, field).enumerate().map(move |(number, device)| (format!("{kind} {number}"), device))
    };
    rows.extend(numbered("disk", "disks").map(|(name, disk)| (name, &disk["vnode"], describe_disk(disk))));
    rows.extend(numbered("net", "nets").map(|(name, net)| (name, &net["vnode"], describe_net(net))));
    let vsock = Some(&devices["vsock"]).filter(|vsock| vsock.is_object());
    rows.extend(vsock.map(|vsock| {
        let by = match &vsock["socket"] {
            Value::Null => "vhost-vsock".to_owned(),
            socket => format!("socket {}", word(socket)),
        };
        ("vsock".to_owned(), &vsock["vnode"], format!("cid {}, {by}", word(&vsock["cid"])))
    }));
    let console = Some(&devices["console"]).filter(|console| console.is_object());
    rows.extend(console.map(|console| {
        let end = console["end"].as_object().into_iter().flatten();
        let what: Vec<String> = end.map(|(kind, path)| format!("{kind} {}", word(path))).collect();
        ("console".to_owned(), &console["vnode"], what.join(", "))
    }));
    let rng = Some(&devices["rng"]).filter(|vnode| !vnode.is_null());
    rows.extend(rng.map(|vnode| ("rng".to_owned(), vnode, String::new())));
    let titles = [
        ("DEVICE", Side::Left),
        ("VNODE", Side::Right),
        ("THREADS ON CPUS", Side::Left),
        ("WHAT", Side::Left),
    ];
    let mut table = Table::new(titles.map(|(title, side)| (title.to_owned(), side)));
    let any = !rows.is_empty();
    for (device, vnode, what) in rows {
        let at = list(plan, "vnodes").find(|at| at["id"] == *vnode);
        let cpus = at.map_or("-".to_owned(), |at| word(&at["cpus"]));
        table.row([device, word(vnode), cpus, or_dash(what)]);
    }
    any.then(|| table.text())
}

fn describe_disk(disk: &Value) -> String {
    let mut what = word(&disk["path"]);
    for (text, field) in [(", read-only", "read_only"), (", direct", "direct")] {
        what.push_str(if disk[field] == true { text } else { "" });
    }
    what
}

fn describe_net(net: &Value) -> String {
    let tap = match (&net["tap"]["name"], &net["tap"]["fd"]) {
        (Value::Null, fd) => format!("descriptor {}", word(fd)),
        (name, _) => format!("tap {}", word(name)),
    };
    let mac: Vec<String> =
        list(net, "mac").filter_map(Value::as_u64).map(|byte| format!("{byte:02x}")).collect();
    match mac.is_empty() {
        true => format!("{tap}, its address depends on the host"),
        false => format!("{tap}, {}", mac.join(":")),
    }
}
