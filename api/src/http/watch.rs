//! One thread that observes a running VM for all clients: measures residency on request and periodically, and emits
//! events for misplaced memory and the progress of jobs. Measuring is slow work of the kernel, so no other thread
//! does it.

use crate::http::command_queue::CommandQueue;
use crate::http::convert::{self, Sample};
use crate::http::events::EventLog;
use crate::http::wire;
use resources::{Bytes, PnodeId, VnodeId};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vmm::{JobId, JobState, VmHandle};

/// A measurement that is younger is good enough for everybody.
const FRESH: Duration = Duration::from_millis(500);
/// Interval of progress events of jobs and balloons.
const JOB_TICK: Duration = Duration::from_millis(250);
/// Minimum interval of measurements while a client follows events.
const MISPLACED_TICK: Duration = Duration::from_secs(10);
/// The thread sleeps this much longer than it measures, so that it takes 2 % of a CPU at most by itself.
const IDLE_FACTOR: u32 = 50;
/// Timeout for a requested measurement.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a scrape waits for one: a fifth of what Prometheus waits for a scrape.
const SCRAPE: Duration = Duration::from_secs(2);

/// Measurements by vnode.
pub type Samples = Arc<BTreeMap<VnodeId, Sample>>;

#[derive(Default)]
struct Pending {
    /// Measurements that were started.
    started: u64,
    /// A measurement is requested.
    wanted: bool,
    /// Something changed.
    notified: bool,
    stop: bool,
}

/// The handle of the thread.
pub struct Watch {
    pending: Mutex<Pending>,
    wake: Condvar,
    /// The number of the last measurement, and what it gave.
    done: watch::Sender<(u64, Samples)>,
}

