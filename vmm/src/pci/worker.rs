//! The threads of device workers: each waits for what its worker waits for, until it is asked to stop. Where they run is
//! `node`'s knowledge.

use super::node::Node;
use crate::sys::{HostError, wait_readable};
use devices::pci::{OnFailure, WorkerHandle, WorkerSpawner};
use devices::virtio::{Interest, Source, SourceChange, Worker};
use resources::CpuSet;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Token of the eventfd of [`Control`]; workers number theirs in 32 bits.
const CONTROL: u64 = u64::MAX;
/// Ready sources taken at once.
const BATCH: usize = 16;

/// Starts workers on the CPUs of one vnode, and moves them when the vnode moves.
pub struct NodeSpawner {
    node: Arc<Node>,
}

impl NodeSpawner {
    /// Workers run on `cpus`.
    pub fn new(cpus: CpuSet) -> Self {
        Self { node: Arc::new(Node::new(cpus)) }
    }

    /// Has all workers, and those that come, run on `cpus`; if one cannot go, all stay. Threads of the kernel's that serve in
    /// their place come with [`kernel_threads_follow`](Self::kernel_threads_follow).
    pub fn follow(&self, cpus: &CpuSet) -> Result<(), HostError> {
        self.node.follow(cpus)
    }

    /// Where workers run.
    pub fn cpus(&self) -> CpuSet {
        self.node.cpus()
    }

    /// Has all workers, and those that come, finish what is in flight and begin nothing, until they are to
    /// [`go_on`](Self::go_on). Does not wait for it: see [`active`](Self::active).
    pub fn hold(&self) {
        self.node.hold(true);
    }

    /// Workers go on where they were.
    pub fn go_on(&self) {
        self.node.hold(false);
    }

    /// How many workers still use guest memory.
    pub fn active(&self) -> usize {
        self.node.active()
    }

    /// Has the kernel's threads that serve in the workers' place run where those do. Reads `/proc`: not for the control
    /// loop.
    pub fn kernel_threads_follow(&self) {
        self.node.kernel_threads_follow();
    }
}

struct Running {
    control: Arc<Control>,
    thread: JoinHandle<Box<dyn Worker>>,
}

/// What a worker's thread and those who want something of it share.
pub struct Control {
    /// Wakes the thread: there is something in `wanted`.
    event: EventFd,
    wanted: Mutex<Wanted>,
    changed: Condvar,
    cancelled: AtomicBool,
}

struct Wanted {
    phase: Phase,
    /// The thread runs on other CPUs.
    moved: bool,
    /// Nothing may touch guest memory meanwhile.
    hold: bool,
    /// The worker has stopped for that, or serves nothing any more.
    rests: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Asked to stop, or about to; may be asked to go on.
    Stop,
    /// The worker has stopped, its thread ends.
    Stopped,
}

impl Control {
    fn new() -> io::Result<Self> {
        let wanted = Mutex::new(Wanted { phase: Phase::Run, moved: false, hold: false, rests: false });
        let event = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { event, wanted, changed: Condvar::new(), cancelled: AtomicBool::new(false) })
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread runs on other CPUs.
    pub(super) fn note_move(&self) {
        self.wanted().moved = true;
        self.wake();
    }

    /// Nothing may touch guest memory from now on, or it may again.
    pub(super) fn hold(&self, hold: bool) {
        self.wanted().hold = hold;
        self.wake();
    }

    /// Whether the worker may touch guest memory.
    pub(super) fn is_active(&self) -> bool {
        let wanted = self.wanted();
        !wanted.rests && wanted.phase != Phase::Stopped
    }

    fn wake(&self) {
        // Cannot block, nor be lost: the counter would have to be at 2^64 - 2.
        let _ = self.event.write(1);
        self.changed.notify_all();
    }

    /// Whether the worker was moved since this was last asked, and whether it is to stop or to be held.
    fn take_events(&self) -> (bool, bool) {
        // Fails if nobody wrote.
        let _ = self.event.read();
        let mut wanted = self.wanted();
        (std::mem::take(&mut wanted.moved), wanted.phase != Phase::Run || wanted.hold)
    }

    fn wait_for_stop(&self) {
        drop(self.rest_while(|wanted| wanted.phase == Phase::Run));
    }

    /// The worker serves nothing meanwhile.
    fn rest_while(&self, so: impl Fn(&Wanted) -> bool) -> MutexGuard<'_, Wanted> {
        let mut wanted = self.wanted();
        while so(&wanted) {
            wanted.rests = true;
            wanted = self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
        wanted.rests = false;
        wanted
    }

    /// No request is in flight: whether the worker goes on, once it is not held any more.
    fn goes_on(&self) -> bool {
        let mut wanted = self.rest_while(|wanted| wanted.phase == Phase::Run && wanted.hold);
        if wanted.phase == Phase::Stop {
            wanted.phase = Phase::Stopped;
        }
        wanted.phase == Phase::Run
    }
}

/// However its thread ends: a worker that has panicked has stopped too.
struct EndOfThread(Arc<Control>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.wanted().phase = Phase::Stopped;
    }
}

