//! Long work on a running VM: started by the control loop, done in a thread of its own, watched and cancelled by
//! anybody.

use crate::memory::{GuestRam, MemoryMove, MigrationMode, MoveOutcome, MoveProgress, Moved, move_memory};
use crate::sys::HostError;
use resources::{Bytes, PnodeId, VnodeId, VnodePlacement};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Ended jobs that are remembered.
const REMEMBERED: usize = 64;

/// The number of a job, from 1 on, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A job as others see it.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// The vnode that moves.
    pub vnode: VnodeId,
    /// Where it was and where it goes.
    pub from: VnodePlacement,
    /// Where it goes.
    pub to: VnodePlacement,
    /// Bytes looked at, of how many.
    pub seen: Bytes,
    /// Bytes of the vnode.
    pub total: Bytes,
    /// Bytes moved.
    pub moved: Bytes,
    /// Its state.
    pub state: JobState,
    /// How long it has been running, or ran.
    pub elapsed: std::time::Duration,
}

/// How a job stands.
#[derive(Debug, Clone)]
pub enum JobState {
    /// Going on.
    Running,
    /// Every page was looked at.
    Done(MoveOutcome),
    /// Ended by request; what was moved is there, the rest is where it was.
    Cancelled(MoveOutcome),
    /// The host refused part way; where that leaves it.
    Failed(Arc<HostError>, MoveOutcome),
}

/// What moves of a vnode have done since the VM started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MoveCounts {
    /// Bytes that were moved.
    pub moved: Bytes,
    /// Bytes that the kernel would not move, each time that it was asked.
    pub left: Bytes,
    /// Moves that reached their end.
    pub done: u64,
    /// Moves that were cancelled.
    pub cancelled: u64,
    /// Moves that the host refused part way.
    pub failed: u64,
    /// Bytes that came to each pnode, and bytes that a move found on it at its end though they should not be there.
    pub by_pnode: BTreeMap<PnodeId, (Bytes, Bytes)>,
}

/// A vnode that moves: what is done, and its places before and after.
pub(crate) struct Planned {
    pub job: MemoryMove,
    pub from: VnodePlacement,
    pub to: VnodePlacement,
}

/// How a vnode's move ended.
pub(crate) struct Ended {
    pub id: JobId,
    pub from: VnodePlacement,
    pub to: VnodePlacement,
    pub moved: Moved,
}

struct Job {
    vnode: VnodeId,
    from: VnodePlacement,
    to: VnodePlacement,
    progress: Arc<MoveProgress>,
    started: Instant,
    ended: Option<Instant>,
    state: JobState,
}

/// All jobs of a VM. Shared; the control loop alone starts and ends them.
#[derive(Default)]
pub struct Jobs {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    last: u64,
    jobs: BTreeMap<JobId, Job>,
    counts: BTreeMap<VnodeId, MoveCounts>,
}

impl Jobs {
    /// All that are remembered, oldest first.
    pub fn views(&self) -> Vec<JobView> {
        self.with(|list| list.jobs.iter().map(|(id, job)| job.view(*id)).collect())
    }

    /// One of them.
    pub fn view(&self, id: JobId) -> Option<JobView> {
        self.with(|list| list.jobs.get(&id).map(|job| job.view(id)))
    }

    /// Asks a job to end; false when it is not running.
    pub fn cancel(&self, id: JobId) -> bool {
        self.with(|list| {
            let running = list.jobs.get(&id).filter(|job| matches!(job.state, JobState::Running));
            running.inspect(|job| job.progress.cancel.store(true, Ordering::Relaxed)).is_some()
        })
    }

    /// Ends all jobs, as the VM does; none of them measures any more.
    pub(crate) fn abandon_all(&self) {
        self.with(|list| {
            for job in list.jobs.values() {
                job.progress.abandoned.store(true, Ordering::Relaxed);
                job.progress.cancel.store(true, Ordering::Relaxed);
            }
        });
    }

    /// The running job that moves `vnode`.
    pub(crate) fn moving(&self, vnode: VnodeId) -> Option<JobId> {
        let running = |job: &Job| job.vnode == vnode && matches!(job.state, JobState::Running);
        self.with(|list| list.jobs.iter().find(|(_, job)| running(job)).map(|(id, _)| *id))
    }

    /// What moves of a vnode have done so far.
    pub fn counts(&self, vnode: VnodeId) -> MoveCounts {
        self.with(|list| list.counts.get(&vnode).cloned().unwrap_or_default())
    }

