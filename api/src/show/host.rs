//! A host for people.

use crate::show::table::{Side, Table};
use crate::show::{matrix, or_dash};
use resources::{Bytes, HostTopology, PairAttributes, Pnode};
use std::collections::BTreeSet;

/// A table of pnodes and their distances.
pub fn text(host: &HostTopology) -> String {
    let pnodes = host.pnodes();
    let sizes: BTreeSet<Bytes> = pnodes.iter().flat_map(|pnode| pnode.huge_pages.keys().copied()).collect();
    let figures = pnodes.iter().any(|pnode| pnode.attributes.is_some());
    let mut header = vec![("PNODE".to_owned(), Side::Right), ("CPUS".to_owned(), Side::Left)];
    header.extend(["TOTAL", "FREE", "AVAILABLE"].map(|title| (title.to_owned(), Side::Right)));
    header.extend(sizes.iter().map(|size| (format!("{size} PAGES"), Side::Right)));
    if figures {
        header.extend(["LATENCY ns", "BANDWIDTH MiB/s"].map(|title| (title.to_owned(), Side::Right)));
    }
    let mut table = Table::new(header);
    for pnode in pnodes {
        let mut row = vec![pnode.id.to_string(), or_dash(&pnode.cpus)];
        row.extend(memory(pnode));
        row.extend(sizes.iter().map(|size| match pnode.huge_pages.get(size) {
            Some(pool) => format!("{}/{}", pool.free, pool.total),
            None => "-".to_owned(),
        }));
        if figures {
            let figures_of = |show: fn(&PairAttributes) -> String| {
                pnode.attributes.map(|known| show(&known.into())).unwrap_or_default()
            };
            row.push(or_dash(figures_of(matrix::latency)));
            row.push(or_dash(figures_of(matrix::bandwidth)));
        }
        table.row(row);
    }
    let ids: Vec<u32> = pnodes.iter().map(|pnode| pnode.id.0).collect();
    let distances = matrix::text("distances (from row to column)", &ids, |from, to| {
        or_dash(host.distances().get(from, to).map(|d| d.get().to_string()).unwrap_or_default())
    });
    let of_each = |holds: fn(&Pnode) -> bool, note: &'static str| {
        pnodes
            .iter()
            .filter(move |pnode| holds(pnode))
            .map(move |pnode| format!("pnode {}: {note}\n", pnode.id))
    };
    let forbidden = of_each(
        |pnode| pnode.has_memory() && !pnode.memory_allowed,
        "this process may not have memory there (Mems_allowed)",
    );
    let devices = of_each(
        |pnode| pnode.device_memory,
        "memory of a device; chosen only with --device-memory, or by pnode=",
    );
    let notes: Vec<String> = forbidden.chain(devices).collect();
    let notes = if notes.is_empty() { String::new() } else { format!("\n{}", notes.concat()) };
    format!("{}\n{distances}{notes}", table.text())
}

fn memory(pnode: &Pnode) -> [String; 3] {
    match pnode.has_memory() {
        true => [pnode.memory_total.human(), pnode.memory_free.human(), pnode.available().human()],
        false => ["-", "-", "-"].map(str::to_owned),
    }
}
