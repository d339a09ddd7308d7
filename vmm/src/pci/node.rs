//! Where the threads of a vnode's devices run: on the CPUs of its pnodes, also after it has moved. What a thread does is
//! its own.

use super::worker::Control;
use crate::net::kernel_thread;
use crate::sys::{HostError, affinity, kernel_cpus, pin_this_thread, set_affinity};
use crate::transaction::all_or_none;
use nix::unistd::{Pid, gettid};
use resources::CpuSet;
use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The stack of a helper thread, which makes system calls and little else.
const HELPER_STACK: usize = 128 << 10;

thread_local! {
    /// That of the device whose thread this is.
    static NODE: RefCell<Option<Arc<Node>>> = const { RefCell::new(None) };
}

/// The device threads of a vnode.
pub struct Node(Mutex<State>);

struct State {
    cpus: CpuSet,
    threads: Vec<Thread>,
    /// Workers are held, and so are those that come.
    held: bool,
}

struct Thread {
    id: Pid,
    /// A worker's, to hear that it was moved.
    worker: Option<Arc<Control>>,
}

/// A thread is one of the node's as long as it has this.
pub struct Member(Arc<Node>);

impl Node {
    /// Threads run on `cpus`.
    pub fn new(cpus: CpuSet) -> Self {
        Self(Mutex::new(State { cpus, threads: Vec::new(), held: false }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this thread one of the node's. Threads that it starts by [`helper_thread`] are too.
    pub fn join(self: &Arc<Self>, name: &str, worker: Option<Arc<Control>>) -> Member {
        let mut state = self.state();
        if let Some(worker) = worker.as_ref().filter(|_| state.held) {
            worker.hold(true);
        }
        state.threads.push(Thread { id: gettid(), worker });
        if let Err(error) = pin_this_thread(&state.cpus) {
            // Where it runs changes how fast it is, not what it does.
            tracing::warn!(thread = name, %error, "cannot pin device thread");
        }
        NODE.set(Some(Arc::clone(self)));
        Member(Arc::clone(self))
    }

    /// Moves all threads to `cpus`, and those that come start there; if one cannot go, all stay.
    pub fn follow(&self, cpus: &CpuSet) -> Result<(), HostError> {
        let mut state = self.state();
        let State { cpus: now, threads, .. } = &mut *state;
        let before = now.clone();
        let result = all_or_none(
            now,
            threads.iter(),
            |_, thread| {
                let refused = |error: HostError| error.of(format!("device thread to CPUs {cpus}"));
                set_affinity(thread.id, cpus).map_err(refused)
            },
            |now, thread| {
                if let Err(error) = set_affinity(thread.id, &before) {
                    tracing::error!(%error, "device thread does not go back");
                    *now = now.union(&affinity(thread.id).unwrap_or_default());
                }
            },
        );
        if result.is_ok() {
            now.clone_from(cpus);
        }
        threads.iter().filter_map(|thread| thread.worker.as_ref()).for_each(|worker| worker.note_move());
        result
    }

    /// Where threads run.
    pub fn cpus(&self) -> CpuSet {
        self.state().cpus.clone()
    }

    /// Holds all workers, and those that come, or lets them go on.
    pub fn hold(&self, hold: bool) {
        let mut state = self.state();
        state.held = hold;
        state.threads.iter().filter_map(|thread| thread.worker.as_ref()).for_each(|worker| worker.hold(hold));
    }

    /// How many workers may touch guest memory.
    pub fn active(&self) -> usize {
        let state = self.state();
        let workers = state.threads.iter().filter_map(|thread| thread.worker.as_ref());
        workers.filter(|worker| worker.is_active()).count()
    }

    /// Has the kernel's threads that serve in the workers' place run where those do. Reads `/proc`, with nothing locked.
    pub fn kernel_threads_follow(&self) {
        let (workers, cpus): (Vec<Pid>, CpuSet) = {
            let state = self.state();
            let workers = state.threads.iter().filter(|thread| thread.worker.is_some());
            (workers.map(|thread| thread.id).collect(), state.cpus.clone())
        };
        match kernel_cpus(&cpus) {
            Ok(cpus) => kernel_thread::follow(&workers, &cpus),
            Err(error) => tracing::warn!(%error, "cannot move vhost threads"),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let this = gettid();
        self.0.state().threads.retain(|thread| thread.id != this);
        NODE.set(None);
    }
}

/// Starts a thread that runs where this thread's device does, and follows its vnode; anywhere, if this is no device's
/// thread.
pub fn helper_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (node, label) = (NODE.with_borrow(Clone::clone), name.to_owned());
    let body = move || {
        let _member = node.map(|node| node.join(&label, None));
        body();
    };
    std::thread::Builder::new().name(name.to_owned()).stack_size(HELPER_STACK).spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Node, Thread, helper_thread};
    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::{Pid, gettid};
    use std::sync::{Arc, mpsc};

    /// How many of the first two CPUs a thread may run on.
    fn cpus(thread: Pid) -> usize {
        let set: CpuSet = sched_getaffinity(thread).unwrap();
        (0..2).filter(|cpu| set.is_set(*cpu).unwrap()).count()
    }

    #[test]
    fn a_helper_runs_where_its_device_does_also_after_a_move() {
        if cpus(Pid::from_raw(0)) < 2 {
            return eprintln!("skipped: this needs CPUs 0 and 1");
        }
        let node = Arc::new(Node::new("0".parse().unwrap()));
        let (says, said) = mpsc::channel();
        let (ends, end) = mpsc::channel::<()>();
        let device = Arc::clone(&node);
        let thread = std::thread::spawn(move || {
            let _member = device.join("device", None);
            helper_thread("helper", move || {
                says.send(gettid()).unwrap();
                let _ = end.recv();
            })
            .unwrap();
        });
        thread.join().unwrap();
        let helper = said.recv().unwrap();
        assert_eq!((cpus(helper), node.state().threads.len()), (1, 1), "its device's thread has ended");
        node.follow(&"0-1".parse().unwrap()).unwrap();
        assert_eq!(cpus(helper), 2);
        drop(ends);
        while !node.state().threads.is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn if_one_thread_cannot_go_all_stay() {
        if cpus(Pid::from_raw(0)) < 2 {
            return eprintln!("skipped: this needs CPUs 0 and 1");
        }
        let node = Arc::new(Node::new("0".parse().unwrap()));
        let _member = node.join("device", None);
        let this = gettid();
        // One that is gone.
        node.state().threads.push(Thread { id: Pid::from_raw(i32::MAX), worker: None });
        let error = node.follow(&"0-1".parse().unwrap()).unwrap_err();
        assert_eq!((error.call, error.errno()), ("sched_setaffinity", libc::ESRCH));
        assert_eq!((cpus(this), node.cpus()), (1, "0".parse().unwrap()));
        node.state().threads.retain(|thread| thread.id == this);
        node.follow(&"0-1".parse().unwrap()).unwrap();
        assert_eq!((cpus(this), node.cpus()), (2, "0-1".parse().unwrap()));
    }
}
