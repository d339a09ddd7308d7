//! Tables of plans, hosts and events as they come: documents whose fields may be added to.

use crate::ctl::show::dash;
use crate::show::table::{Side, Table};
use resources::Bytes;
use serde_json::Value;

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => dash(text),
        other => other.to_string(),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |bytes| Bytes(bytes).human())
}

fn list<'a>(document: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    document[field].as_array().into_iter().flatten()
}

fn table(titles: &[(&str, Side)]) -> Table {
    Table::new(titles.iter().map(|(title, side)| ((*title).to_owned(), *side)))
}

/// Distances between what `ids` names.
fn distances(document: &Value, ids: &[String]) -> String {
    let edge = std::iter::once((String::new(), Side::Right));
    let mut table = Table::new(edge.chain(ids.iter().map(|id| (id.clone(), Side::Right))));
    for (id, row) in ids.iter().zip(list(document, "distances")) {
        table.row(std::iter::once(id.clone()).chain(row.as_array().into_iter().flatten().map(word)));
    }
    format!("distances (from row to column)\n{}", table.text())
}

fn ids<'a>(of: impl Iterator<Item = &'a Value>) -> Vec<String> {
    of.map(|each| word(&each["id"])).collect()
}

/// A plan.
pub fn plan(document: &Value) -> String {
    let mut vnodes = table(&[
        ("VNODE", Side::Right),
        ("MEMORY", Side::Right),
        ("VCPUS", Side::Left),
        ("PNODES", Side::Left),
        ("POLICY", Side::Left),
        ("PAGES", Side::Left),
        ("CPUS", Side::Left),
        ("AFFINITY", Side::Left),
        ("WHY", Side::Left),
    ]);
    for vnode in list(document, "vnodes") {
        let vcpus: Vec<String> = list(vnode, "vcpus").map(|vcpu| word(&vcpu["id"])).collect();
        vnodes.row([
            word(&vnode["id"]),
            size(&vnode["memory"]),
            dash(vcpus.join(",")),
            word(&vnode["pnodes"]),
            word(&vnode["policy"]),
            word(&vnode["pages"]),
            word(&vnode["cpus"]),
            word(&vnode["affinity"]),
            word(&vnode["why"]["text"]),
        ]);
    }
    let shortfalls: String = list(document, "vnodes")
        .flat_map(|vnode| {
            let id = word(&vnode["id"]);
            list(vnode, "shortfalls").map(move |each| format!("vnode {id}: {}\n", word(&each["text"])))
        })
        .collect();
    let ids = ids(list(document, "vnodes"));
    let gap = if shortfalls.is_empty() { "" } else { "\n" };
    format!("{}\n{}{gap}{shortfalls}", vnodes.text(), distances(document, &ids))
}

/// A host.
pub fn host(document: &Value) -> String {
    let mut pnodes = table(&[
        ("PNODE", Side::Right),
        ("CPUS", Side::Left),
        ("TOTAL", Side::Right),
        ("FREE", Side::Right),
        ("AVAILABLE", Side::Right),
        ("HUGE PAGES (free/total)", Side::Left),
    ]);
    for pnode in list(document, "pnodes") {
        let pool = |pool: &Value| {
            format!("{} of {}/{}", size(&pool["size"]), word(&pool["free"]), word(&pool["total"]))
        };
        let pools: Vec<String> = list(pnode, "huge_pages").map(pool).collect();
        pnodes.row([
            word(&pnode["id"]),
            word(&pnode["cpus"]),
            size(&pnode["memory_total"]),
            size(&pnode["memory_free"]),
            size(&pnode["memory_available"]),
            dash(pools.join(", ")),
        ]);
    }
    format!("{}\n{}", pnodes.text(), distances(document, &ids(list(document, "pnodes"))))
}

/// An event in a line.
pub fn event(event: &Value) -> String {
    let mut line = format!("{} {} {}", word(&event["time"]), word(&event["id"]), word(&event["type"]));
    for (name, value) in event.as_object().into_iter().flatten() {
        match name.as_str() {
            "time" | "id" | "type" => {}
            "job" => line.push_str(&job(value)),
            "balloon" => line.push_str(&balloon(value)),
            name => line.push_str(&format!(" {name}={}", word(value))),
        }
    }
    line
}

fn balloon(balloon: &Value) -> String {
    let fields = ["request", "phase", "returned", "partial"];
    let fields: String = fields.iter().map(|name| format!(" {name}={}", word(&balloon[*name]))).collect();
    format!("{fields} outcome={}", word(&balloon["outcome"]["stop"]))
}

fn job(job: &Value) -> String {
    let fields = ["id", "vnode", "from", "to", "state", "seen", "total", "moved"];
    fields.iter().map(|name| format!(" {name}={}", word(&job[*name]))).collect()
}

#[cfg(test)]
mod tests {
    use super::{event, host, plan};
    use serde_json::json;

    #[test]
    fn documents_of_another_version_are_shown_as_far_as_they_go() {
        for document in [json!({}), json!(7), json!({"vnodes": [{}], "pnodes": [{}], "distances": [[]]})] {
            assert!(plan(&document).starts_with("VNODE"));
            assert!(host(&document).starts_with("PNODE"));
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let document = json!({"id": 3, "time": "t", "type": "vm_state", "state": "running"});
        assert_eq!(event(&document), "t 3 vm_state state=running");
    }
}
