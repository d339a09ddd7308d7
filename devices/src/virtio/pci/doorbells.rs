//! The doorbells of a function: addresses at which the driver notifies queues (virtio 1.3, 4.1.5.2), as ioeventfds
//! while the device runs and its BAR answers, otherwise through exits.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::counters::Reporter;
use super::layout;
use crate::pci::IoEvents;

pub(super) struct Doorbells {
    io_events: Arc<dyn IoEvents>,
    reporter: Arc<Reporter>,
    kicks: Vec<EventFd>,
    /// Queues that the device serves.
    served: Vec<u16>,
    /// Where the BAR answers.
    bar: Option<u64>,
    /// What the host knows: queue and address.
    registered: Vec<(u16, u64)>,
}

impl Doorbells {
    pub fn new(io_events: Arc<dyn IoEvents>, reporter: Arc<Reporter>, queues: u16) -> io::Result<Self> {
        let kicks =
            (0..queues).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<io::Result<_>>()?;
        Ok(Self { io_events, reporter, kicks, served: Vec::new(), bar: None, registered: Vec::new() })
    }

    /// The eventfd of queue `index`, for its worker.
    pub fn kick(&self, index: u16) -> io::Result<EventFd> {
        self.kicks.get(usize::from(index)).ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    /// The BAR answers at another address, or nowhere.
    pub fn place(&mut self, bar: Option<u64>) {
        self.unregister();
        self.bar = bar;
        self.register();
    }

    /// The device serves `queues` from here on.
    pub fn serve(&mut self, queues: Vec<u16>) {
        self.unregister();
        self.served = queues;
        self.register();
    }

    /// The device serves nothing; kicks that nobody has seen are forgotten.
    pub fn rest(&mut self) {
        self.unregister();
        self.served.clear();
        for kick in &self.kicks {
            // Fails if nobody kicked.
            let _ = kick.read();
        }
    }

    /// A notification that came through an exit. Says whether the queue is served.
    pub fn ring(&self, index: u16) -> bool {
        let kick = self.kicks.get(usize::from(index)).filter(|_| self.served.contains(&index));
        let Some(kick) = kick else { return false };
        self.reporter.counters.slow_notifications.one();
        // Fails only if the counter is full, and then the worker is to be woken anyway.
        let _ = kick.write(1);
        true
    }

    fn register(&mut self) {
        let Some(bar) = self.bar else { return };
        for index in &self.served {
            let Some(kick) = self.kicks.get(usize::from(*index)) else { continue };
            let address = bar + layout::doorbell(*index);
            match self.io_events.register(address, kick) {
                Ok(()) => self.registered.push((*index, address)),
                Err(error) => {
                    let why = format_args!("queue {index}: notifications will cost an exit: {error}");
                    self.reporter.warn(|counters| &counters.host_failures, &why);
                }
            }
        }
    }

    fn unregister(&mut self) {
        for (index, address) in self.registered.drain(..) {
            let Some(kick) = self.kicks.get(usize::from(index)) else { continue };
            if let Err(error) = self.io_events.unregister(address, kick) {
                let why = format_args!("queue {index}: a notification address stays: {error}");
                self.reporter.warn(|counters| &counters.host_failures, &why);
            }
        }
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        self.unregister();
    }
}
