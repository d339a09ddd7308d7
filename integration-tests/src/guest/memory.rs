//! Memory of a given node, and all the free memory of all nodes, taken without waking the OOM killer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

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

/// `mib` MiB bound to `node` of which every second page is free again: holes of 4 KiB.
pub(crate) fn checkerboard(mib: usize, node: u32) -> Result<BoundMemory> {
    let mut memory =
        BoundMemory::map(mib * MIB, node).with_context(|| format!("{mib} MiB on node {node}"))?;
    memory.small_pages()?;
    memory.touch(mib * MIB);
    memory.drop_every_second()?;
    Ok(memory)
}

/// Memory that timestamps go to, page after page.
const STAMPED_MIB: usize = 64;

/// A longer time between two timestamps is a stall.
const STALL: Duration = Duration::from_millis(1);

/// Writes the time to page after page of this thread's memory for so long: how often, the longest time in between, and
/// all stalls together.
pub(crate) fn timestamps(duration: Duration) -> Value {
    let mut pages = vec![0u128; STAMPED_MIB * MIB / size_of::<u128>()];
    let step = 4096 / size_of::<u128>();
    pages.iter_mut().step_by(step).for_each(|stamp| *stamp = 1);
    let began = Instant::now();
    let (mut before, mut longest, mut stalled, mut count) = (began, Duration::ZERO, Duration::ZERO, 0u64);
    while before - began < duration {
        for stamp in pages.iter_mut().step_by(step) {
            let now = Instant::now();
            *std::hint::black_box(stamp) = (now - began).as_nanos();
            let gap = now - before;
            longest = longest.max(gap);
            if gap > STALL {
                stalled += gap;
            }
            (before, count) = (now, count + 1);
        }
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    json!({ "stamps": count, "longest_gap_ms": ms(longest), "stalled_ms": ms(stalled) })
}

/// All free memory of each node but the reserve.
pub(crate) fn fill(nodes: &[u32]) -> Result<Vec<(u32, Vec<BoundMemory>)>> {
    let mut all = Vec::new();
    for &node in nodes {
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
