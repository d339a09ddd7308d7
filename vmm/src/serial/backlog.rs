//! Output between vCPUs that print and the thread that writes: a bounded number of bytes, and what happens when they are
//! too many. When lines are complete enough to come here is `devices`' knowledge.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that wait for the reader before the guest has to: some screens full.
const MOST_BYTES: usize = 64 << 10;

/// What the thread is woken with.
pub fn wake_fd() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)
}

/// The bytes.
pub struct Backlog {
    state: Mutex<State>,
    room: Condvar,
    wake: Arc<EventFd>,
}

struct State {
    bytes: Vec<u8>,
    /// A vCPU that prints waits while there is no room.
    guest_waits: bool,
    /// Nobody writes any more.
    closed: bool,
}

impl Backlog {
    /// Nothing yet. `wake` is written to when there is something to write.
    pub fn new(wake: Arc<EventFd>) -> Self {
        let state = State { bytes: Vec::new(), guest_waits: false, closed: false };
        Self { state: Mutex::new(state), room: Condvar::new(), wake }
    }

    /// Whether a vCPU waits for a slow reader. If not, and for those that wait now, the bytes are taken all the same: a
    /// vCPU has no more of them than one exit brings, so do not say so while vCPUs run.
    pub fn let_guest_wait(&self, waits: bool) {
        self.lock().guest_waits = waits;
        self.room.notify_all();
    }

    /// Whether [`push`](Self::push) would not wait.
    pub fn has_room(&self) -> bool {
        let state = self.lock();
        !state.is_full()
    }

    /// Takes bytes; waits for room.
    pub fn push(&self, bytes: &[u8]) {
        let state = self.lock();
        let full = |state: &mut State| state.is_full();
        let mut state = self.room.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        let first = state.bytes.is_empty();
        state.bytes.extend_from_slice(bytes);
        drop(state);
        if first {
            // Cannot block: the counter would have to be at 2^64 - 2.
            let _ = self.wake.write(1);
        }
    }

    /// The first of them, as many as `bytes` holds.
    pub fn peek(&self, bytes: &mut [u8]) -> usize {
        let state = self.lock();
        let count = state.bytes.len().min(bytes.len());
        bytes[..count].copy_from_slice(&state.bytes[..count]);
        count
    }

    /// So many are done with.
    pub fn drop_first(&self, count: usize) {
        let mut state = self.lock();
        let count = count.min(state.bytes.len());
        state.bytes.drain(..count);
        state.bytes.shrink_to(MOST_BYTES);
        drop(state);
        self.room.notify_all();
    }

    /// Throws all away; how many they were.
    pub fn clear(&self) -> usize {
        let lost = std::mem::take(&mut self.lock().bytes).len();
        self.room.notify_all();
        lost
    }

    /// Nobody writes any more: what comes is thrown away.
    pub fn close(&self) {
        self.lock().closed = true;
        self.clear();
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.guest_waits && !self.closed && self.bytes.len() >= MOST_BYTES
    }
}

/// The serial port's sink.
pub struct Sink(pub Arc<Backlog>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Backlog, MOST_BYTES, wake_fd};
    use std::sync::Arc;

    fn backlog() -> Arc<Backlog> {
        let backlog = Backlog::new(Arc::new(wake_fd().unwrap()));
        backlog.let_guest_wait(true);
        Arc::new(backlog)
    }

    #[test]
    fn the_writer_is_woken_once_for_what_comes_while_there_is_something() {
        let backlog = backlog();
        backlog.push(b"one\n");
        backlog.push(b"two\n");
        assert_eq!(backlog.wake.read().unwrap(), 1);
        let mut bytes = [0; 64];
        assert_eq!(backlog.peek(&mut bytes), 8);
        backlog.drop_first(4);
        assert_eq!((backlog.peek(&mut bytes), &bytes[..4]), (4, &b"two\n"[..]));
        backlog.drop_first(64);
        assert!(backlog.is_empty() && backlog.wake.read().is_err());
        backlog.push(b"x");
        assert_eq!(backlog.wake.read().unwrap(), 1);
    }

    #[test]
    fn a_full_backlog_holds_who_prints_until_there_is_room_or_nobody_may_wait() {
        for let_go in
            [|backlog: &Backlog| backlog.drop_first(1), |backlog: &Backlog| backlog.let_guest_wait(false)]
        {
            let backlog = backlog();
            backlog.push(&[b'x'; MOST_BYTES]);
            assert!(!backlog.has_room());
            let (printer, (told, tells)) = (Arc::clone(&backlog), std::sync::mpsc::channel());
            let thread = std::thread::spawn(move || {
                printer.push(b"y");
                told.send(()).unwrap();
            });
            assert!(tells.try_recv().is_err());
            let_go(&backlog);
            thread.join().unwrap();
            assert!(tells.recv().is_ok());
            assert_eq!(backlog.clear() % MOST_BYTES, usize::from(!backlog.lock().guest_waits));
        }
    }
}
