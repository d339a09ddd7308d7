//! Lets vCPU threads run, wait or end.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What vCPU threads should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wanted {
    /// Wait for the start.
    Wait,
    /// Run.
    Run,
    /// End.
    End,
}

/// What is wanted, and how many threads wait.
pub struct Gate {
    // Sequentially consistent with `ImmediateExit`: either a thread sees what is wanted, or its next KVM_RUN returns.
    wanted: AtomicU8,
    waiting: Mutex<usize>,
    changed: Condvar,
    arrived: Condvar,
}

impl Gate {
    /// Closed: threads wait.
    pub fn new() -> Self {
        Self {
            wanted: AtomicU8::new(Wanted::Wait as u8),
            waiting: Mutex::new(0),
            changed: Condvar::new(),
            arrived: Condvar::new(),
        }
    }

    /// Changes what is wanted. Threads inside KVM_RUN have to be kicked to notice.
    pub fn set(&self, wanted: Wanted) {
        let _waiting = self.lock();
        self.wanted.store(wanted as u8, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether a thread may go on running; cheap.
    pub fn open(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) == Wanted::Run as u8
    }

    /// Waits until threads should run (true) or end (false).
    pub fn pass(&self) -> bool {
        let mut waiting = self.lock();
        *waiting += 1;
        self.arrived.notify_all();
        while self.wanted.load(Ordering::SeqCst) == Wanted::Wait as u8 {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        *waiting -= 1;
        self.open()
    }

    /// Waits until `threads` wait, or for as long as `within`; gives how many do.
    pub fn wait_for(&self, threads: usize, within: Duration) -> usize {
        let few = |waiting: &mut usize| *waiting < threads;
        let result = self.arrived.wait_timeout_while(self.lock(), within, few);
        *result.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Wanted};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn threads_wait_until_they_may_run_or_end() {
        for (wanted, runs) in [(Wanted::Run, true), (Wanted::End, false)] {
            let gate = Arc::new(Gate::new());
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let gate = Arc::clone(&gate);
                    std::thread::spawn(move || gate.pass())
                })
                .collect();
            assert_eq!(gate.wait_for(3, Duration::from_secs(60)), 3);
            assert_eq!(gate.wait_for(4, Duration::ZERO), 3);
            assert!(!gate.open());
            gate.set(wanted);
            assert!(threads.into_iter().all(|thread| thread.join().unwrap() == runs));
        }
    }
}
