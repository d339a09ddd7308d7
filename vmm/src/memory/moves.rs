//! Moves the memory of vnodes to other pnodes while the guest runs: policy first, so that new pages come from there,
//! then page by page in chunks. What it did is asked from the kernel, page for page. Vnodes that change places go
//! chunk by chunk in turn, for each needs the room that the other leaves.

mod pages;
#[cfg(test)]
mod tests;

use super::parts::{Piece, pieces};
use super::policy::kernel_policy;
use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, Mode, NodeMask, PageStatus};
use crate::transaction::all_or_none;
use pages::{elsewhere, move_chunk};
use resources::{Bytes, MemoryPart, MemoryPolicy, NodeSet, PageSize, PnodeId, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Memory looked at between two looks at cancel and bandwidth.
const CHUNK: usize = 64 << 20;
/// Longest sleep for the bandwidth limit between two looks at cancel.
const NAP: Duration = Duration::from_millis(50);

/// What is asked for one vnode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMove {
    /// Whose memory.
    pub vnode: VnodeId,
    /// The pnodes that its policy names now.
    pub from: NodeSet,
    /// Where to.
    pub to: NodeSet,
    /// Its policy, before and after.
    pub policy: MemoryPolicy,
    /// How much of it is to lie on each of `from`, if it was bound to several.
    pub parts_from: Vec<MemoryPart>,
    /// The same of `to`.
    pub parts_to: Vec<MemoryPart>,
}

impl MemoryMove {
    /// From one place of a vnode to another.
    pub fn between(from: &VnodePlacement, to: &VnodePlacement, policy: MemoryPolicy) -> Self {
        Self {
            vnode: to.vnode,
            from: from.pnodes.clone(),
            to: to.pnodes.clone(),
            policy,
            parts_from: from.parts.clone(),
            parts_to: to.parts.clone(),
        }
    }
}

/// In which order the pages of several vnodes are migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationMode {
    /// One after the other.
    Sequential,
    /// Into each other's places: chunk by chunk, as long as there is room.
    Exchange,
}

/// How far one vnode is; written by the mover, read by anybody.
#[derive(Debug, Default)]
pub struct MoveProgress {
    /// Bytes looked at.
    pub seen: AtomicU64,
    /// Bytes of the vnode.
    pub total: AtomicU64,
    /// Bytes that were moved.
    pub moved: AtomicU64,
    /// Set by who wants it to end; vnodes that move together have one.
    pub cancel: Arc<AtomicBool>,
    /// Set, with `cancel`, when the VM ends: where its memory lies is not measured then.
    pub abandoned: AtomicBool,
}

/// What it did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MoveOutcome {
    /// Bytes that were elsewhere and are there now.
    pub moved: Bytes,
    /// Of these, those found on each pnode. What the guest let go meanwhile is on none.
    pub moved_to: BTreeMap<PnodeId, Bytes>,
    /// Bytes that are elsewhere still, by errno: 16 (EBUSY) for pages in use by the kernel, 12 (ENOMEM) for a full node.
    pub left: BTreeMap<i32, Bytes>,
    /// It was cancelled before the end.
    pub cancelled: bool,
    /// The pnodes that the policy names now.
    pub policy_on: NodeSet,
    /// How much of it is to lie on each of these, if it is bound to several.
    pub parts: Vec<MemoryPart>,
    /// What lies outside of these at the end, measured; not if the VM ended meanwhile.
    pub elsewhere: BTreeMap<PnodeId, Bytes>,
}

