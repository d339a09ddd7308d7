//! The thread that looks at balloons and carries out what their controllers decide. It exists from the first request
//! on: a VM that is never asked has none.

use super::board::Entry;
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
    started: Instant,
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Keeper {
    /// Looks at nothing yet.
    pub fn new(entries: Arc<[Entry]>) -> Self {
        Self { entries, started: Instant::now(), thread: None }
    }

    /// Has a vnode's balloon hold as many pages; false if it has none.
    pub fn want(&mut self, vnode: VnodeId, ask: Ask) -> Result<bool, HostError> {
        let Some(entry) = self.entries.iter().find(|entry| entry.vnode == vnode) else {
            return Ok(false);
        };
        let wake = match &self.thread {
            Some((wake, _)) => wake,
            None => &self.thread.insert(self.spawn()?).0,
        };
        entry.want(self.started.elapsed(), ask);
        // Never ends by itself.
        let _ = wake.send(());
        Ok(true)
    }

    fn spawn(&self) -> Result<(mpsc::Sender<()>, JoinHandle<()>), HostError> {
        let (wake, woken) = mpsc::channel();
        let (entries, started) = (Arc::clone(&self.entries), self.started);
        let body = move || keep(&entries, started, &woken);
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

fn keep(entries: &[Entry], started: Instant, woken: &mpsc::Receiver<()>) {
    loop {
        let busy = entries.iter().filter(|entry| entry.look(started.elapsed())).count();
        match woken.recv_timeout(if busy > 0 { BUSY } else { CALM }) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
