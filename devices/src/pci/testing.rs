//! Hosts of PCI functions that write down what is asked of them, and a worker's thread that runs when told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{IoEvents, MsixVectors, OnFailure, WorkerHandle, WorkerSpawner};
use crate::interrupt::{InterruptError, MsiMessage};
use crate::virtio::{Interest, Worker};

fn refused() -> io::Error {
    io::ErrorKind::ResourceBusy.into()
}

/// Vectors as the host has them.
#[derive(Default)]
pub(crate) struct TestVectors {
    routes: Mutex<BTreeMap<u16, Option<MsiMessage>>>,
    sent: Mutex<Vec<(u16, MsiMessage)>>,
    failing: AtomicBool,
}

impl TestVectors {
    /// What was sent since the last time this was asked.
    pub fn take(&self) -> Vec<(u16, MsiMessage)> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }

    pub fn route(&self, vector: u16) -> Option<MsiMessage> {
        self.routes.lock().unwrap().get(&vector).copied().flatten()
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    fn check(&self, address: u64) -> Result<(), InterruptError> {
        match self.failing.load(Ordering::Relaxed) {
            true => Err(InterruptError::Message { address, source: refused() }),
            false => Ok(()),
        }
    }
}

impl MsixVectors for TestVectors {
    fn set(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        self.check(0)?;
        let before = self.routes.lock().unwrap().insert(vector, message).flatten();
        assert_ne!(before, message, "vector {vector} was set to what it is");
        Ok(())
    }

    fn trigger(&self, vector: u16) -> Result<(), InterruptError> {
        self.check(1)?;
        let message = self.route(vector).expect("a vector without a message was triggered");
        self.sent.lock().unwrap().push((vector, message));
        Ok(())
    }

    fn eventfd(&self, _: u16) -> Option<EventFd> {
        Some(EventFd::new(EFD_NONBLOCK).unwrap())
    }
}

/// Addresses that signal eventfds.
#[derive(Default)]
pub(crate) struct TestIoEvents {
    events: Mutex<BTreeMap<u64, EventFd>>,
    failing: AtomicBool,
}

impl TestIoEvents {
    pub fn addresses(&self) -> Vec<u64> {
        self.events.lock().unwrap().keys().copied().collect()
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// A write of the guest. Says whether it hit an eventfd.
    pub fn write(&self, address: u64) -> bool {
        self.events.lock().unwrap().get(&address).map(|event| event.write(1).unwrap()).is_some()
    }
}

impl IoEvents for TestIoEvents {
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(refused());
        }
        let before = self.events.lock().unwrap().insert(address, event.try_clone().unwrap());
        assert!(before.is_none(), "{address:#x} is registered twice");
        Ok(())
    }

    fn unregister(&self, address: u64, _: &EventFd) -> io::Result<()> {
        let before = self.events.lock().unwrap().remove(&address);
        assert!(before.is_some(), "{address:#x} was not registered");
        Ok(())
    }
}

type Slot = Arc<Mutex<Option<(Box<dyn Worker>, Epoll)>>>;

/// Runs workers when told to, in the caller's thread.
#[derive(Default)]
pub(crate) struct TestSpawner {
    workers: Mutex<Vec<Slot>>,
    failing: AtomicBool,
    /// Workers do not come back when stopped.
    pub dying: Arc<AtomicBool>,
    /// Who is told if a worker fails, of each that was started.
    pub failures: Mutex<Vec<OnFailure>>,
    /// Workers have requests in flight, and do not stop before these end.
    pub busy: Arc<AtomicBool>,
    /// How often workers were told to cancel them.
    pub cancels: Arc<AtomicU32>,
}

struct TestHandle {
    slot: Slot,
    dying: Arc<AtomicBool>,
    busy: Arc<AtomicBool>,
    cancels: Arc<AtomicU32>,
}

impl TestSpawner {
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Workers that have a thread.
    pub fn running(&self) -> usize {
        self.slots().iter().filter(|slot| slot.lock().unwrap().is_some()).count()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.workers.lock().unwrap()
    }

    /// Serves all sources that are ready now, once.
    pub fn pump(&self) {
        let slots = self.slots().clone();
        for slot in slots {
            let mut worker = slot.lock().unwrap();
            let Some((worker, epoll)) = &mut *worker else { continue };
            for source in worker.sources() {
                let edge = if source.interest == Interest::Kick {
                    EventSet::EDGE_TRIGGERED
                } else {
                    EventSet::empty()
                };
                // Refused if it is watched already.
                let event = EpollEvent::new(EventSet::IN | edge, u64::from(source.token));
                let _ = epoll.ctl(ControlOperation::Add, source.fd, event);
            }
            let mut events = [EpollEvent::default(); 16];
            let ready = epoll.wait(0, &mut events).unwrap();
            // In the order of the sources, not of the kicks.
            events[..ready].sort_unstable_by_key(|event| event.data());
            for event in &events[..ready] {
                worker.ready(u32::try_from(event.data()).unwrap());
            }
        }
    }

    /// Serves all sources once, as if all were ready.
    pub fn poke(&self) {
        for slot in self.slots().clone() {
            if let Some((worker, _)) = &mut *slot.lock().unwrap() {
                for source in worker.sources() {
                    worker.ready(source.token);
                }
            }
        }
    }
}

impl WorkerSpawner for TestSpawner {
    fn spawn(
        &self,
        _: &str,
        mut worker: Box<dyn Worker>,
        on_failure: OnFailure,
    ) -> io::Result<Box<dyn WorkerHandle>> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(refused());
        }
        self.failures.lock().unwrap().push(on_failure);
        worker.start();
        let slot = Arc::new(Mutex::new(Some((worker, Epoll::new().unwrap()))));
        self.slots().push(Arc::clone(&slot));
        let (dying, busy) = (Arc::clone(&self.dying), Arc::clone(&self.busy));
        Ok(Box::new(TestHandle { slot, dying, busy, cancels: Arc::clone(&self.cancels) }))
    }
}

impl WorkerHandle for TestHandle {
    fn request_stop(&self) {}

    fn has_stopped(&self) -> bool {
        !self.busy.load(Ordering::Relaxed)
    }

    fn resume(&self) -> bool {
        !self.has_stopped()
    }

    fn cancel(&self) {
        self.cancels.fetch_add(1, Ordering::Relaxed);
    }

    fn stop(self: Box<Self>) -> Option<Box<dyn Worker>> {
        let (mut worker, _) = self.slot.lock().unwrap().take()?;
        worker.stop(&AtomicBool::new(false));
        (!self.dying.load(Ordering::Relaxed)).then_some(worker)
    }
}