impl MoveOutcome {
    /// Bytes that are elsewhere still.
    pub fn left_behind(&self) -> Bytes {
        self.left.values().fold(Bytes::ZERO, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// What became of one vnode, and the call that failed, if one did.
pub type Moved = (MoveOutcome, Option<HostError>);

/// What the host does for a move; pages are named by their offsets.
pub trait Pages {
    /// Length in bytes.
    fn size(&self) -> usize;
    /// The unit in which pages can be asked for and moved.
    fn page(&self) -> usize;
    /// Whether several of these may be one huge page, which moves as a whole.
    fn in_blocks(&self) -> bool;
    /// Sets where pages of a range may lie from now on.
    fn set_policy(&self, range: Range<usize>, mode: Mode, nodes: &NodeMask) -> Result<(), HostError>;
    /// The nodes that the policy at `offset` names; `None` if the kernel does not tell.
    fn policy_nodes(&self, offset: usize) -> Option<NodeSet>;
    /// Where pages lie.
    fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError>;
    /// Moves the page at each offset to the node beside it.
    fn relocate(&self, offsets: &[usize], nodes: &[PnodeId]) -> Result<Vec<PageStatus>, HostError>;
}

impl Pages for RamRegion {
    fn size(&self) -> usize {
        self.mapping.size()
    }

    fn page(&self) -> usize {
        RamRegion::page(self)
    }

    fn in_blocks(&self) -> bool {
        self.pages == PageSize::Thp
    }

    fn set_policy(&self, range: Range<usize>, mode: Mode, nodes: &NodeMask) -> Result<(), HostError> {
        self.mapping.set_policy(range, mode, nodes)
    }

    fn policy_nodes(&self, offset: usize) -> Option<NodeSet> {
        self.mapping.policy_nodes(offset)
    }

    fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
        self.mapping.locate(offsets)
    }

    fn relocate(&self, offsets: &[usize], nodes: &[PnodeId]) -> Result<Vec<PageStatus>, HostError> {
        self.mapping.relocate(offsets, nodes)
    }
}

/// Changes policies and moves pages of vnodes that move together. An error ends all of them and leaves what was moved
/// where it is; each outcome says what its policy is now and what lies elsewhere, so that all can be moved on, or back.
pub fn move_memory(
    ram: &GuestRam,
    jobs: &[MemoryMove],
    mode: MigrationMode,
    bandwidth: Option<Bytes>,
    progress: &[Arc<MoveProgress>],
) -> Vec<Moved> {
    let regions = jobs.iter().map(|job| ram.of(job.vnode).collect()).collect();
    move_regions(regions, jobs, mode, bandwidth, progress)
}

/// The same for the regions of each vnode, wherever these are.
pub fn move_regions<P: Pages>(
    regions: Vec<Vec<&P>>,
    jobs: &[MemoryMove],
    mode: MigrationMode,
    bandwidth: Option<Bytes>,
    progress: &[Arc<MoveProgress>],
) -> Vec<Moved> {
    let parts = regions.into_iter().zip(jobs).zip(progress);
    let movers = parts.map(|((regions, job), progress)| Mover::new(regions, job, progress));
    Group { movers: movers.collect(), mode, bandwidth, started: Instant::now() }.run()
}

/// One vnode under way.
struct Mover<'a, P> {
    regions: Vec<&'a P>,
    job: &'a MemoryMove,
    progress: &'a MoveProgress,
    outcome: MoveOutcome,
    error: Option<HostError>,
}

struct Group<'a, P> {
    movers: Vec<Mover<'a, P>>,
    mode: MigrationMode,
    bandwidth: Option<Bytes>,
    started: Instant,
}

/// Why a group does not go on.
enum Stop {
    Cancelled,
    Failed,
}