impl Watch {
    /// Nothing measured yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: Mutex::default(),
            wake: Condvar::new(),
            done: watch::Sender::new((0, Samples::default())),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM or a job changed.
    pub fn notify(&self) {
        self.lock().notified = true;
        self.wake.notify_all();
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    /// What was measured last, without asking for more.
    pub fn last(&self) -> Samples {
        Arc::clone(&self.done.borrow().1)
    }

    /// The last measurement; starts a new one if that is old. Waits only if there is none
    /// yet, or for a measurement that begins now if `fresh`.
    pub async fn samples(&self, fresh: bool) -> Samples {
        self.samples_within(fresh, TIMEOUT).await
    }

    /// A measurement that begins now, or what is known if it takes longer than a scrape may.
    pub async fn scraped(&self) -> Samples {
        self.samples_within(true, SCRAPE).await
    }

    async fn samples_within(&self, fresh: bool, timeout: Duration) -> Samples {
        let known = self.last();
        let old = known.values().next().is_none_or(|sample| sample.at.elapsed() > FRESH);
        if !fresh && !old {
            return known;
        }
        let mut done = self.done.subscribe();
        let next = {
            let mut pending = self.lock();
            pending.wanted = true;
            pending.started + 1
        };
        self.wake.notify_all();
        if !fresh && !known.is_empty() {
            return known;
        }
        match tokio::time::timeout(timeout, done.wait_for(|(number, _)| *number >= next)).await {
            Ok(Ok(done)) => Arc::clone(&done.1),
            // It takes too long, or the thread has ended.
            Ok(Err(_)) | Err(_) => self.last(),
        }
    }

    /// Watches until it is stopped.
    pub fn work(&self, commands: &CommandQueue, events: &EventLog) {
        let mut seen = Seen::default();
        let mut pause = MISPLACED_TICK;
        let mut due = Instant::now() + MISPLACED_TICK;
        loop {
            let runs = |handle: &VmHandle| match handle.view().state {
                vmm::VmState::Running | vmm::VmState::Paused => true,
                vmm::VmState::Starting | vmm::VmState::Ended => false,
            };
            let handle = commands.last_handle().filter(runs);
            if handle.is_none() {
                // What was seen was another guest's.
                seen = Seen::default();
                self.done.send_if_modified(|(_, samples)| !std::mem::take(samples).is_empty());
            }
            let at_work = handle.as_ref().is_some_and(|handle| {
                let moving = seen.jobs(handle, events);
                seen.balloons(handle, events) || moving
            });
            let listening = handle.is_some() && events.readers() > 0;
            let tick = match (at_work, listening) {
                (true, _) => Some(JOB_TICK),
                (false, true) => Some(due.saturating_duration_since(Instant::now())),
                (false, false) => None,
            };
            let Some(wanted) = self.next(tick) else {
                return;
            };
            let Some(number) = wanted.or((listening && Instant::now() >= due).then(|| self.begin())) else {
                continue;
            };
            let began = Instant::now();
            let samples = handle.as_ref().map(measure).unwrap_or_default();
            if let Some(handle) = &handle {
                seen.misplaced(handle, &samples, events);
            }
            self.done.send_replace((number, Arc::new(samples)));
            pause = MISPLACED_TICK.max(began.elapsed() * IDLE_FACTOR).max(pause.min(MISPLACED_TICK));
            due = Instant::now() + pause;
        }
    }

    /// Waits for work, or a while. `None`: the thread ends; a number: this measurement was requested.
    fn next(&self, tick: Option<Duration>) -> Option<Option<u64>> {
        let mut pending = self.lock();
        let idle = |pending: &mut Pending| !pending.wanted && !pending.notified && !pending.stop;
        pending = match tick {
            None => self.wake.wait_while(pending, idle).unwrap_or_else(PoisonError::into_inner),
            Some(tick) => {
                self.wake.wait_timeout_while(pending, tick, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        pending.notified = false;
        if pending.stop {
            return None;
        }
        let wanted = std::mem::take(&mut pending.wanted);
        pending.started += u64::from(wanted);
        Some(wanted.then_some(pending.started))
    }

    fn begin(&self) -> u64 {
        let mut pending = self.lock();
        pending.started += 1;
        pending.started
    }
}

fn measure(handle: &VmHandle) -> BTreeMap<VnodeId, Sample> {
    let vnodes = handle.plan().topology.vnodes();
    let sample = |id| match handle.residency(id)? {
        Ok(residency) => Some((id, Sample { at: Instant::now(), residency })),
        Err(error) => {
            tracing::info!(%error, "cannot measure residency");
            None
        }
    };
    vnodes.iter().filter_map(|vnode| sample(vnode.id)).collect()
}

/// What was already emitted.
#[derive(Default)]
struct Seen {
    foreign: BTreeMap<(VnodeId, PnodeId), Bytes>,
    jobs: BTreeMap<JobId, Bytes>,
    balloons: BTreeMap<VnodeId, wire::Balloon>,
}

impl Seen {
    /// Emits the progress of running jobs; returns whether there are any.
    fn jobs(&mut self, handle: &VmHandle, events: &EventLog) -> bool {
        let jobs = handle.jobs();
        let running = |job: &&vmm::JobView| matches!(job.state, JobState::Running);
        self.jobs.retain(|id, _| jobs.iter().filter(running).any(|job| job.id == *id));
        for job in jobs.iter().filter(running) {
            if self.jobs.insert(job.id, job.seen).is_some_and(|before| before != job.seen) {
                events.add("job", json!({"job": convert::job(job)}));
            }
        }
        !self.jobs.is_empty()
    }

    /// Tells how balloons stand that changed, without the ends of requests, which are told when they come; whether a
    /// request is under way.
    fn balloons(&mut self, handle: &VmHandle, events: &EventLog) -> bool {
        let mut busy = false;
        for memory in handle.memory() {
            let now = convert::balloon(&memory);
            // There is nothing to emit before the first request.
            let at_it = now.request > 0 && now.outcome.is_none();
            busy |= at_it;
            if at_it && self.balloons.get(&memory.vnode) != Some(&now) {
                events.add("balloon", convert::balloon_event(&memory));
                self.balloons.insert(memory.vnode, now);
            }
        }
        busy
    }

    /// Emits events for vnodes with more misplaced memory than before, except those that are being moved.
    fn misplaced(&mut self, handle: &VmHandle, samples: &BTreeMap<VnodeId, Sample>, events: &EventLog) {
        let view = handle.view();
        let mut foreign = BTreeMap::new();
        for (vnode, sample) in samples {
            let own = view.placement.vnodes.get(vnode.index()).map(|at| &at.pnodes);
            let on = sample.residency.on.iter();
            let elsewhere = on.filter(|(pnode, _)| own.is_some_and(|own| !own.contains(**pnode)));
            foreign.extend(elsewhere.map(|(pnode, bytes)| ((*vnode, *pnode), *bytes)));
        }
        let moving = |vnode| {
            handle.jobs().iter().any(|job| job.vnode == vnode && matches!(job.state, JobState::Running))
        };
        for ((vnode, pnode), bytes) in &foreign {
            let before = self.foreign.get(&(*vnode, *pnode)).copied().unwrap_or_default();
            if *bytes > before && !moving(*vnode) {
                let data = json!({"vnode": vnode, "pnode": pnode, "bytes": bytes, "before": before});
                events.add("misplaced", data);
            }
        }
        self.foreign = foreign;
    }
}
