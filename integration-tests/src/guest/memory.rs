//! Memory of a given node, and all the free memory of all nodes, taken without waking the OOM killer.

use anyhow::{Context, Result, ensure};

use super::report;
use crate::sys::BoundMemory;

/// `fill` takes memory in pieces of this size and looks at the node after each.
pub(crate) const CHUNK_MIB: usize = 4;
const MIB: usize = 1 << 20;

/// What `fill` leaves free on a node: 24 MiB or 6 % of it, whichever is more. A zone's high watermark in a small
/// stock guest is 3-5 % of it, and a bound allocation below the low watermark reclaims and then kills.
pub(crate) fn reserve_kib(total_kib: u64) -> u64 {
    (24 * 1024).max(total_kib * 6 / 100)
}

/// `mib` MiB bound to `node`, all touched.
pub(crate) fn allocate(mib: usize, node: u32) -> Result<BoundMemory> {
    let mut memory =
        BoundMemory::map(mib * MIB, node).with_context(|| format!("{mib} MiB on node {node}"))?;
    let touched = memory.touch(mib * MIB);
    ensure!(touched == mib * MIB, "touched {touched} bytes of {mib} MiB");
    Ok(memory)
}

/// All free memory of each node but the reserve.
pub(crate) fn fill() -> Result<Vec<(u32, Vec<BoundMemory>)>> {
    let mut all = Vec::new();
    for node in report::online_nodes() {
        let mut held = Vec::new();
        loop {
            let (total, free) = report::node_memory(node);
            if free < reserve_kib(total) + (CHUNK_MIB as u64) * 1024 {
                break;
            }
            held.push(allocate(CHUNK_MIB, node)?);
        }
        all.push((node, held));
    }
    Ok(all)
}
