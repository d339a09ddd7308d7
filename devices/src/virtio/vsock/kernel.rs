//! A socket device whose connections the kernel serves (vhost-vsock): host processes use `AF_VSOCK`.
//! Which kernel interface that is, is left to `vmm`.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use virtio_queue::QueueT;

use super::device::{GuestCid, NAME, Server, Socket};
use super::events::Events;
use crate::LogLimit;
use crate::virtio::device::worker_as_mut;
use crate::virtio::{
    Activation, ActivationError, ActiveQueue, GuestMemoryHandle, KernelDatapath, KernelQueue, QueuePosition,
    Source, VirtioInterrupt, Worker,
};

const EVENTS_TOKEN: u32 = 0;

/// A socket device in the kernel.
pub type KernelVsock<M> = Socket<Kernel<M>>;

/// The kernel, as a server of connections.
pub struct Kernel<M> {
    /// `None` while the worker has it, and after a worker died with it.
    kernel: Option<Box<dyn KernelDatapath<M>>>,
    running: Arc<AtomicBool>,
    log: LogLimit,
}

impl<M: GuestMemoryHandle> KernelVsock<M> {
    /// A device of a guest with this context id, which `kernel` knows too.
    #[must_use]
    pub fn new(cid: GuestCid, kernel: Box<dyn KernelDatapath<M>>) -> Self {
        let log = LogLimit::per_second(1);
        Self { cid, server: Kernel { kernel: Some(kernel), running: Arc::default(), log } }
    }

    /// Whether the kernel serves it now.
    #[must_use]
    pub fn running(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.server.running)
    }
}

struct KernelWorker<M> {
    kernel: Box<dyn KernelDatapath<M>>,
    memory: M,
    features: u64,
    interrupt: Arc<dyn VirtioInterrupt>,
    queues: Vec<ActiveQueue>,
    /// Not the kernel's.
    events: Option<Events<M>>,
    running: Arc<AtomicBool>,
    log: LogLimit,
}

impl<M: GuestMemoryHandle> KernelWorker<M> {
    fn hand_over(&mut self) -> std::io::Result<()> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for ActiveQueue { index, queue, kick, .. } in &self.queues {
            let call = self.interrupt.queue_call(*index);
            let call = call.ok_or_else(|| std::io::Error::other("no eventfd interrupts the driver"))?;
            queues.push(KernelQueue { queue, kick, call });
        }
        self.kernel.start(&self.memory, self.features, &queues)
    }

    fn serve_events(&mut self) {
        if let Some(events) = &mut self.events {
            events.serve();
        }
    }

    /// At a limited rate: a guest that resets in a loop hears it each time.
    fn report(&mut self, error: &std::io::Error, what: &str) {
        if let Some(suppressed) = self.log.admit(Instant::now()) {
            tracing::error!(%error, suppressed, "vsock: {what}");
        }
    }
}

impl<M: GuestMemoryHandle> Worker for KernelWorker<M> {
    fn sources(&self) -> Vec<Source> {
        self.events.iter().map(|events| events.source(EVENTS_TOKEN)).collect()
    }

    fn start(&mut self) {
        match self.hand_over() {
            Ok(()) => self.running.store(true, Ordering::Relaxed),
            Err(error) => {
                self.interrupt.device_failed(&format!("the kernel does not serve the queues: {error}"));
            }
        }
        self.serve_events();
    }

    fn ready(&mut self, _token: u32) -> bool {
        self.serve_events();
        false
    }

    fn stop(&mut self, _: &AtomicBool) {
        if !self.running.swap(false, Ordering::Relaxed) {
            return;
        }
        match self.kernel.stop() {
            Ok(next) => {
                for (queue, next) in self.queues.iter_mut().zip(next) {
                    queue.queue.set_next_avail(next);
                    // The kernel has used all that it took.
                    queue.queue.set_next_used(next);
                }
            }
            Err(error) => self.report(&error, "queues not taken back from the kernel"),
        }
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        let queues = self.queues.iter().map(|queue| (queue.index, queue.position()));
        queues.chain(self.events.as_ref().map(Events::position)).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl<M: GuestMemoryHandle> Server<M> for Kernel<M> {
    fn begin(
        &mut self,
        _cid: GuestCid,
        mut activation: Activation<M>,
    ) -> Result<Box<dyn Worker>, ActivationError> {
        let queues = vec![activation.take(NAME, 0)?, activation.take(NAME, 1)?];
        let events = Events::of(&mut activation);
        let Activation { memory, features, interrupt, .. } = activation;
        let gone = || ActivationError::Host {
            device: NAME,
            call: "vhost",
            source: std::io::Error::other("its worker died"),
        };
        let kernel = self.kernel.take().ok_or_else(gone)?;
        let running = Arc::clone(&self.running);
        let log = std::mem::replace(&mut self.log, LogLimit::per_second(1));
        Ok(Box::new(KernelWorker { kernel, memory, features, interrupt, queues, events, running, log }))
    }

    fn transport_reset(&mut self, worker: &mut dyn Worker) {
        let worker: Option<&mut KernelWorker<M>> = worker_as_mut(Some(worker));
        if let Some(events) = worker.and_then(|worker| worker.events.as_mut()) {
            events.transport_reset();
        }
    }

    fn end(&mut self, worker: Option<Box<dyn Worker>>) {
        let worker = worker.and_then(|worker| worker.into_any().downcast::<KernelWorker<M>>().ok());
        if let Some(worker) = worker {
            self.kernel = Some(worker.kernel);
            self.log = worker.log;
        }
    }
}
