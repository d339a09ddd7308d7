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
    source: Source,
    state: Mutex<State>,
    changed: Condvar,
}

/// What passes whether or not the VM is paused.
enum Source {
    Since(Instant),
    /// As a test has it.
    #[cfg(test)]
    Told(Mutex<Duration>),
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
        Self::of(Source::Since(Instant::now()))
    }

    /// A clock that shows `time` until another is [set](Self::set).
    #[cfg(test)]
    pub fn at(time: Duration) -> Self {
        Self::of(Source::Told(Mutex::new(time)))
    }

    #[cfg(test)]
    pub fn set(&self, time: Duration) {
        if let Source::Told(told) = &self.source {
            *told.lock().unwrap() = time;
        }
    }

    fn of(source: Source) -> Self {
        Self { source, state: Mutex::default(), changed: Condvar::new() }
    }

    fn elapsed(&self) -> Duration {
        match &self.source {
            Source::Since(started) => started.elapsed(),
            #[cfg(test)]
            Source::Told(told) => *told.lock().unwrap(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self, state: &State) -> Duration {
        state.paused.unwrap_or_else(|| self.elapsed()).saturating_sub(state.pauses)
    }

    /// Ends a wait, or the next one. May be called with locks held: it never blocks for long.
    pub fn wake(&self) {
        if !std::mem::replace(&mut self.state().woken, true) {
            self.changed.notify_all();
        }
    }

    /// The VM is paused: no time passes, and waits go on.
    pub fn pause(&self) {
        self.state().paused.get_or_insert_with(|| self.elapsed());
    }

    /// It runs again.
    pub fn resume(&self) {
        let mut state = self.state();
        if let Some(paused) = state.paused.take() {
            state.pauses = state.pauses.saturating_add(self.elapsed().saturating_sub(paused));
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
        self.time(&self.state())
    }

    fn wait(&self, until: Option<Duration>) -> bool {
        let mut state = self.state();
        let least = self.time(&state).saturating_add(LEAST);
        while !state.ended {
            let due = match (state.paused, state.woken) {
                (Some(_), _) => None,
                (None, true) => Some(least),
                (None, false) => until.map(|until| until.max(least)),
            };
            let left = due.map(|due| due.saturating_sub(self.time(&state)));
            state = match left {
                Some(Duration::ZERO) => {
                    state.woken = false;
                    return true;
                }
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
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
        let secs = Duration::from_secs;
        let clock = VmClock::at(secs(3));
        clock.set(secs(5));
        assert_eq!(clock.now(), secs(5));
        clock.pause();
        clock.set(secs(40));
        clock.pause();
        assert_eq!(clock.now(), secs(5));
        clock.resume();
        assert_eq!(clock.now(), secs(5));
        clock.set(secs(47));
        clock.resume();
        assert_eq!(clock.now(), secs(12));
        // A second pause counts for itself.
        clock.pause();
        clock.set(secs(50));
        assert_eq!(clock.now(), secs(12));
        clock.resume();
        clock.set(secs(51));
        assert_eq!(clock.now(), secs(13));
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