impl<P: Pages> Group<'_, P> {
    fn run(mut self) -> Vec<Moved> {
        let stopped = match self.begin() {
            false => Err(Stop::Failed),
            true => match self.mode {
                MigrationMode::Sequential => (0..self.movers.len()).try_for_each(|at| self.pass(at..at + 1)),
                MigrationMode::Exchange => self.exchange(),
            },
        };
        let cancelled = stopped.is_err();
        for mover in &mut self.movers {
            mover.end(self.mode, cancelled);
        }
        self.movers.into_iter().map(|mover| (mover.outcome, mover.error)).collect()
    }

    /// Sets all policies or none.
    fn begin(&mut self) -> bool {
        let mode = self.mode;
        let all = 0..self.movers.len();
        let set_out = |movers: &mut [Mover<'_, P>], at: &usize| {
            let mover = &mut movers[*at];
            mover.set_out(mode).map_err(|error| mover.error = Some(error))
        };
        all_or_none(&mut self.movers[..], all, set_out, |movers, at| movers[*at].turn_back()).is_ok()
    }

    /// Again and again, as long as something fits into the room that became free.
    fn exchange(&mut self) -> Result<(), Stop> {
        loop {
            let before = self.moved();
            self.movers.iter_mut().for_each(|mover| mover.outcome.left.clear());
            self.pass(0..self.movers.len())?;
            let full = self.movers.iter().any(|mover| mover.outcome.left.contains_key(&libc::ENOMEM));
            if !full || self.moved() == before {
                return Ok(());
            }
        }
    }

    /// Every chunk of some vnodes once, in turn.
    fn pass(&mut self, which: Range<usize>) -> Result<(), Stop> {
        let chunks: Vec<Vec<Piece>> = self.movers[which.clone()].iter().map(Mover::chunks).collect();
        let longest = chunks.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..longest {
            for (mover, chunks) in self.movers[which.clone()].iter_mut().zip(&chunks) {
                let Some(chunk) = chunks.get(step) else { continue };
                if mover.progress.cancel.load(Ordering::Relaxed) {
                    return Err(Stop::Cancelled);
                }
                mover.go(chunk)?;
            }
            if let Some(mover) = self.movers.first() {
                keep_to_bandwidth(self.bandwidth, self.moved(), self.started, &mover.progress.cancel);
            }
        }
        Ok(())
    }

    fn moved(&self) -> Bytes {
        self.movers.iter().fold(Bytes::ZERO, |sum, mover| sum.saturating_add(mover.outcome.moved))
    }
}

impl<'a, P: Pages> Mover<'a, P> {
    fn new(regions: Vec<&'a P>, job: &'a MemoryMove, progress: &'a MoveProgress) -> Self {
        let total = regions.iter().map(|region| region.size() as u64).sum();
        progress.total.store(total, Ordering::Relaxed);
        let outcome = MoveOutcome {
            policy_on: job.from.clone(),
            parts: job.parts_from.clone(),
            ..MoveOutcome::default()
        };
        Self { regions, job, progress, outcome, error: None }
    }

    /// What is to lie on which of `on`: of a bound vnode, part by part.
    fn pieces(&self, policy: MemoryPolicy, on: &NodeSet, parts: &[MemoryPart]) -> Vec<Piece> {
        pieces(self.regions.iter().map(|region| region.size()), policy, on, parts)
    }

    fn chunks(&self) -> Vec<Piece> {
        let of = |piece: Piece| {
            let chunk = CHUNK.max(self.regions[piece.region].page());
            let Piece { region, range: Range { start, end }, on } = piece;
            let ranges = (start..end).step_by(chunk).map(move |start| start..(start + chunk).min(end));
            ranges.map(move |range| Piece { region, range, on: on.clone() }).collect::<Vec<_>>()
        };
        let MemoryMove { to, parts_to, policy, .. } = self.job;
        self.pieces(*policy, to, parts_to).into_iter().flat_map(of).collect()
    }

    fn told(&self, error: HostError, on: &NodeSet) -> HostError {
        error.of(format!("vnode {}", self.job.vnode)).on(on)
    }

    /// New pages come from the new pnodes from now on. While vnodes change places their pnodes may both be full: then a
    /// bound vnode only prefers the new one, for the guest must find memory for what it touches.
    fn set_out(&mut self, mode: MigrationMode) -> Result<(), HostError> {
        let first = self.job.to.first().map(NodeSet::one).unwrap_or_default();
        let (policy, on) = match (mode, self.job.policy) {
            (MigrationMode::Exchange, MemoryPolicy::Bind) => (MemoryPolicy::Preferred, &first),
            (_, policy) => (policy, &self.job.to),
        };
        self.set_policy(policy, on, &self.job.parts_to)?;
        self.now_on(self.job.to.clone(), &self.job.parts_to);
        Ok(())
    }

    /// The policy of before. If that cannot be set either, the one that is there stays, and is told.
    fn turn_back(&mut self) {
        match self.set_policy(self.job.policy, &self.job.from, &self.job.parts_from) {
            Ok(()) => self.now_on(self.job.from.clone(), &self.job.parts_from),
            Err(error) => {
                tracing::error!(%error, "cannot restore the previous memory policy");
                self.read_back();
            }
        }
    }

