//! A square of figures between nodes, with ids at both edges.

use crate::show::table::{Side, Table};
use resources::PairAttributes;

/// A matrix under a title; `cell` is asked by position in `ids`.
pub fn text(title: &str, ids: &[u32], cell: impl Fn(usize, usize) -> String) -> String {
    let edge = std::iter::once((String::new(), Side::Right));
    let mut table = Table::new(edge.chain(ids.iter().map(|id| (id.to_string(), Side::Right))));
    for (from, id) in ids.iter().enumerate() {
        table.row(std::iter::once(id.to_string()).chain((0..ids.len()).map(|to| cell(from, to))));
    }
    format!("{title}\n{}", table.text())
}

/// Read and write figures as one number where they are the same, `?` for one that is not known, nothing for none.
fn both(read: Option<u32>, write: Option<u32>) -> String {
    let known = |figure: Option<u32>| figure.map_or("?".to_owned(), |figure| figure.to_string());
    match (read, write) {
        (None, None) => String::new(),
        (read, write) if read == write => known(read),
        (read, write) => format!("{}/{}", known(read), known(write)),
    }
}

/// Latency in nanoseconds.
pub fn latency(figures: &PairAttributes) -> String {
    both(figures.read_latency_ns, figures.write_latency_ns)
}

/// Bandwidth in MiB per second.
pub fn bandwidth(figures: &PairAttributes) -> String {
    both(figures.read_bandwidth_mib, figures.write_bandwidth_mib)
}
