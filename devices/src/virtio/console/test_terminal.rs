//! A host's end of a console for tests: somebody who types, reads or does not, and goes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::ConsoleHost;

/// What he does.
pub struct Desk {
    fd: EventFd,
    /// Somebody is attached.
    pub here: bool,
    /// Somebody wants to be.
    pub comes: bool,
    /// Nobody can be let in.
    pub is_locked: bool,
    /// He left, which nobody has noticed.
    pub left: bool,
    pub typed: VecDeque<u8>,
    /// He will type no more than that.
    pub typed_all: bool,
    /// As many bytes he takes.
    pub room: usize,
    /// All that he took.
    pub read: Vec<u8>,
    /// Nobody can be attached: output goes here, or is refused.
    pub is_file: bool,
    pub refuses: bool,
}

/// Shared by the device and its test.
#[derive(Clone)]
pub struct TestTerminal(Arc<Mutex<Desk>>);

impl TestTerminal {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Desk {
            fd: EventFd::new(0).unwrap(),
            here: false,
            comes: false,
            is_locked: false,
            left: false,
            typed: VecDeque::new(),
            typed_all: false,
            room: usize::MAX,
            read: Vec::new(),
            is_file: false,
            refuses: false,
        })))
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap()
    }
}

impl ConsoleHost for TestTerminal {
    fn listener(&self) -> Option<RawFd> {
        let desk = self.desk();
        (!desk.is_file).then(|| desk.fd.as_raw_fd())
    }

    fn attach(&mut self) -> io::Result<bool> {
        let mut desk = self.desk();
        if desk.is_locked {
            return Err(ErrorKind::OutOfMemory.into());
        }
        let comes = std::mem::take(&mut desk.comes) && !desk.here;
        desk.here |= comes;
        Ok(comes)
    }

    fn attached(&self) -> Option<RawFd> {
        let desk = self.desk();
        desk.here.then(|| desk.fd.as_raw_fd())
    }

    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let mut desk = self.desk();
        assert!(desk.here, "nobody types");
        let count = desk.typed.len().min(data.len());
        for (byte, typed) in data.iter_mut().zip(desk.typed.drain(..count)) {
            *byte = typed;
        }
        match count {
            0 if desk.left => Err(ErrorKind::ConnectionReset.into()),
            0 if !desk.typed_all => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut desk = self.desk();
        if desk.refuses || desk.left {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = if desk.here || desk.is_file { data.len().min(desk.room) } else { 0 };
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        desk.room -= count;
        desk.read.extend(&data[..count]);
        Ok(count)
    }

    fn detach(&mut self) {
        let mut desk = self.desk();
        (desk.here, desk.left) = (false, false);
    }
}