impl WorkerSpawner for NodeSpawner {
    fn spawn(
        &self,
        name: &str,
        mut worker: Box<dyn Worker>,
        on_failure: OnFailure,
    ) -> io::Result<Box<dyn WorkerHandle>> {
        let control = Arc::new(Control::new()?);
        let (node, inner, label) = (Arc::clone(&self.node), Arc::clone(&control), name.to_owned());
        let body = move || {
            let end = EndOfThread(Arc::clone(&inner));
            let member = node.join(&label, Some(Arc::clone(&inner)));
            let mut on_failure = Some(on_failure);
            while inner.goes_on() {
                worker.start();
                if let Err(error) = serve(worker.as_mut(), &inner) {
                    tracing::error!(worker = label, %error, "device thread stopped working");
                    if let Some(on_failure) = on_failure.take() {
                        on_failure(&format!("its thread failed: {error}"));
                    }
                    inner.wait_for_stop();
                }
                worker.stop(&inner.cancelled);
            }
            drop((member, end));
            worker
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Box::new(Running { control, thread }))
    }
}

impl WorkerHandle for Running {
    fn request_stop(&self) {
        {
            let mut wanted = self.control.wanted();
            if wanted.phase == Phase::Run {
                wanted.phase = Phase::Stop;
            }
        }
        self.control.wake();
    }

    fn has_stopped(&self) -> bool {
        self.control.wanted().phase == Phase::Stopped
    }

    fn resume(&self) -> bool {
        let mut wanted = self.control.wanted();
        if wanted.phase == Phase::Stop {
            wanted.phase = Phase::Run;
        }
        wanted.phase == Phase::Run
    }

    fn cancel(&self) {
        self.control.cancelled.store(true, Ordering::Release);
    }

    fn stop(self: Box<Self>) -> Option<Box<dyn Worker>> {
        self.request_stop();
        self.thread.join().ok()
    }
}

/// Serves the worker's sources until it is asked to stop.
fn serve(worker: &mut dyn Worker, control: &Control) -> io::Result<()> {
    let mut watched = Watched::new()?;
    let event = EpollEvent::new(EventSet::IN, CONTROL);
    watched.epoll.ctl(ControlOperation::Add, control.event.as_raw_fd(), event)?;
    watched.replace(&worker.sources())?;
    let mut changes = Vec::new();
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        let rest = worker.rest(Instant::now());
        if let Some(rest) = rest {
            let fd = if rest.alone { control.event.as_raw_fd() } else { watched.epoll.as_raw_fd() };
            wait_readable(&[fd], rest.time);
        }
        let ready = match watched.epoll.wait(if rest.is_some() { 0 } else { -1 }, &mut events) {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut changed = false;
        for event in &events[..ready] {
            match u32::try_from(event.data()) {
                Ok(token) => changed |= worker.ready(token),
                Err(_) => {
                    let (moved, stop) = control.take_events();
                    if stop {
                        return Ok(());
                    }
                    if moved {
                        worker.moved();
                    }
                }
            }
        }
        if rest.is_some() {
            changed |= worker.look(Instant::now());
        }
        if changed {
            match worker.changes(&mut changes) {
                true => changes.drain(..).try_for_each(|change| watched.change(change))?,
                false => watched.replace(&worker.sources())?,
            }
        }
    }
}

/// What the kernel has been asked to watch.
struct Watched {
    epoll: Epoll,
    sources: BTreeMap<RawFd, Source>,
    /// Calls of the kernel's to change it.
    #[cfg(test)]
    calls: usize,
}

impl Watched {
    fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            sources: BTreeMap::new(),
            #[cfg(test)]
            calls: 0,
        })
    }

    fn ctl(&mut self, operation: ControlOperation, fd: RawFd, event: EpollEvent) -> io::Result<()> {
        #[cfg(test)]
        {
            self.calls += 1;
        }
        self.epoll.ctl(operation, fd, event)
    }

    /// Watches these sources and no others. A descriptor that was closed has left by itself, and its number may be another
    /// one's by now: tokens tell.
    fn replace(&mut self, wanted: &[Source]) -> io::Result<()> {
        let keep: BTreeMap<RawFd, Source> = wanted.iter().map(|source| (source.fd, *source)).collect();
        let gone: Vec<Source> =
            self.sources.values().filter(|source| !keep.contains_key(&source.fd)).copied().collect();
        for Source { fd, token, .. } in gone {
            self.change(SourceChange::Removed { fd, token })?;
        }
        keep.into_values().try_for_each(|source| self.change(SourceChange::Set(source)))
    }

    /// Makes one change.
    fn change(&mut self, change: SourceChange) -> io::Result<()> {
        let source = match change {
            SourceChange::Removed { fd, token } => {
                if self.sources.get(&fd).is_some_and(|source| source.token == token) {
                    self.sources.remove(&fd);
                    // Refused if it was closed.
                    let _ = self.ctl(ControlOperation::Delete, fd, EpollEvent::default());
                }
                return Ok(());
            }
            SourceChange::Set(source) => source,
        };
        if self.sources.get(&source.fd) == Some(&source) {
            return Ok(());
        }
        let set = match source.interest {
            Interest::Readable => EventSet::IN,
            Interest::Kick => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Interest::Writable => EventSet::OUT,
            Interest::Both => EventSet::IN | EventSet::OUT,
        };
        let event = EpollEvent::new(set, u64::from(source.token));
        match self.ctl(ControlOperation::Modify, source.fd, event) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                self.ctl(ControlOperation::Add, source.fd, event)?;
            }
            result => result?,
        }
        self.sources.insert(source.fd, source);
        Ok(())
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
