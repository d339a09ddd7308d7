//! A square of figures between nodes, with ids at both edges.

use crate::show::document::word;
use crate::show::or_dash;
use crate::show::table::{Side, Table};
use serde_json::Value;

/// A matrix under a title; `cell` is asked by position in `ids`.
pub fn text(title: &str, ids: &[String], cell: impl Fn(usize, usize) -> String) -> String {
    let edge = std::iter::once((String::new(), Side::Right));
    let mut table = Table::new(edge.chain(ids.iter().map(|id| (id.clone(), Side::Right))));
    for (from, id) in ids.iter().enumerate() {
        table.row(std::iter::once(id.clone()).chain((0..ids.len()).map(|to| cell(from, to))));
    }
    format!("{title}\n{}", table.text())
}

/// The distances of a document between what `ids` names.
pub fn distances(document: &Value, ids: &[String]) -> String {
    text("distances (from row to column)", ids, |from, to| word(&document["distances"][from][to]))
}

/// Figures of reads and writes as one number where they are the same, `?` for one that is not known, a dash for none.
fn both(figures: &Value, what: &str) -> String {
    let known = |figure: &Value| if figure.is_null() { "?".to_owned() } else { word(figure) };
    let (read, write) = (&figures[format!("read_{what}")], &figures[format!("write_{what}")]);
    or_dash(match (read, write) {
        (Value::Null, Value::Null) => String::new(),
        (read, write) if read == write => known(read),
        (read, write) => format!("{}/{}", known(read), known(write)),
    })
}

/// Latency in nanoseconds.
pub fn latency(figures: &Value) -> String {
    both(figures, "latency_ns")
}

/// Bandwidth in MiB per second.
pub fn bandwidth(figures: &Value) -> String {
    both(figures, "bandwidth_mib")
}
