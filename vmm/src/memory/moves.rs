//! Moves a vnode's memory to other pnodes while the guest runs: policy first, so that new pages come from there, then
//! page by page in chunks. What it did is asked from the kernel, page for page.

use super::policy::kernel_policy;
use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, PageStatus};
use resources::{Bytes, MemoryPolicy, NodeSet, PnodeId, VnodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Memory looked at between two looks at cancel and bandwidth.
const CHUNK: usize = 64 << 20;
/// A transparent huge page moves when one of its pages is named.
const HUGE: usize = 2 << 20;
/// Longest sleep for the bandwidth limit between two looks at cancel.
const NAP: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMove {
    /// Whose memory.
    pub vnode: VnodeId,
    /// Where to.
    pub to: NodeSet,
    /// Under which policy from now on.
    pub policy: MemoryPolicy,
    /// Bytes per second, if limited.
    pub bandwidth: Option<Bytes>,
}

/// How far it is; written by the mover, read by anybody.
#[derive(Debug, Default)]
pub struct MoveProgress {
    /// Bytes looked at.
    pub seen: AtomicU64,
    /// Bytes of the vnode.
    pub total: AtomicU64,
    /// Bytes that were moved.
    pub moved: AtomicU64,
    /// Set by who wants it to end.
    pub cancel: AtomicBool,
}

/// What it did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MoveOutcome {
    /// Bytes that were elsewhere and are there now.
    pub moved: Bytes,
    /// Bytes that are elsewhere still, by errno: 16 (EBUSY) for pages in use by the kernel, 12 (ENOMEM) for a full node.
    pub left: BTreeMap<i32, Bytes>,
    /// It was cancelled before the end.
    pub cancelled: bool,
}

impl MoveOutcome {
    /// Bytes that are elsewhere still.
    pub fn left_behind(&self) -> Bytes {
        self.left.values().fold(Bytes::ZERO, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// Changes the policy and moves the pages. An error leaves what was moved where it is now; policy and pages can then be
/// moved on, or back.
pub fn move_memory(
    ram: &GuestRam,
    job: &MemoryMove,
    progress: &MoveProgress,
) -> Result<MoveOutcome, HostError> {
    let total = ram.of(job.vnode).map(|region| region.mapping.size() as u64).sum();
    progress.total.store(total, Ordering::Relaxed);
    let subject = format!("vnode {}", job.vnode);
    let invalid = || HostError::new("mbind", std::io::Error::from_raw_os_error(libc::EINVAL));
    let (mode, mask) = kernel_policy(job.policy, &job.to).ok_or_else(invalid)?;
    for region in ram.of(job.vnode) {
        region.mapping.set_policy(mode, &mask).map_err(|error| error.of(&subject).on(&job.to))?;
    }
    let mut outcome = MoveOutcome::default();
    let started = Instant::now();
    for region in ram.of(job.vnode) {
        let chunk = CHUNK.max(region.page());
        for start in (0..region.mapping.size()).step_by(chunk) {
            if progress.cancel.load(Ordering::Relaxed) {
                outcome.cancelled = true;
                return Ok(outcome);
            }
            let end = (start + chunk).min(region.mapping.size());
            move_chunk(region, start..end, job, &mut outcome)
                .map_err(|error| error.of(&subject).on(&job.to))?;
            progress.seen.fetch_add((end - start) as u64, Ordering::Relaxed);
            progress.moved.store(outcome.moved.get(), Ordering::Relaxed);
            keep_to_bandwidth(job.bandwidth, outcome.moved, started, &progress.cancel);
        }
    }
    Ok(outcome)
}

fn move_chunk(
    region: &RamRegion,
    range: std::ops::Range<usize>,
    job: &MemoryMove,
    outcome: &mut MoveOutcome,
) -> Result<(), HostError> {
    let offsets: Vec<usize> = range.step_by(region.page()).collect();
    let elsewhere = |status: &PageStatus| matches!(status, PageStatus::On(pnode) if !job.to.contains(*pnode));
    let status = region.mapping.locate(&offsets)?;
    let away: Vec<usize> =
        offsets.iter().zip(&status).filter(|(_, s)| elsewhere(s)).map(|(offset, _)| *offset).collect();
    if away.is_empty() {
        return Ok(());
    }
    // One page of each block first: where that is a huge page, all of it has moved.
    let mut heads = away.clone();
    heads.dedup_by_key(|offset| *offset / HUGE);
    send(region, &heads, job)?;
    let status = region.mapping.locate(&away)?;
    let small: Vec<usize> =
        away.iter().zip(&status).filter(|(_, s)| elsewhere(s)).map(|(offset, _)| *offset).collect();
    let refused = send(region, &small, job)?;
    let page = Bytes(region.page() as u64);
    for (offset, status) in away.iter().zip(region.mapping.locate(&away)?) {
        let bytes = if elsewhere(&status) {
            outcome.left.entry(refused.get(offset).copied().unwrap_or(libc::EAGAIN)).or_default()
        } else {
            &mut outcome.moved
        };
        *bytes = bytes.saturating_add(page);
    }
    Ok(())
}

/// Sends pages to the first pnode with room, interleaved ones to each in turn. Gives the errno of those that stayed.
fn send(region: &RamRegion, offsets: &[usize], job: &MemoryMove) -> Result<BTreeMap<usize, i32>, HostError> {
    let pnodes: Vec<PnodeId> = job.to.iter().collect();
    let mut waiting = offsets.to_vec();
    let mut refused = BTreeMap::new();
    for attempt in 0..pnodes.len() {
        if waiting.is_empty() {
            break;
        }
        let target = |offset: usize| match job.policy {
            MemoryPolicy::Interleave => pnodes[(offset / region.page() + attempt) % pnodes.len()],
            MemoryPolicy::Bind | MemoryPolicy::Preferred => pnodes[attempt],
        };
        let nodes: Vec<PnodeId> = waiting.iter().map(|offset| target(*offset)).collect();
        let status = region.mapping.relocate(&waiting, &nodes)?;
        refused.clear();
        for (offset, status) in waiting.iter().zip(&status) {
            if let PageStatus::Unknown(errno) = status {
                refused.insert(*offset, *errno);
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

fn keep_to_bandwidth(limit: Option<Bytes>, moved: Bytes, started: Instant, cancel: &AtomicBool) {
    let Some(limit) = limit.filter(|limit| *limit > Bytes::ZERO) else {
        return;
    };
    let micros = u128::from(moved.get()) * 1_000_000 / u128::from(limit.get());
    let due = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    while let Some(left) = due.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        if cancel.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(left.min(NAP));
    }
}
