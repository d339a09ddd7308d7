//! The thread that looks at balloons and carries out what their controllers decide. It exists from the first request
//! on: a VM that is never asked has none.

use super::board::{Entry, Tell};
use super::controller::Ask;
use crate::sys::HostError;
use resources::VnodeId;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks while a request is under way: the window of 64 MiB lets 12 GiB/s through.
const BUSY: Duration = Duration::from_millis(5);
/// And otherwise: drivers that come, and pages that the guest took back because it needed them.
const CALM: Duration = Duration::from_millis(500);

/// All balloons of a VM.
pub struct Keeper {
    entries: Arc<[Entry]>,
    tell: Arc<dyn Tell>,
    started: Instant,
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// Asks balloons for things while their keeper lives. Other threads may have it.
#[derive(Clone)]
pub struct Wants {
    entries: Arc<[Entry]>,
    tell: Arc<dyn Tell>,
    started: Instant,
    wake: mpsc::Sender<()>,
}

impl Wants {
    /// The balloons.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Has a vnode's balloon hold as many pages; the number of the request, or `None` if it has none.
    pub fn want(&self, vnode: VnodeId, ask: Ask) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.vnode == vnode)?;
        let number = entry.want(self.started.elapsed(), ask, &*self.tell);
        // Nobody listens any more when the VM ends.
        let _ = self.wake.send(());
        Some(number)
    }
}

impl Keeper {
    /// Looks at nothing yet.
    pub fn new(entries: Arc<[Entry]>, tell: Arc<dyn Tell>) -> Self {
        Self { entries, tell, started: Instant::now(), thread: None }
    }

    /// What balloons are asked with; from now on somebody looks at them.
    pub fn wants(&mut self) -> Result<Wants, HostError> {
        let wake = match &self.thread {
            Some((wake, _)) => wake.clone(),
            None => self.thread.insert(self.spawn()?).0.clone(),
        };
        let (entries, tell) = (Arc::clone(&self.entries), Arc::clone(&self.tell));
        Ok(Wants { entries, tell, started: self.started, wake })
    }

    /// Has a vnode's balloon hold as many pages; false if it has none.
    pub fn want(&mut self, vnode: VnodeId, ask: Ask) -> Result<bool, HostError> {
        Ok(self.wants()?.want(vnode, ask).is_some())
    }

    fn spawn(&self) -> Result<(mpsc::Sender<()>, JoinHandle<()>), HostError> {
        let (wake, woken) = mpsc::channel();
        let (entries, tell, started) = (Arc::clone(&self.entries), Arc::clone(&self.tell), self.started);
        let body = move || keep(&entries, &*tell, started, &woken);
        let thread = std::thread::Builder::new().name("balloons".into()).spawn(body);
        let thread = thread.map_err(|error| HostError::new("clone", error).of("balloons"))?;
        Ok((wake, thread))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((wake, thread)) = self.thread.take() {
            drop(wake);
            let _ = thread.join();
        }
    }
}

fn keep(entries: &[Entry], tell: &dyn Tell, started: Instant, woken: &mpsc::Receiver<()>) {
    loop {
        let busy = entries.iter().filter(|entry| entry.look(started.elapsed(), tell)).count();
        match woken.recv_timeout(if busy > 0 { BUSY } else { CALM }) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
