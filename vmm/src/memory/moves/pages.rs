//! The pages of one chunk: which are elsewhere, sent in the fewest calls, and where each lies afterwards.

use super::{MemoryMove, MoveOutcome, Pages};
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, MemoryPolicy, NodeSet, PnodeId};
use std::collections::BTreeMap;
use std::ops::Range;

/// A transparent huge page moves when one of its pages is named.
const HUGE: usize = 2 << 20;
/// Pages asked for in one call.
const BATCH: usize = 16 << 10;

/// Moves what of a range is elsewhere. What a failed call has moved before it failed counts.
pub fn move_chunk<P: Pages>(
    region: &P,
    range: Range<usize>,
    job: &MemoryMove,
    outcome: &mut MoveOutcome,
) -> Result<(), HostError> {
    let offsets: Vec<usize> = range.step_by(region.page()).collect();
    let away = of_those_away(region, &offsets, &job.to)?;
    if away.is_empty() {
        return Ok(());
    }
    let sent = send_blocks(region, &away, job);
    let refused = match &sent {
        Ok(refused) => refused.clone(),
        Err(_) => BTreeMap::new(),
    };
    let page = Bytes(region.page() as u64);
    if refused.is_empty() && sent.is_ok() {
        // The kernel has told of each page that it is there, or gone.
        outcome.moved = outcome.moved.saturating_add(Bytes(away.len() as u64 * page.get()));
        return Ok(());
    }
    let status = match (region.locate(&away), &sent) {
        (Ok(status), _) => status,
        // Nothing to count by; the measurement at the end may still tell.
        (Err(_), Err(_)) => return sent.map(drop),
        (Err(error), Ok(_)) => return Err(error),
    };
    for (offset, status) in away.iter().zip(status) {
        let bytes = match is_away(&status, &job.to) {
            true => outcome.left.entry(refused.get(offset).copied().unwrap_or(libc::EAGAIN)).or_default(),
            false => &mut outcome.moved,
        };
        *bytes = bytes.saturating_add(page);
    }
    sent.map(drop)
}

/// What lies outside of `home`, by pnode.
pub fn elsewhere<P: Pages>(regions: &[&P], home: &NodeSet) -> Result<BTreeMap<PnodeId, Bytes>, HostError> {
    let mut found: BTreeMap<PnodeId, Bytes> = BTreeMap::new();
    for region in regions {
        let page = Bytes(region.page() as u64);
        let offsets: Vec<usize> = (0..region.size()).step_by(region.page()).collect();
        for batch in offsets.chunks(BATCH) {
            for status in region.locate(batch)? {
                if let PageStatus::On(pnode) = status
                    && !home.contains(pnode)
                {
                    let bytes = found.entry(pnode).or_default();
                    *bytes = bytes.saturating_add(page);
                }
            }
        }
    }
    Ok(found)
}

fn is_away(status: &PageStatus, home: &NodeSet) -> bool {
    matches!(status, PageStatus::On(pnode) if !home.contains(*pnode))
}

fn of_those_away<P: Pages>(region: &P, offsets: &[usize], home: &NodeSet) -> Result<Vec<usize>, HostError> {
    let status = region.locate(offsets)?;
    Ok(offsets.iter().zip(&status).filter(|(_, s)| is_away(s, home)).map(|(offset, _)| *offset).collect())
}

/// One page of each block first, where that may be a huge page: then all of it has moved. Gives the errno of those that
/// stayed.
fn send_blocks<P: Pages>(
    region: &P,
    away: &[usize],
    job: &MemoryMove,
) -> Result<BTreeMap<usize, i32>, HostError> {
    if !region.in_blocks() {
        return send(region, away, region.page(), job);
    }
    let mut heads = away.to_vec();
    heads.dedup_by_key(|offset| *offset / HUGE);
    send(region, &heads, HUGE.max(region.page()), job)?;
    let small = of_those_away(region, away, &job.to)?;
    send(region, &small, region.page(), job)
}

/// Sends pages to the first pnode with room, interleaved ones to each in turn by the unit that they move in. Gives the errno of those that stayed.
fn send<P: Pages>(
    region: &P,
    offsets: &[usize],
    unit: usize,
    job: &MemoryMove,
) -> Result<BTreeMap<usize, i32>, HostError> {
    let pnodes: Vec<PnodeId> = job.to.iter().collect();
    let mut waiting = offsets.to_vec();
    let mut refused = BTreeMap::new();
    for attempt in 0..pnodes.len() {
        if waiting.is_empty() {
            break;
        }
        let target = |offset: usize| match job.policy {
            MemoryPolicy::Interleave => pnodes[(offset / unit + attempt) % pnodes.len()],
            MemoryPolicy::Bind | MemoryPolicy::Preferred => pnodes[attempt],
        };
        let nodes: Vec<PnodeId> = waiting.iter().map(|offset| target(*offset)).collect();
        let status = region.relocate(&waiting, &nodes)?;
        refused.retain(|offset, _| waiting.binary_search(offset).is_err());
        for (offset, status) in waiting.iter().zip(&status) {
            match status {
                PageStatus::Unknown(errno) => drop(refused.insert(*offset, *errno)),
                PageStatus::On(_) if is_away(status, &job.to) => drop(refused.insert(*offset, libc::EAGAIN)),
                PageStatus::On(_) | PageStatus::Absent => {}
            }
        }
        // Only a full node is a reason to try the next one; what the call did not get to when it was full counts.
        waiting.retain(|offset| matches!(refused.get(offset), Some(&(libc::ENOMEM | libc::EINPROGRESS))));
    }
    for errno in refused.values_mut().filter(|errno| **errno == libc::EINPROGRESS) {
        *errno = libc::ENOMEM;
    }
    Ok(refused)
}
