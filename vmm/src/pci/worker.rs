//! Threads for device workers: pinned to the CPUs of a vnode's pnodes, waiting for what the worker waits for.

use crate::memory::{kernel_cpus, pin_this_thread};
use crate::net::kernel_thread;
use crate::sys::HostError;
use devices::pci::{WorkerHandle, WorkerSpawner};
use devices::virtio::{Interest, Source, Worker};
use nix::sched::sched_setaffinity;
use nix::unistd::{Pid, gettid};
use resources::CpuSet;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Token of the eventfd that stops a worker; workers number theirs in 32 bits.
const STOP: u64 = u64::MAX;
/// Ready sources taken at once.
const BATCH: usize = 16;

/// Starts workers on the CPUs of one vnode, and moves them when the vnode moves.
pub struct NodeSpawner {
    node: Arc<Mutex<Node>>,
}

#[derive(Default)]
struct Node {
    cpus: CpuSet,
    threads: Vec<Pid>,
}

impl NodeSpawner {
    /// Workers run on `cpus`.
    pub fn new(cpus: CpuSet) -> Self {
        Self { node: Arc::new(Mutex::new(Node { cpus, threads: Vec::new() })) }
    }

    /// Has all workers, and those that come, run on `cpus`; the error of the first that stays where it is.
    pub fn follow(&self, cpus: &CpuSet) -> Result<(), HostError> {
        let mut node = lock(&self.node);
        let set = kernel_cpus(cpus)?;
        let mut result = Ok(());
        for thread in &node.threads {
            let refused =
                |e| HostError::new("sched_setaffinity", e).of(format!("device thread to CPUs {cpus}"));
            result = result.and(sched_setaffinity(*thread, &set).map_err(refused));
        }
        kernel_thread::follow(&node.threads, &set);
        if result.is_ok() {
            node.cpus = cpus.clone();
        }
        result
    }
}

impl Node {
    /// Counts this thread in, and has it run where the others do.
    fn join(node: &Mutex<Self>, name: &str) {
        let mut node = lock(node);
        node.threads.push(gettid());
        if let Err(error) = pin_this_thread(&node.cpus) {
            // Where it runs changes how fast it is, not what it does.
            tracing::warn!(worker = name, %error, "device thread not pinned");
        }
    }

    fn leave(node: &Mutex<Self>) {
        let this = gettid();
        lock(node).threads.retain(|thread| *thread != this);
    }
}

fn lock(node: &Mutex<Node>) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Running {
    stop: Arc<EventFd>,
    thread: JoinHandle<Box<dyn Worker>>,
}

impl WorkerSpawner for NodeSpawner {
    fn spawn(&self, name: &str, mut worker: Box<dyn Worker>) -> io::Result<Box<dyn WorkerHandle>> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let (node, stopped, label) = (Arc::clone(&self.node), Arc::clone(&stop), name.to_owned());
        let body = move || {
            Node::join(&node, &label);
            worker.start();
            if let Err(error) = serve(worker.as_mut(), &stopped) {
                tracing::error!(worker = label, %error, "device thread stopped working");
            }
            worker.stop();
            Node::leave(&node);
            worker
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Box::new(Running { stop, thread }))
    }
}

impl WorkerHandle for Running {
    fn stop(self: Box<Self>) -> Option<Box<dyn Worker>> {
        // Cannot block, nor be lost: the counter would have to be at 2^64 - 2.
        let _ = self.stop.write(1);
        self.thread.join().ok()
    }
}

fn serve(worker: &mut dyn Worker, stop: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
    let mut watched = BTreeMap::new();
    watch(&epoll, &mut watched, &worker.sources())?;
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        let rest = worker.rest();
        if let Some(rest) = rest {
            std::thread::sleep(rest);
        }
        let ready = match epoll.wait(if rest.is_some() { 0 } else { -1 }, &mut events) {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut changed = false;
        for event in &events[..ready] {
            match u32::try_from(event.data()) {
                Ok(token) => changed |= worker.ready(token),
                Err(_) => return Ok(()),
            }
        }
        if rest.is_some() {
            changed |= worker.look();
        }
        if changed {
            watch(&epoll, &mut watched, &worker.sources())?;
        }
    }
}

