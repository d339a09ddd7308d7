//! Threads for device workers: pinned to the CPUs of a vnode's pnodes, waiting for what the worker waits for.

use crate::memory::pin_this_thread;
use devices::pci::{WorkerHandle, WorkerSpawner};
use devices::virtio::{Interest, Source, Worker};
use resources::CpuSet;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Token of the eventfd that stops a worker; workers number theirs in 32 bits.
const STOP: u64 = u64::MAX;
/// Ready sources taken at once.
const BATCH: usize = 16;

/// Starts workers on the CPUs of one vnode.
pub struct NodeSpawner {
    cpus: CpuSet,
}

impl NodeSpawner {
    /// Workers run on `cpus`.
    pub fn new(cpus: CpuSet) -> Self {
        Self { cpus }
    }
}

struct Running {
    stop: Arc<EventFd>,
    thread: JoinHandle<Box<dyn Worker>>,
}

impl WorkerSpawner for NodeSpawner {
    fn spawn(&self, name: &str, mut worker: Box<dyn Worker>) -> io::Result<Box<dyn WorkerHandle>> {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let (cpus, stopped, label) = (self.cpus.clone(), Arc::clone(&stop), name.to_owned());
        let body = move || {
            if let Err(error) = pin_this_thread(&cpus) {
                // Where it runs changes how fast it is, not what it does.
                tracing::warn!(worker = label, %error, "device thread not pinned");
            }
            worker.start();
            if let Err(error) = serve(worker.as_mut(), &stopped) {
                tracing::error!(worker = label, %error, "device thread stopped working");
            }
            worker.stop();
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
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        // A worker's sources change rarely, so a new set each time is cheap and cannot keep a closed descriptor.
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
        for Source { fd, token, interest } in worker.sources() {
            let set = match interest {
                Interest::Readable => EventSet::IN,
                Interest::Writable => EventSet::OUT,
                Interest::Both => EventSet::IN | EventSet::OUT,
            };
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(set, u64::from(token)))?;
        }
        let mut changed = false;
        while !changed {
            let ready = match epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in &events[..ready] {
                match u32::try_from(event.data()) {
                    Ok(token) => changed |= worker.ready(token),
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NodeSpawner;
    use devices::pci::WorkerSpawner;
    use devices::virtio::{Interest, Source, Worker};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
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

    #[test]
    fn a_worker_hears_its_sources_and_comes_back_when_stopped() {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (heard, hears) = mpsc::channel();
        let worker = Box::new(Echo { kick: kick.try_clone().unwrap(), heard });
        let handle = NodeSpawner::new("0".parse().unwrap()).spawn("echo", worker).unwrap();
        assert_eq!(hears.recv(), Ok("start"));
        for _ in 0..3 {
            kick.write(1).unwrap();
            assert_eq!(hears.recv(), Ok("ready"));
        }
        let worker = handle.stop().unwrap();
        assert_eq!(hears.recv(), Ok("stop"));
        assert!(worker.into_any().downcast::<Echo>().is_ok());
    }
}
