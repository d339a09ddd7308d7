//! The document of a plan for people.

use crate::show::document::{exact, ids, list, word};
use crate::show::table::{Side, Table};
use crate::show::{self, devices, matrix, or_dash};
use resources::{Bytes, CpuSet, IdSet, VcpuId};
use serde_json::Value;

/// APIC ids above it need x2APIC mode, and tables and interrupts treat them differently (ACPI 6.5, 5.2.12.12).
const LAST_XAPIC_ID: u64 = 254;

/// Placement with reasons, guest addresses, distances, and shortfalls.
pub fn text(plan: &Value) -> String {
    let mut parts = vec![summary(plan), vnodes(plan)];
    parts.extend(bound(plan));
    parts.extend(decision(plan));
    parts.extend([addresses(plan), matrix::distances(plan, &ids(plan, "vnodes"))]);
    parts.extend(figures(plan));
    parts.extend(caches(plan));
    parts.extend(devices::text(plan));
    parts.extend(shortfalls(plan));
    parts.extend(notes(plan));
    parts.join("\n")
}

fn summary(plan: &Value) -> String {
    let counted = |count: Option<u64>, what: &str| match count {
        Some(1) => format!("1 {what}"),
        count => format!("{} {what}s", or_dash(count.map(|count| count.to_string()).unwrap_or_default())),
    };
    let vnodes = counted(Some(list(plan, "vnodes").count() as u64), "vnode");
    format!("{vnodes}, {}, {} memory\n", counted(plan["vcpus"].as_u64(), "vCPU"), exact(&plan["memory"]))
}

/// A field of each vCPU of a vnode as a list.
fn of_vcpus(vnode: &Value, field: &str) -> String {
    let ids = list(vnode, "vcpus").filter_map(|vcpu| u32::try_from(vcpu[field].as_u64()?).ok());
    or_dash(ids.map(VcpuId).collect::<IdSet<VcpuId>>())
}

fn vnodes(plan: &Value) -> String {
    let vcpus = list(plan, "vnodes").flat_map(|vnode| list(vnode, "vcpus"));
    let apic_ids_matter = vcpus.filter_map(|vcpu| vcpu["apic_id"].as_u64()).any(|id| id > LAST_XAPIC_ID);
    let mut header = vec![("VNODE", Side::Right), ("MEMORY", Side::Right), ("VCPUS", Side::Left)];
    if apic_ids_matter {
        header.push(("APIC IDS", Side::Left));
    }
    header.extend(
        ["PNODES", "POLICY", "PAGES", "PREFAULT", "CPUS", "AFFINITY", "WHY"].map(|title| (title, Side::Left)),
    );
    let mut table = Table::new(header.into_iter().map(|(title, side)| (title.to_owned(), side)));
    for vnode in list(plan, "vnodes") {
        let mut row = vec![word(&vnode["id"]), exact(&vnode["memory"]), of_vcpus(vnode, "id")];
        if apic_ids_matter {
            row.push(of_vcpus(vnode, "apic_id"));
        }
        row.push(word(&vnode["pnodes"]));
        row.extend(memory(vnode));
        row.push(cpus(vnode));
        row.push(match list(vnode, "vcpus").next() {
            Some(_) => word(&vnode["affinity"]),
            None => "-".to_owned(),
        });
        row.push(word(&vnode["why"]["text"]));
        table.row(row);
    }
    table.text()
}

fn memory(vnode: &Value) -> [String; 3] {
    if vnode["memory"] == 0 {
        return ["-", "-", "-"].map(str::to_owned);
    }
    let prefault = match vnode["prefault"].as_bool() {
        Some(true) => "on",
        Some(false) => "off",
        None => "-",
    };
    let shared = if vnode["shared"] == true { " shared" } else { "" };
    [word(&vnode["policy"]), format!("{}{shared}", word(&vnode["pages"])), prefault.to_owned()]
}

/// The CPUs of each as `vCPU:CPUs` where they differ, else those that all of them share.
fn cpus(vnode: &Value) -> String {
    let each = || list(vnode, "vcpus").map(|vcpu| &vcpu["cpus"]);
    let shared = list(vnode, "shortfalls").any(|shortfall| shortfall["shortfall"] == "shared-cpus");
    let differ = each().zip(each().skip(1)).any(|(one, next)| one != next);
    if differ || (vnode["affinity"] == "hard" && !shared) {
        let pairs = list(vnode, "vcpus").map(|vcpu| format!("{}:{}", word(&vcpu["id"]), word(&vcpu["cpus"])));
        return or_dash(pairs.collect::<Vec<_>>().join(" "));
    }
    let sets = each().filter_map(|cpus| cpus.as_str()?.parse::<CpuSet>().ok());
    or_dash(sets.fold(CpuSet::new(), |all, cpus| all.union(&cpus)))
}