/// Brings what is watched in line with what the worker wants now. A descriptor that was closed has left by itself, and
/// its number may be another one's by now: tokens tell.
fn watch(epoll: &Epoll, watched: &mut BTreeMap<RawFd, Source>, wanted: &[Source]) -> io::Result<()> {
    let keep: BTreeMap<RawFd, Source> = wanted.iter().map(|source| (source.fd, *source)).collect();
    for fd in watched.keys().filter(|fd| !keep.contains_key(fd)) {
        // Refused if it was closed.
        let _ = epoll.ctl(ControlOperation::Delete, *fd, EpollEvent::default());
    }
    for (fd, source) in &keep {
        if watched.get(fd) == Some(source) {
            continue;
        }
        let set = match source.interest {
            Interest::Readable => EventSet::IN,
            Interest::Kick => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Interest::Writable => EventSet::OUT,
            Interest::Both => EventSet::IN | EventSet::OUT,
        };
        let event = EpollEvent::new(set, u64::from(source.token));
        match epoll.ctl(ControlOperation::Modify, *fd, event) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                epoll.ctl(ControlOperation::Add, *fd, event)?;
            }
            result => result?,
        }
    }
    *watched = keep;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{NodeSpawner, watch};
    use devices::pci::WorkerSpawner;
    use devices::virtio::{Interest, Source, Worker};
    use std::collections::BTreeMap;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use std::time::Duration;
    use vmm_sys_util::epoll::{Epoll, EpollEvent};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    struct Echo {
        kick: EventFd,
        heard: mpsc::Sender<&'static str>,
    }

    impl Worker for Echo {
        fn sources(&self) -> Vec<Source> {
            vec![Source { fd: self.kick.as_raw_fd(), token: 7, interest: Interest::Readable }]
        }

        fn start(&mut self) {
            self.heard.send("start").unwrap();
        }

        fn ready(&mut self, token: u32) -> bool {
            assert_eq!((token, self.kick.read().unwrap()), (7, 1));
            self.heard.send("ready").unwrap();
            true
        }

        fn stop(&mut self) {
            self.heard.send("stop").unwrap();
        }

        fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
            self
        }
    }

    /// Rests a few times after each kick, and then sleeps.
    struct Lazy {
        kick: EventFd,
        rests: u32,
        heard: mpsc::Sender<&'static str>,
    }

    impl Worker for Lazy {
        fn sources(&self) -> Vec<Source> {
            vec![Source { fd: self.kick.as_raw_fd(), token: 7, interest: Interest::Kick }]
        }

        fn ready(&mut self, _: u32) -> bool {
            self.rests = 2;
            self.heard.send("ready").unwrap();
            false
        }

        fn rest(&self) -> Option<Duration> {
            (self.rests > 0).then_some(Duration::from_micros(10))
        }

        fn look(&mut self) -> bool {
            self.rests = self.rests.saturating_sub(1);
            self.heard.send("look").unwrap();
            false
        }

        fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
            self
        }
    }

    #[test]
    fn a_worker_that_rests_looks_by_itself_and_sleeps_when_it_does_not() {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (heard, hears) = mpsc::channel();
        let worker = Box::new(Lazy { kick: kick.try_clone().unwrap(), rests: 1, heard });
        let handle = NodeSpawner::new("0".parse().unwrap()).spawn("lazy", worker).unwrap();
        assert_eq!(hears.recv(), Ok("look"));
        kick.write(1).unwrap();
        assert_eq!([(); 3].map(|()| hears.recv().unwrap()), ["ready", "look", "look"]);
        assert!(handle.stop().is_some());
        assert!(hears.recv().is_err(), "it slept");
    }

    #[test]
    fn what_is_watched_follows_what_is_wanted() {
        let epoll = Epoll::new().unwrap();
        let [a, b] = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
        let source = |event: &EventFd, token, interest| Source { fd: event.as_raw_fd(), token, interest };
        let mut watched = BTreeMap::new();
        let ready = || {
            let mut events = [EpollEvent::default(); 4];
            let count = epoll.wait(0, &mut events).unwrap();
            let mut tokens: Vec<u64> = events[..count].iter().map(|event| event.data()).collect();
            tokens.sort_unstable();
            tokens
        };
        a.write(1).unwrap();
        watch(&epoll, &mut watched, &[source(&a, 1, Interest::Readable), source(&b, 2, Interest::Readable)])
            .unwrap();
        assert_eq!(ready(), [1]);
        watch(&epoll, &mut watched, &[source(&a, 1, Interest::Readable), source(&b, 2, Interest::Both)])
            .unwrap();
        assert_eq!(ready(), [1, 2]);
        watch(&epoll, &mut watched, &[source(&b, 2, Interest::Writable)]).unwrap();
        assert_eq!(ready(), [2]);
        // Mostly gets the same number again.
        drop(b);
        let c = EventFd::new(EFD_NONBLOCK).unwrap();
        watch(&epoll, &mut watched, &[source(&c, 3, Interest::Writable)]).unwrap();
        assert_eq!(ready(), [3]);
    }

    #[test]
    fn a_worker_hears_its_sources_and_comes_back_when_stopped() {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (heard, hears) = mpsc::channel();
        let worker = Box::new(Echo { kick: kick.try_clone().unwrap(), heard });
        let spawner = NodeSpawner::new("0".parse().unwrap());
        let handle = spawner.spawn("echo", worker).unwrap();
        assert_eq!(hears.recv(), Ok("start"));
        for _ in 0..3 {
            kick.write(1).unwrap();
            assert_eq!(hears.recv(), Ok("ready"));
        }
        // A CPU that is not there: the kernel refuses, and the worker works where it was.
        let error = spawner.follow(&"1023".parse().unwrap()).unwrap_err();
        assert_eq!((error.call, error.errno()), ("sched_setaffinity", libc::EINVAL));
        kick.write(1).unwrap();
        assert_eq!(hears.recv(), Ok("ready"));
        spawner.follow(&"0".parse().unwrap()).unwrap();
        let worker = handle.stop().unwrap();
        assert_eq!(hears.recv(), Ok("stop"));
        assert!(worker.into_any().downcast::<Echo>().is_ok());
    }
}
