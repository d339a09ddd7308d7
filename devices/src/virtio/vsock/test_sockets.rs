//! Host processes of a test, at the other ends of socket pairs.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};
use vmm_sys_util::eventfd::EventFd;

use super::{HostSockets, HostStream};

pub(in crate::virtio) struct FakeStream {
    stream: UnixStream,
    gone: Arc<AtomicBool>,
    receives: Arc<AtomicUsize>,
}

fn io_error(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        error => io::Error::other(error),
    }
}

impl HostStream for FakeStream {
    fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Piece by piece, which is the same to who cannot see the calls.
    fn receive<B: BitmapSlice>(&mut self, into: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        self.receives.fetch_add(1, Ordering::Relaxed);
        let mut done = 0;
        for piece in into {
            match self.stream.read_volatile(&mut piece.clone()).map_err(io_error) {
                Ok(bytes) => {
                    done += bytes;
                    if bytes < piece.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn send<B: BitmapSlice>(&mut self, from: &VolatileSlice<'_, B>) -> io::Result<usize> {
        self.stream.write_volatile(from).map_err(io_error)
    }

    fn shutdown(&mut self, how: Shutdown) {
        let _ = self.stream.shutdown(how);
    }

    fn is_hung_up(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// A host process's end. Dropped, it is gone.
pub(in crate::virtio) struct HostEnd {
    pub stream: UnixStream,
    gone: Arc<AtomicBool>,
    /// How often the device asked for what this end wrote.
    pub receives: Arc<AtomicUsize>,
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl HostEnd {
    /// All that can be read now; `None` in the end for the end.
    pub fn read(&mut self) -> (Vec<u8>, bool) {
        let (mut data, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => return (data, true),
                Ok(n) => data.extend(&part[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (data, false),
                Err(_) => return (data, true),
            }
        }
    }

    pub fn write(&mut self, data: &[u8]) -> usize {
        self.stream.write(data).unwrap_or(0)
    }
}

fn pair() -> (FakeStream, HostEnd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let gone = Arc::<AtomicBool>::default();
    let receives = Arc::<AtomicUsize>::default();
    let stream = FakeStream { stream: ours, gone: Arc::clone(&gone), receives: Arc::clone(&receives) };
    (stream, HostEnd { stream: theirs, gone, receives })
}

/// Ports below 100 answer.
pub(in crate::virtio) struct FakeSockets {
    listener: EventFd,
    accepts: Mutex<VecDeque<FakeStream>>,
    connected: Mutex<Vec<(u32, HostEnd)>>,
    pub accept_fails: AtomicBool,
}

impl FakeSockets {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            listener: EventFd::new(0).unwrap(),
            accepts: Mutex::default(),
            connected: Mutex::default(),
            accept_fails: AtomicBool::default(),
        })
    }

    /// A host process connects.
    pub fn arrive(&self) -> HostEnd {
        let (ours, theirs) = pair();
        self.accepts.lock().unwrap().push_back(ours);
        theirs
    }

    /// What the guest connected to last.
    pub fn connected(&self) -> Option<(u32, HostEnd)> {
        self.connected.lock().unwrap().pop()
    }
}

impl HostSockets for FakeSockets {
    type Stream = FakeStream;

    fn listener(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn accept(&self) -> io::Result<FakeStream> {
        if self.accept_fails.load(Ordering::Relaxed) {
            // EMFILE
            return Err(io::Error::from_raw_os_error(24));
        }
        self.accepts.lock().unwrap().pop_front().ok_or(io::ErrorKind::WouldBlock.into())
    }

    fn connect(&self, port: u32) -> io::Result<FakeStream> {
        if port >= 100 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = pair();
        self.connected.lock().unwrap().push((port, theirs));
        Ok(ours)
    }
}