    /// Starts moves of vnodes that go together, and are cancelled together; gives the first of their numbers, which
    /// follow each other. `ended` is called in the jobs' thread.
    pub(crate) fn start_moves(
        &self,
        ram: Arc<GuestRam>,
        moves: Vec<Planned>,
        mode: MigrationMode,
        bandwidth: Option<Bytes>,
        ended: impl FnOnce(Vec<Ended>) + Send + 'static,
    ) -> Result<(JobId, std::thread::JoinHandle<()>), HostError> {
        let cancel = Arc::default();
        let progress: Vec<Arc<MoveProgress>> = moves
            .iter()
            .map(|_| Arc::new(MoveProgress { cancel: Arc::clone(&cancel), ..MoveProgress::default() }))
            .collect();
        // In the list before the thread runs, so that its end finds them.
        let ids: Vec<JobId> = self.with(|list| {
            let add = |(planned, progress): (&Planned, &Arc<MoveProgress>)| list.add(planned, progress);
            moves.iter().zip(&progress).map(add).collect()
        });
        let first = ids.first().copied().unwrap_or(JobId(0));
        let cpus = moves.first().map(|planned| planned.to.cpus.clone()).unwrap_or_default();
        let name = moves.first().map(|planned| planned.job.vnode.to_string()).unwrap_or_default();
        let numbers = ids.clone();
        let body = move || {
            // The copy is done by this thread: on the CPUs next to where the pages go.
            if let Err(error) = crate::sys::pin_this_thread(&cpus) {
                tracing::info!(%error, "cannot pin move thread");
            }
            let jobs: Vec<MemoryMove> = moves.iter().map(|planned| planned.job.clone()).collect();
            let moved = move_memory(&ram, &jobs, mode, bandwidth, &progress);
            drop(ram);
            let each = numbers.into_iter().zip(moves).zip(moved);
            ended(
                each.map(|((id, Planned { from, to, .. }), moved)| Ended { id, from, to, moved }).collect(),
            );
        };
        match std::thread::Builder::new().name(format!("move-v{name}")).spawn(body) {
            Ok(thread) => Ok((first, thread)),
            Err(error) => {
                self.with(|list| ids.iter().for_each(|id| drop(list.jobs.remove(id))));
                Err(HostError::new("clone", error).of(format!("move of vnode {name}")))
            }
        }
    }

    /// Notes how a job ended.
    pub(crate) fn end(&self, id: JobId, (outcome, error): Moved) {
        self.with(|list| {
            let Some(job) = list.jobs.get_mut(&id) else { return };
            job.ended = Some(Instant::now());
            let counts = list.counts.entry(job.vnode).or_default();
            counts.moved = counts.moved.saturating_add(outcome.moved);
            counts.left = counts.left.saturating_add(outcome.left_behind());
            for (pnode, bytes) in &outcome.moved_to {
                let (came, _) = counts.by_pnode.entry(*pnode).or_default();
                *came = came.saturating_add(*bytes);
            }
            for (pnode, bytes) in &outcome.elsewhere {
                let (_, stayed) = counts.by_pnode.entry(*pnode).or_default();
                *stayed = stayed.saturating_add(*bytes);
            }
            let (count, state) = match error {
                Some(error) => (&mut counts.failed, JobState::Failed(Arc::new(error), outcome)),
                None if outcome.cancelled => (&mut counts.cancelled, JobState::Cancelled(outcome)),
                None => (&mut counts.done, JobState::Done(outcome)),
            };
            *count += 1;
            job.state = state;
            list.forget_oldest();
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut List) -> T) -> T {
        act(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl List {
    fn add(&mut self, planned: &Planned, progress: &Arc<MoveProgress>) -> JobId {
        self.last += 1;
        let id = JobId(self.last);
        let job = Job {
            vnode: planned.job.vnode,
            from: planned.from.clone(),
            to: planned.to.clone(),
            progress: Arc::clone(progress),
            started: Instant::now(),
            ended: None,
            state: JobState::Running,
        };
        self.jobs.insert(id, job);
        id
    }

    fn forget_oldest(&mut self) {
        let ended: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.ended.is_some()).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(REMEMBERED)) {
            self.jobs.remove(id);
        }
    }
}

impl Job {
    fn view(&self, id: JobId) -> JobView {
        let read = |counter: &std::sync::atomic::AtomicU64| Bytes(counter.load(Ordering::Relaxed));
        JobView {
            id,
            vnode: self.vnode,
            from: self.from.clone(),
            to: self.to.clone(),
            seen: read(&self.progress.seen),
            total: read(&self.progress.total),
            moved: read(&self.progress.moved),
            state: self.state.clone(),
            elapsed: self.ended.unwrap_or_else(Instant::now).duration_since(self.started),
        }
    }
}
