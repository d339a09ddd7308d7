//! The document of a host for people.

use crate::show::document::{exact, ids, list, size, word};
use crate::show::matrix;
use crate::show::table::{Side, Table};
use serde_json::Value;
use std::collections::BTreeSet;

/// A table of pnodes and their distances.
pub fn text(host: &Value) -> String {
    let pnodes = || list(host, "pnodes");
    let pools = |pnode| list(pnode, "huge_pages");
    let sizes: BTreeSet<u64> = pnodes().flat_map(pools).filter_map(|pool| pool["size"].as_u64()).collect();
    let figures = pnodes().any(|pnode| !pnode["attributes"].is_null());
    let mut header = vec![("PNODE".to_owned(), Side::Right), ("CPUS".to_owned(), Side::Left)];
    header.extend(["TOTAL", "FREE", "AVAILABLE"].map(|title| (title.to_owned(), Side::Right)));
    header.extend(sizes.iter().map(|size| (format!("{} PAGES", exact(&(*size).into())), Side::Right)));
    if figures {
        header.extend(["LATENCY ns", "BANDWIDTH MiB/s"].map(|title| (title.to_owned(), Side::Right)));
    }
    let mut table = Table::new(header);
    for pnode in pnodes() {
        let mut row = vec![word(&pnode["id"]), word(&pnode["cpus"])];
        row.extend(memory(pnode));
        row.extend(sizes.iter().map(|size| {
            let pool = pools(pnode).find(|pool| pool["size"].as_u64() == Some(*size));
            pool.map_or("-".to_owned(), |pool| format!("{}/{}", word(&pool["free"]), word(&pool["total"])))
        }));
        if figures {
            row.push(matrix::latency(&pnode["attributes"]));
            row.push(matrix::bandwidth(&pnode["attributes"]));
        }
        table.row(row);
    }
    let of_each = |holds: fn(&Value) -> bool, note: &'static str| {
        let those = pnodes().filter(move |pnode| holds(pnode));
        those.map(move |pnode| format!("pnode {}: {note}\n", word(&pnode["id"])))
    };
    let forbidden = of_each(
        |pnode| has_memory(pnode) && pnode["memory_allowed"] == false,
        "this process may not use memory there (Mems_allowed)",
    );
    let devices = of_each(
        |pnode| pnode["device_memory"] == true,
        "device memory, chosen only with --device-memory or pnode=",
    );
    let no_linux = host["no_linux"].as_str().map(|why| format!("this host cannot start Linux: {why}\n"));
    let notes: Vec<String> = forbidden.chain(devices).chain(no_linux).collect();
    let notes = if notes.is_empty() { String::new() } else { format!("\n{}", notes.concat()) };
    format!("{}\n{}{notes}", table.text(), matrix::distances(host, &ids(host, "pnodes")))
}

fn has_memory(pnode: &Value) -> bool {
    pnode["memory_total"] != 0
}

fn memory(pnode: &Value) -> [String; 3] {
    match has_memory(pnode) {
        true => ["memory_total", "memory_free", "memory_available"].map(|field| size(&pnode[field])),
        false => ["-", "-", "-"].map(str::to_owned),
    }
}
