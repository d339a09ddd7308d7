//! What is typed on standard input: the escape to quit, and what the guest has not taken yet. When to read is `port`'s
//! decision.

use super::stream::Stream;
use super::terminal::{Terminal, in_background};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Ctrl-A, as in QEMU and minicom.
const ESCAPE: u8 = 0x01;
/// Bytes read at once, at most.
const READ_MAX: usize = 4096;

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
    stream: Stream,
    /// There if the stream is a terminal: in a pipe Ctrl-A is a byte as any other.
    keys: Option<Keys>,
    waiting: Vec<u8>,
    ended: bool,
}

/// A terminal's.
struct Keys {
    terminal: Arc<Terminal>,
    escape: Escape,
    /// Another process group has the terminal: what is typed is not for us.
    in_background: bool,
}

impl Input {
    /// Standard input, nothing read yet; `terminal` is made raw while it is read.
    pub fn stdin(terminal: Arc<Terminal>) -> io::Result<Self> {
        let stdin = io::stdin();
        let keys = Keys { terminal, escape: Escape::default(), in_background: false };
        let keys = stdin.is_terminal().then_some(keys);
        Ok(Self { keys, ..Self::of(Stream::input(stdin.as_fd())?) })
    }

    /// What `stream` brings, which is no terminal.
    pub fn of(stream: Stream) -> Self {
        Self { stream, keys: None, waiting: Vec::new(), ended: false }
    }

    /// Looks who has the terminal, if it is one, and makes it raw if it is this process.
    pub fn look_at_terminal(&mut self) {
        let Some(keys) = self.keys.as_mut().filter(|_| !self.ended) else { return };
        keys.in_background = in_background();
        if !keys.in_background {
            keys.terminal.enter();
        }
    }

    /// Another process group had the terminal at the last look. Nobody says so when that changes.
    pub fn is_in_background(&self) -> bool {
        !self.ended && self.keys.as_ref().is_some_and(|keys| keys.in_background)
    }

    /// What to watch: more should be read, since the guest took what there was.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        let reads = self.waiting.is_empty() && !self.ended && !self.is_in_background();
        reads.then(|| self.stream.as_fd())
    }

    /// Whether bytes wait for the guest.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Reads once; true when the user wants to quit.
    pub fn read(&mut self) -> bool {
        // A terminal may have gone to another process group since it was watched.
        self.look_at_terminal();
        if self.is_in_background() {
            return false;
        }
        let mut bytes = [0; READ_MAX];
        let typed = match self.stream.read(&mut bytes) {
            Ok(0) => {
                self.ended = true;
                return false;
            }
            Ok(length) => &bytes[..length],
            Err(error) => {
                let later = matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock);
                // EIO: it is another's by now (SIGTTIN is blocked), or has hung up.
                self.look_at_terminal();
                self.ended = !later && !self.is_in_background();
                return false;
            }
        };
        match self.keys.as_mut().map(|keys| keys.escape.filter(typed)) {
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
    use super::{Escape, Input, Typed};
    use crate::serial::stream::Stream;
    use std::io::Write;
    use std::os::fd::AsFd;

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

    #[test]
    fn what_is_not_read_yet_stays_readable_and_an_end_is_not_read_again() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[b'a'; 6000]).unwrap();
        let mut input = Input::of(Stream::input(reader.as_fd()).unwrap());
        let mut took = Vec::new();
        while took.len() < 6000 {
            assert!(input.source().is_some() && !input.read() && input.source().is_none());
            while input.has_waiting() {
                input.give(|bytes| {
                    took.extend_from_slice(&bytes[..bytes.len().min(64)]);
                    bytes.len().min(64)
                });
            }
        }
        assert_eq!(took, [b'a'; 6000]);
        assert!(!input.read() && input.source().is_some(), "nothing there now, but the writer is");
        drop(writer);
        assert!(!input.read() && input.source().is_none());
    }
}