    /// A policy could not be set on all of the vnode: the kernel says which pnodes those that are there name.
    fn read_back(&mut self) {
        let MemoryMove { from, to, parts_from, parts_to, policy, .. } = self.job;
        let (before, after) = (self.pieces(*policy, from, parts_from), self.pieces(*policy, to, parts_to));
        let starts = before.iter().chain(&after).map(|piece| (piece.region, piece.range.start));
        let named = starts.map(|(region, at)| Some((region, at, self.regions[region].policy_nodes(at)?)));
        let named: Option<Vec<(usize, usize, NodeSet)>> = named.collect();
        let are = |pieces: &[Piece]| {
            let is_in = |piece: &Piece, (region, at, on): &(usize, usize, NodeSet)| {
                piece.region == *region && piece.range.contains(at) && piece.on == *on
            };
            let mut named = named.iter().flatten();
            named.all(|named| pieces.iter().any(|piece| is_in(piece, named)))
        };
        match &named {
            Some(_) if are(&before) => self.now_on(from.clone(), parts_from),
            Some(_) if are(&after) => self.now_on(to.clone(), parts_to),
            Some(named) => self.now_on(named.iter().flat_map(|(_, _, on)| on.iter()).collect(), &[]),
            None => self.now_on(from.union(to), &[]),
        }
    }

    /// The policy is set.
    fn now_on(&mut self, on: NodeSet, parts: &[MemoryPart]) {
        (self.outcome.policy_on, self.outcome.parts) = (on, parts.to_vec());
    }

    fn set_policy(&self, policy: MemoryPolicy, on: &NodeSet, parts: &[MemoryPart]) -> Result<(), HostError> {
        let invalid = || HostError::new("mbind", std::io::Error::from_raw_os_error(libc::EINVAL));
        for Piece { region, range, on } in self.pieces(policy, on, parts) {
            let (mode, mask) = kernel_policy(policy, &on).ok_or_else(|| self.told(invalid(), &on))?;
            self.regions[region].set_policy(range, mode, &mask).map_err(|error| self.told(error, &on))?;
        }
        Ok(())
    }

    fn go(&mut self, chunk: &Piece) -> Result<(), Stop> {
        let length = chunk.range.len() as u64;
        let result = move_chunk(self.regions[chunk.region], chunk, self.job.policy, &mut self.outcome);
        self.progress.moved.store(self.outcome.moved.get(), Ordering::Relaxed);
        match result {
            Ok(()) => {
                let (seen, total) = (&self.progress.seen, self.progress.total.load(Ordering::Relaxed));
                seen.store((seen.load(Ordering::Relaxed) + length).min(total), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.error = Some(self.told(error, &self.job.to));
                Err(Stop::Failed)
            }
        }
    }

    /// The policy that stays, and what lies outside of it.
    fn end(&mut self, mode: MigrationMode, stopped: bool) {
        let MemoryMove { from, to, parts_to, policy, .. } = self.job;
        let there = self.outcome.policy_on == *to && self.outcome.parts == *parts_to;
        let full = self.outcome.left.contains_key(&libc::ENOMEM);
        if mode == MigrationMode::Exchange && there && *policy == MemoryPolicy::Bind {
            // Half-way it is bound to both sides: on one of them alone the guest might find no memory.
            let (on, parts) =
                if stopped || full { (from.union(to), &[][..]) } else { (to.clone(), parts_to.as_slice()) };
            match self.set_policy(MemoryPolicy::Bind, &on, parts) {
                Ok(()) => self.now_on(on, parts),
                Err(error) => {
                    self.error = self.error.take().or(Some(error));
                    self.read_back();
                }
            }
        }
        self.outcome.cancelled = stopped && self.error.is_none();
        let pieces = self.pieces(*policy, &self.outcome.policy_on, &self.outcome.parts);
        let measured = elsewhere(&self.regions, &pieces, &self.progress.abandoned);
        match measured {
            Ok(elsewhere) => self.outcome.elsewhere = elsewhere,
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
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
