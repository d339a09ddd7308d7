//! The time of a VM's balloons, and how their thread waits for it. It stands still while the VM is paused. What is looked
//! at when the wait is over is left to that thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two looks, whoever wakes the thread: a guest can do so as often as it likes.
pub const LEAST: Duration = Duration::from_millis(5);

/// A clock that can be waited for.
pub trait Clock: Send + Sync {
    /// How long the VM has run.
    fn now(&self) -> Duration;

    /// Waits for a wake-up, or until it is `until`, if that is given, whichever comes first; false when no more looks are
    /// wanted.
    fn wait(&self, until: Option<Duration>) -> bool;
}

/// The clock of a VM.
pub struct VmClock {
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Since when the VM is paused.
    paused: Option<Duration>,
    /// How long it was paused before.
    pauses: Duration,
    woken: bool,
    ended: bool,
}

impl VmClock {
    /// The VM runs from now on.
    pub fn new() -> Self {
        Self { started: Instant::now(), state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, state: &State) -> Duration {
        state.paused.unwrap_or_else(|| self.started.elapsed()).saturating_sub(state.pauses)
    }

    /// Ends a wait, or the next one. May be called with locks held: it never blocks for long.
    pub fn wake(&self) {
        if !std::mem::replace(&mut self.state().woken, true) {
            self.changed.notify_all();
        }
    }

    /// The VM is paused: no time passes, and waits go on.
    pub fn pause(&self) {
        self.state().paused.get_or_insert_with(|| self.started.elapsed());
    }

    /// It runs again.
    pub fn resume(&self) {
        let mut state = self.state();
        if let Some(paused) = state.paused.take() {
            state.pauses = state.pauses.saturating_add(self.started.elapsed().saturating_sub(paused));
            self.changed.notify_all();
        }
    }

    /// No more looks are wanted.
    pub fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }
}

impl Clock for VmClock {
    fn now(&self) -> Duration {
        self.at(&self.state())
    }

    fn wait(&self, until: Option<Duration>) -> bool {
        let mut state = self.state();
        let least = self.at(&state).saturating_add(LEAST);
        while !state.ended {
            let due = match (state.paused, state.woken) {
                (Some(_), _) => None,
                (None, true) => Some(least),
                (None, false) => until.map(|until| until.max(least)),
            };
            let left = due.map(|due| due.saturating_sub(self.at(&state)));
            state = match left {
                Some(Duration::ZERO) => {
                    state.woken = false;
                    return true;
                }
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, LEAST, VmClock};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn time_stands_still_while_the_vm_is_paused() {
        let clock = VmClock::new();
        let before = clock.now();
        clock.pause();
        clock.pause();
        let paused = clock.now();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(clock.now(), paused);
        clock.resume();
        clock.resume();
        let after = clock.now();
        assert!(before <= paused && paused <= after, "{before:?} {paused:?} {after:?}");
        assert!(after < clock.started.elapsed().saturating_sub(Duration::from_millis(19)));
    }

    #[test]
    fn a_wait_ends_when_it_is_time_or_somebody_wakes_but_not_while_the_vm_is_paused() {
        let clock = Arc::new(VmClock::new());
        // Time alone, and what came before the wait.
        let until = clock.now() + LEAST;
        assert!(clock.wait(Some(until)) && clock.now() >= until);
        clock.wake();
        let before = clock.now();
        assert!(clock.wait(None) && clock.now().saturating_sub(before) >= LEAST);
        // From another thread; none of it ends a wait of a VM that is paused.
        clock.pause();
        let (done, is_done) = mpsc::channel();
        let waiting = Arc::clone(&clock);
        let thread = thread::spawn(move || {
            done.send(waiting.wait(Some(Duration::ZERO))).unwrap();
            done.send(waiting.wait(None)).unwrap();
        });
        clock.wake();
        assert_eq!(is_done.recv_timeout(LEAST * 8), Err(mpsc::RecvTimeoutError::Timeout));
        clock.resume();
        assert_eq!(is_done.recv(), Ok(true));
        clock.end();
        assert_eq!(is_done.recv(), Ok(false));
        thread.join().unwrap();
    }
}
