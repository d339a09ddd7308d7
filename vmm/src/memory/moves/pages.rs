//! The pages of one chunk: which are elsewhere, sent in the fewest calls, and where each lies afterwards.

use super::{MoveOutcome, Pages};
use crate::memory::parts::Piece;
use crate::memory::residency::in_batches;
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, MemoryPolicy, NodeSet, PnodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A transparent huge page moves when one of its pages is named.
const HUGE: usize = 2 << 20;
/// Calls for the same pages, each shorter by those up to a page in use.
const ROUNDS: usize = 64;
/// Before each more try of pages in use.
const PAUSES_MS: [u64; 5] = [1, 4, 16, 64, 128];

/// Where pages go, and how they lie there.
struct Job<'a> {
    to: &'a NodeSet,
    policy: MemoryPolicy,
}

/// Moves what of a range is elsewhere. What a failed call has moved before it failed counts.
pub fn move_chunk<P: Pages>(
    region: &P,
    chunk: &Piece,
    policy: MemoryPolicy,
    outcome: &mut MoveOutcome,
) -> Result<(), HostError> {
    let job = &Job { to: &chunk.on, policy };
    let offsets: Vec<usize> = chunk.range.clone().step_by(region.page()).collect();
    let away = of_those_away(region, &offsets, job.to)?;
    if away.is_empty() {
        return Ok(());
    }
    let sent = send_blocks(region, &away, job).and_then(|refused| send_again(region, refused, job));
    let refused = match &sent {
        Ok(refused) => refused.clone(),
        Err(_) => BTreeMap::new(),
    };
    let page = Bytes(region.page() as u64);
    let only = job.to.first().filter(|_| job.to.len() == 1);
    if let (true, Ok(_), Some(only)) = (refused.is_empty(), &sent, only) {
        // The kernel has told of each page that it is there, or gone.
        let bytes = Bytes(away.len() as u64 * page.get());
        add(&mut outcome.moved, bytes);
        add(outcome.moved_to.entry(only).or_default(), bytes);
        return Ok(());
    }
    let status = match (region.locate(&away), &sent) {
        (Ok(status), _) => status,
        // Nothing to count by; the measurement at the end may still tell.
        (Err(_), Err(_)) => return sent.map(drop),
        (Err(error), Ok(_)) => return Err(error),
    };
    for (offset, status) in away.iter().zip(status) {
        if is_away(&status, job.to) {
            let errno = refused.get(offset).copied().unwrap_or(libc::EAGAIN);
            add(outcome.left.entry(errno).or_default(), page);
            continue;
        }
        add(&mut outcome.moved, page);
        if let PageStatus::On(pnode) = status {
            add(outcome.moved_to.entry(pnode).or_default(), page);
        }
    }
    sent.map(drop)
}

fn add(sum: &mut Bytes, bytes: Bytes) {
    *sum = sum.saturating_add(bytes);
}