/// How vnodes are bound to several pnodes, if any are.
fn bound(plan: &Value) -> Option<String> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let several = list(plan, "vnodes").filter(|vnode| list(vnode, "parts").next().is_some());
    let lines = several.map(|vnode| {
        let parts = list(vnode, "parts").map(|part| (word(&part["pnode"]), Bytes(number(&part["size"]))));
        show::bound(word(&vnode["id"]), parts)
    });
    Some(lines.collect::<String>()).filter(|text| !text.is_empty())
}

/// How pnodes were chosen, if any were.
fn decision(plan: &Value) -> Option<String> {
    let lines: Vec<String> = list(&plan["placement"], "text").map(word).collect();
    (!lines.is_empty()).then(|| format!("placement: {}\n", lines.join("\n           ")))
}

fn addresses(plan: &Value) -> String {
    let titles = [("GUEST ADDRESSES", Side::Left), ("SIZE", Side::Right), ("VNODE", Side::Right)];
    let mut table = Table::new(titles.map(|(title, side)| (title.to_owned(), side)));
    let ranges = || {
        let of = |vnode| list(vnode, "ram").map(move |range| (vnode, range));
        let all = list(plan, "vnodes").flat_map(of);
        all.filter_map(|(vnode, range)| Some((vnode, range["start"].as_u64()?, range["size"].as_u64()?)))
    };
    let end = ranges().map(|(_, start, size)| start.saturating_add(size)).max().unwrap_or(0);
    let digits = format!("{end:x}").len();
    for (vnode, start, size) in ranges() {
        let last = start.saturating_add(size).saturating_sub(1);
        table.row([
            format!("0x{start:0digits$x}-0x{last:0digits$x}"),
            exact(&size.into()),
            word(&vnode["id"]),
        ]);
    }
    table.text()
}

fn figures(plan: &Value) -> Vec<String> {
    let attributes = &plan["attributes"];
    if !attributes.is_array() {
        return Vec::new();
    }
    let ids = ids(plan, "vnodes");
    let one = |title, show: fn(&Value) -> String| {
        matrix::text(title, &ids, |initiator, target| show(&attributes[initiator][target]))
    };
    vec![
        one("latency in ns (vCPUs of row, memory of column)", matrix::latency),
        one("bandwidth in MiB/s (vCPUs of row, memory of column)", matrix::bandwidth),
    ]
}

fn caches(plan: &Value) -> Option<String> {
    let titles = ["VNODE", "CACHE LEVEL", "SIZE", "LINE"].map(|title| (title.to_owned(), Side::Right));
    let words = ["ASSOCIATIVITY", "WRITE POLICY"].map(|title| (title.to_owned(), Side::Left));
    let mut table = Table::new(titles.into_iter().chain(words));
    for cache in list(plan, "caches") {
        table.row([
            word(&cache["vnode"]),
            word(&cache["level"]),
            exact(&cache["size"]),
            if cache["line"] == 0 { "-".to_owned() } else { word(&cache["line"]) },
            word(&cache["associativity"]),
            word(&cache["policy"]),
        ]);
    }
    list(plan, "caches").next().map(|_| table.text())
}

fn shortfalls(plan: &Value) -> Option<String> {
    let lines = list(plan, "vnodes").flat_map(|vnode| {
        let id = word(&vnode["id"]);
        list(vnode, "shortfalls").map(move |shortfall| format!("vnode {id}: {}\n", word(&shortfall["text"])))
    });
    Some(lines.collect::<String>()).filter(|text| !text.is_empty())
}

fn notes(plan: &Value) -> Option<String> {
    let notes: String = list(plan, "notes").map(|note| format!("note: {}\n", word(&note["text"]))).collect();
    (!notes.is_empty()).then_some(notes)
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::show::host;
    use serde_json::json;

    #[test]
    fn documents_of_another_version_are_shown_as_far_as_they_go() {
        for document in [
            json!({}),
            json!(7),
            json!({"vnodes": [{}], "pnodes": [{}], "distances": [[]]}),
            json!({"vnodes": 3, "attributes": [], "caches": [{}], "devices": {"disks": [{}], "console": {}}}),
            json!({"vnodes": [{"ram": [{"start": u64::MAX, "size": u64::MAX}], "vcpus": [{"id": u64::MAX}]}]}),
        ] {
            assert!(text(&document).contains("\nVNODE"), "{document}");
            assert!(host::text(&document).starts_with("PNODE"), "{document}");
        }
    }
}
