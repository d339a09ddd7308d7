//! The thread that looks at balloons and carries out what their controllers decide. It exists from the first request
//! on: a VM that is never asked has none.

use super::board::{Entry, Held, Tell};
use super::clock::{Clock, VmClock};
use super::controller::Ask;
use crate::sys::HostError;
use resources::VnodeId;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// All balloons of a VM.
pub struct Keeper {
    wants: Wants,
    thread: Option<JoinHandle<()>>,
}

/// Asks balloons for things while their keeper lives. Other threads may have it.
#[derive(Clone)]
pub struct Wants {
    entries: Arc<[Entry]>,
    tell: Arc<dyn Tell>,
    clock: Arc<VmClock>,
}

impl Wants {
    /// The balloons.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How long the VM has run: without the time that it was paused.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Has a vnode's balloon hold as many pages; the number of the request, or `None` if it has none.
    pub fn want(&self, vnode: VnodeId, ask: Ask) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.vnode == vnode)?;
        let number = entry.want(&*self.clock, ask, &*self.tell);
        self.clock.wake();
        Some(number)
    }
}

impl Keeper {
    /// Looks at nothing yet.
    pub fn new(entries: Arc<[Entry]>, tell: Arc<dyn Tell>) -> Self {
        Self { wants: Wants { entries, tell, clock: Arc::new(VmClock::new()) }, thread: None }
    }

    /// What balloons are asked with; from now on somebody looks at them.
    pub fn wants(&mut self) -> Result<Wants, HostError> {
        if self.thread.is_none() {
            self.thread = Some(self.spawn()?);
        }
        Ok(self.wants.clone())
    }

    /// Has a vnode's balloon hold as many pages; false if it has none.
    pub fn want(&mut self, vnode: VnodeId, ask: Ask) -> Result<bool, HostError> {
        Ok(self.wants()?.want(vnode, ask).is_some())
    }

    /// What is wanted of all balloons, for a guest that starts again.
    pub fn held(&self) -> Vec<Held> {
        self.wants.entries.iter().filter_map(Entry::held).collect()
    }

    /// A guest that started again gives what the one before was asked for, once it has drivers.
    pub fn hold(&mut self, all: &[Held]) -> Result<(), HostError> {
        for held in all {
            self.wants
                .entries
                .iter()
                .filter(|entry| entry.vnode == held.vnode)
                .for_each(|entry| entry.hold(held));
        }
        if all.iter().any(Held::wants_memory) { self.wants().map(drop) } else { Ok(()) }
    }

    /// The VM is paused: requests under way wait, and their time with them.
    pub fn pause(&self) {
        self.wants.clock.pause();
    }

    /// The VM runs again, and they go on.
    pub fn resume(&self) {
        self.wants.clock.resume();
    }

    fn spawn(&self) -> Result<JoinHandle<()>, HostError> {
        let Wants { entries, tell, clock } = self.wants.clone();
        for entry in entries.iter() {
            let clock = Arc::clone(&clock);
            entry.handle.on_change(Arc::new(move || clock.wake()));
        }
        let body = move || keep(&entries, &*tell, &*clock);
        let thread = std::thread::Builder::new().name("balloons".into()).spawn(body);
        thread.map_err(|error| HostError::new("clone", error).of("balloons"))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wants.clock.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks at all balloons whenever one of them needs it, by its time or as something changed.
pub fn keep(entries: &[Entry], tell: &dyn Tell, clock: &dyn Clock) {
    loop {
        let looks = entries.iter().filter_map(|entry| entry.look(clock, tell));
        let next = looks.min();
        if !clock.wait(next) {
            return;
        }
    }
}