/// What lies outside of where it should, by pnode; what was found so far once `abandoned` is set.
pub fn elsewhere<P: Pages>(
    regions: &[&P],
    pieces: &[Piece],
    abandoned: &AtomicBool,
) -> Result<BTreeMap<PnodeId, Bytes>, HostError> {
    let mut found: BTreeMap<PnodeId, Bytes> = BTreeMap::new();
    for Piece { region, range, on } in pieces {
        let region = regions[*region];
        let page = Bytes(region.page() as u64);
        let whole = in_batches(region, range.clone(), &|| !abandoned.load(Ordering::Relaxed), |status| {
            for status in status {
                if let PageStatus::On(pnode) = status
                    && !on.contains(*pnode)
                {
                    add(found.entry(*pnode).or_default(), page);
                }
            }
        })?;
        if !whole {
            break;
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
    job: &Job<'_>,
) -> Result<BTreeMap<usize, i32>, HostError> {
    if !region.in_blocks() {
        return send(region, away, region.page(), job);
    }
    let mut heads = away.to_vec();
    heads.dedup_by_key(|offset| *offset / HUGE);
    let held = send(region, &heads, HUGE.max(region.page()), job)?;
    let held: BTreeSet<usize> = held.keys().map(|offset| offset / HUGE).collect();
    let mut small = of_those_away(region, away, job.to)?;
    // A huge page that is in use is in the way once for each of its pages: those last.
    small.sort_by_key(|offset| held.contains(&(offset / HUGE)));
    send(region, &small, region.page(), job)
}

/// Sends pages that were in use some more times: a vCPU that writes to a page is in the way of its move for a moment, a
/// device for as long as a request takes.
fn send_again<P: Pages>(
    region: &P,
    mut refused: BTreeMap<usize, i32>,
    job: &Job<'_>,
) -> Result<BTreeMap<usize, i32>, HostError> {
    for pause in PAUSES_MS {
        let busy: Vec<usize> =
            refused.iter().filter(|(_, errno)| **errno == libc::EBUSY).map(|(at, _)| *at).collect();
        if busy.is_empty() {
            break;
        }
        refused.retain(|_, errno| *errno != libc::EBUSY);
        std::thread::sleep(Duration::from_millis(pause));
        let away = of_those_away(region, &busy, job.to)?;
        refused.extend(send_blocks(region, &away, job)?);
    }
    Ok(refused)
}

/// Sends pages to the first pnode with room, interleaved ones to each in turn by the unit that they move in. Gives the
/// errno of those that stayed, or were sent together with one that stayed.
fn send<P: Pages>(
    region: &P,
    offsets: &[usize],
    unit: usize,
    job: &Job<'_>,
) -> Result<BTreeMap<usize, i32>, HostError> {
    let pnodes: Vec<PnodeId> = job.to.iter().collect();
    let mut waiting = offsets.to_vec();
    let mut refused = BTreeMap::new();
    for attempt in 0..pnodes.len() {
        // Those for one pnode together: the kernel takes them in one go.
        let mut shares: BTreeMap<PnodeId, Vec<usize>> = BTreeMap::new();
        for offset in waiting {
            let pnode = match job.policy {
                MemoryPolicy::Interleave => pnodes[(offset / unit + attempt) % pnodes.len()],
                MemoryPolicy::Bind | MemoryPolicy::Preferred => pnodes[attempt],
            };
            shares.entry(pnode).or_default().push(offset);
        }
        for (pnode, share) in shares {
            send_to(region, share, pnode, job.to, &mut refused)?;
        }
        // Only a full node is a reason to try the next one, and not for those that were moved before it was full.
        let full = refused.iter().filter(|(_, errno)| **errno == libc::ENOMEM);
        let full: Vec<usize> = full.map(|(offset, _)| *offset).collect();
        waiting = if full.is_empty() { full } else { of_those_away(region, &full, job.to)? };
    }
    Ok(refused)
}

/// Sends pages to one pnode, again and again while a page in use keeps the kernel from looking at those behind it.
fn send_to<P: Pages>(
    region: &P,
    mut waiting: Vec<usize>,
    pnode: PnodeId,
    home: &NodeSet,
    refused: &mut BTreeMap<usize, i32>,
) -> Result<(), HostError> {
    for round in 0..ROUNDS {
        if waiting.is_empty() {
            break;
        }
        let status = region.relocate(&waiting, &vec![pnode; waiting.len()])?;
        let mut behind = Vec::new();
        for (offset, status) in waiting.into_iter().zip(&status) {
            match status {
                PageStatus::Unknown(libc::EINPROGRESS) if round + 1 < ROUNDS => behind.push(offset),
                PageStatus::Unknown(libc::EINPROGRESS) => drop(refused.insert(offset, libc::EBUSY)),
                PageStatus::Unknown(errno) => drop(refused.insert(offset, *errno)),
                PageStatus::On(_) if is_away(status, home) => drop(refused.insert(offset, libc::EAGAIN)),
                PageStatus::On(_) | PageStatus::Absent => drop(refused.remove(&offset)),
            }
        }
        waiting = behind;
    }
    Ok(())
}
