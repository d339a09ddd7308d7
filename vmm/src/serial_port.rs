//! The host side of the serial port: standard input and output or a file; raw terminal mode; the escape to quit.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use resources::SerialSpec;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ctrl-A, as in QEMU and minicom.
const ESCAPE: u8 = 0x01;
/// A pipe that polls writable takes this much without blocking (`PIPE_BUF`, pipe(7)).
const WRITE_MAX: usize = 4096;
/// How often a writer that waits looks whether the VM is being stopped.
const WRITE_POLL_MS: u16 = 50;

/// Where the guest's output goes. A slow reader slows the guest down and loses nothing; a stop gets through.
pub struct Output {
    file: Option<File>,
    stopping: Arc<AtomicBool>,
}

impl Output {
    /// Opens the output that was asked for.
    pub fn open(spec: &SerialSpec, stopping: Arc<AtomicBool>) -> io::Result<Self> {
        let file = match spec {
            SerialSpec::Stdio => Some(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            SerialSpec::File(path) => Some(OpenOptions::new().append(true).create(true).open(path)?),
            SerialSpec::None => None,
        };
        Ok(Self { file, stopping })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else {
            return Ok(bytes.len());
        };
        loop {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::from(WRITE_POLL_MS)) {
                // What a reader takes at once is still written when the VM stops; a slow one is not waited for.
                Ok(0) if self.stopping.load(Ordering::Relaxed) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => match file.write(&bytes[..bytes.len().min(WRITE_MAX)]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal in raw mode; as it was again when dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal and this process is in its foreground.
    pub fn enter() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// What typed bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the guest, maybe none.
    Guest(Vec<u8>),
    /// The user wants to quit.
    Quit,
}

/// Finds the escape in what is typed: Ctrl-A x quits, Ctrl-A Ctrl-A is a Ctrl-A for the guest, Ctrl-A and anything
/// else is passed on as it is.
#[derive(Debug, Default)]
pub struct Escape {
    armed: bool,
}

impl Escape {
    /// Takes the next bytes.
    pub fn filter(&mut self, bytes: &[u8]) -> Typed {
        let mut guest = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.armed), byte) {
                (false, ESCAPE) => self.armed = true,
                (true, b'x' | b'X') => return Typed::Quit,
                (true, ESCAPE) | (false, _) => guest.push(byte),
                (true, _) => guest.extend([ESCAPE, byte]),
            }
        }
        Typed::Guest(guest)
    }
}

/// What the guest has not taken yet of what was typed, and where more comes from.
pub struct Input {
    /// `None` unless standard input is a terminal: in a pipe Ctrl-A is a byte as any other.
    escape: Option<Escape>,
    waiting: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self { escape: io::stdin().is_terminal().then(Escape::default), waiting: Vec::new(), ended: false }
    }

    /// Whether more should be read: the guest took what there was.
    pub fn hungry(&self) -> bool {
        self.waiting.is_empty() && !self.ended
    }

    /// Whether bytes wait for the guest.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Reads once from standard input; true when the user wants to quit.
    pub fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let typed = match io::stdin().lock().read(&mut bytes) {
            Ok(0) => {
                self.ended = true;
                return false;
            }
            Ok(length) => &bytes[..length],
            Err(error) => {
                self.ended = !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
                return false;
            }
        };
        match self.escape.as_mut().map(|escape| escape.filter(typed)) {
            None => self.waiting.extend_from_slice(typed),
            Some(Typed::Guest(guest)) => self.waiting.extend(guest),
            Some(Typed::Quit) => return true,
        }
        false
    }

    /// Hands over what waits; `take` says how many bytes it took.
    pub fn give(&mut self, take: impl FnOnce(&[u8]) -> usize) {
        let taken = take(&self.waiting).min(self.waiting.len());
        self.waiting.drain(..taken);
    }
}

#[cfg(test)]
mod tests {
    use super::{Escape, Typed};

    #[test]
    fn ctrl_a_x_quits_even_when_typed_slowly() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls\x01"), Typed::Guest(b"ls".to_vec()));
        assert_eq!(escape.filter(b"x"), Typed::Quit);
    }

    #[test]
    fn ctrl_a_twice_is_one_ctrl_a_for_the_guest() {
        assert_eq!(Escape::default().filter(b"\x01\x01x"), Typed::Guest(b"\x01x".to_vec()));
    }

    #[test]
    fn ctrl_a_and_another_key_is_passed_on() {
        assert_eq!(Escape::default().filter(b"\x01k"), Typed::Guest(b"\x01k".to_vec()));
    }
}
