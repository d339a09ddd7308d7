//! Says when a disk's requests fail because the host's storage is full, seldom enough that a guest that goes on writing
//! fills nothing else. Counting them is the device's part, and what to do about it is whoever hears of it.

use devices::virtio::blk::{Completion, DiskEngine, Operation};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two reports of one disk.
const APART: Duration = Duration::from_secs(30);

/// Where the reports of a disk go.
pub struct FullReports {
    report: Box<dyn Fn(u64) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    /// Requests that failed since.
    failed: u64,
}

impl FullReports {
    /// Calls `report` with the number of requests that failed since the last report, from the threads of the disk.
    pub fn new(report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { report: Box::new(report), state: Mutex::default() }
    }

    fn look(&self, done: &[Completion], now: Instant) {
        let full = |completion: &&Completion| {
            matches!(&completion.result, Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        };
        let failed = done.iter().filter(full).count() as u64;
        if failed == 0 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = state.failed.saturating_add(failed);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            return;
        }
        state.last = Some(now);
        let failed = std::mem::take(&mut state.failed);
        drop(state);
        (self.report)(failed);
    }
}

impl fmt::Debug for FullReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FullReports").field("state", &self.state).finish_non_exhaustive()
    }
}

/// An engine whose completions are looked at.
pub struct Reporting {
    /// The engine.
    pub engine: Box<dyn DiskEngine>,
    /// Where reports go.
    pub reports: Arc<FullReports>,
}

impl Reporting {
    fn look(&self, done: &[Completion]) {
        self.reports.look(done, Instant::now());
    }
}

impl DiskEngine for Reporting {
    fn fds(&self) -> [Option<RawFd>; 2] {
        self.engine.fds()
    }

    fn follow_thread(&mut self) {
        self.engine.follow_thread();
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        self.engine.submit(tag, operation);
    }

    fn start(&mut self) {
        self.engine.start();
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        self.engine.completions(done);
        self.look(done.get(before..).unwrap_or_default());
    }

    fn drain(&mut self, done: &mut Vec<Completion>, cancelled: &AtomicBool) {
        let before = done.len();
        self.engine.drain(done, cancelled);
        self.look(done.get(before..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::{APART, Completion, FullReports};
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    fn failed(errno: i32, count: usize) -> Vec<Completion> {
        let completion = |_| Completion { tag: 0, result: Err(io::Error::from_raw_os_error(errno)) };
        (0..count).map(completion).collect()
    }

    #[test]
    fn a_full_disk_is_reported_at_once_and_then_seldom_with_all_that_failed() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&told);
        let reports = FullReports::new(move |failed| hears.lock().unwrap().push(failed));
        let begin = Instant::now();
        reports.look(&failed(libc::EIO, 3), begin);
        reports.look(&[Completion { tag: 0, result: Ok(()) }], begin);
        assert!(told.lock().unwrap().is_empty());
        reports.look(&failed(libc::ENOSPC, 2), begin);
        for second in 0..APART.as_secs() {
            reports.look(&failed(libc::EDQUOT, 10), begin + Duration::from_secs(second));
        }
        assert_eq!(*told.lock().unwrap(), [2]);
        reports.look(&failed(libc::ENOSPC, 1), begin + APART);
        assert_eq!(*told.lock().unwrap(), [2, 10 * APART.as_secs() + 1]);
    }
}
