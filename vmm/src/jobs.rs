//! Long work on a running VM: started by the control loop, done in a thread of its own, watched and cancelled by
//! anybody.

use crate::memory::{GuestRam, MemoryMove, MoveOutcome, MoveProgress, move_memory};
use crate::sys::HostError;
use resources::{Bytes, VnodeId, VnodePlacement};
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
    /// How it stands.
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
    /// The host refused part way.
    Failed(Arc<HostError>),
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

    /// Asks all jobs to end.
    pub(crate) fn cancel_all(&self) {
        self.with(|list| {
            list.jobs.values().for_each(|job| job.progress.cancel.store(true, Ordering::Relaxed))
        });
    }

    /// The running job that moves `vnode`.
    pub(crate) fn moving(&self, vnode: VnodeId) -> Option<JobId> {
        let running = |job: &Job| job.vnode == vnode && matches!(job.state, JobState::Running);
        self.with(|list| list.jobs.iter().find(|(_, job)| running(job)).map(|(id, _)| *id))
    }

    /// Starts a move. `ended` is called in the job's thread.
    pub(crate) fn start_move(
        &self,
        ram: Arc<GuestRam>,
        job: MemoryMove,
        [from, to]: [VnodePlacement; 2],
        ended: impl FnOnce(JobId, Result<MoveOutcome, HostError>) + Send + 'static,
    ) -> Result<(JobId, std::thread::JoinHandle<()>), HostError> {
        let progress = Arc::new(MoveProgress::default());
        let id = self.with(|list| {
            list.last += 1;
            JobId(list.last)
        });
        let (cpus, vnode, mover) = (to.cpus.clone(), job.vnode, Arc::clone(&progress));
        let body = move || {
            // The copy is done by this thread: on the CPUs next to where the pages go.
            if let Err(error) = crate::memory::pin_this_thread(&cpus) {
                tracing::info!(%error, "mover not pinned");
            }
            let result = move_memory(&ram, &job, &mover);
            drop(ram);
            ended(id, result);
        };
        let entry =
            Job { vnode, from, to, progress, started: Instant::now(), ended: None, state: JobState::Running };
        // In the list before the thread runs, so that its end finds it.
        self.with(|list| list.jobs.insert(id, entry));
        match std::thread::Builder::new().name(format!("move-v{vnode}")).spawn(body) {
            Ok(thread) => Ok((id, thread)),
            Err(error) => {
                self.with(|list| list.jobs.remove(&id));
                Err(HostError::new("clone", error).of(format!("move of vnode {vnode}")))
            }
        }
    }

    /// Notes how a job ended; gives what it moved, from where to where.
    pub(crate) fn end(
        &self,
        id: JobId,
        result: Result<MoveOutcome, HostError>,
    ) -> Option<(VnodeId, VnodePlacement, JobState)> {
        self.with(|list| {
            let job = list.jobs.get_mut(&id)?;
            job.ended = Some(Instant::now());
            job.state = match result {
                Ok(outcome) if outcome.cancelled => JobState::Cancelled(outcome),
                Ok(outcome) => JobState::Done(outcome),
                Err(error) => JobState::Failed(Arc::new(error)),
            };
            let ended = (job.vnode, job.to.clone(), job.state.clone());
            list.forget_oldest();
            Some(ended)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut List) -> T) -> T {
        act(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl List {
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
