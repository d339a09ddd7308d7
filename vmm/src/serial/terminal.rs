//! Raw mode of the terminal on standard input, whoever has it in the foreground. What is typed there is `input`'s.

use crate::sys::{HostError, block_signals, restore_terminal_at_a_crash};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{LocalFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Has this thread, and those that it starts, not stopped by the terminal for writing to it or reading from it in the
/// background (SIGTTOU, SIGTTIN): a process stops as a whole, and its guest with it.
pub fn block_terminal_stops() -> Result<(), HostError> {
    block_signals(&[Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect::<SigSet>())
}

/// Whether keys typed at the terminal are another process group's.
pub fn in_background() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground != getpgrp())
}

/// The terminal on standard input, if it is one; as it was again when dropped.
#[derive(Default)]
pub struct Terminal {
    before: Mutex<Option<Termios>>,
}

impl Terminal {
    /// Makes it raw if it is a terminal and this process in its foreground. Again, if somebody else changed that.
    pub fn enter(&self) {
        let stdin = io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok() != Some(getpgrp()) {
            return;
        }
        let Ok(now) = tcgetattr(&stdin) else { return };
        let mut before = self.lock();
        if before.is_some() && !now.local_flags.contains(LocalFlags::ICANON) {
            return;
        }
        let mut raw = now.clone();
        cfmakeraw(&mut raw);
        restore_terminal_at_a_crash(Some(&now));
        if tcsetattr(&stdin, SetArg::TCSANOW, &raw).is_ok() {
            *before = Some(now);
        }
    }

    /// Makes it as it was, unless it is somebody else's now.
    pub fn leave(&self) {
        if let Some(before) = self.lock().take() {
            if !in_background() {
                let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
            }
            restore_terminal_at_a_crash(None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Termios>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}
