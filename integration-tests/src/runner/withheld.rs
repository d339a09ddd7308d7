//! A network block device of our own that withholds its answers for as long as it is told to: who reads from it past the
//! page cache has its memory in use by the kernel meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use crate::sys::{self, Nbd};

/// Devices that the module makes by itself.
const DEVICES: usize = 16;
const SECTOR: u64 = 512;
/// A request: magic, kind, cookie, offset, length; an answer: magic, error, cookie. All big-endian.
const REQUEST: usize = 28;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const ANSWER_MAGIC: u32 = 0x6744_6698;
const READ: u32 = 0;
const DISCONNECT: u32 = 2;
/// No request for data is longer.
const LONGEST: u32 = 32 << 20;

/// The device, and who serves it.
pub(crate) struct Withheld {
    path: PathBuf,
    device: File,
    state: Arc<Mutex<State>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

struct State {
    content: Vec<u8>,
    socket: UnixStream,
    withhold: bool,
    withheld: Vec<Request>,
}

#[derive(Clone, Copy)]
struct Request {
    cookie: [u8; 8],
    offset: u64,
    length: u32,
}

impl Withheld {
    /// A device with this content; `None` where the host has no free one.
    pub(crate) fn serve(content: Vec<u8>) -> Result<Option<Self>> {
        let size = |number: &usize| fs::read_to_string(format!("/sys/block/nbd{number}/size"));
        let free = |number: &usize| size(number).is_ok_and(|size| size.trim() == "0");
        let Some(number) = (0..DEVICES).find(free) else { return Ok(None) };
        let path = PathBuf::from(format!("/dev/nbd{number}"));
        let open = || OpenOptions::new().read(true).write(true).open(&path).context("opening the nbd device");
        let (device, running) = (open()?, open()?);
        let (ours, kernels) = UnixStream::pair()?;
        sys::nbd(&device, Nbd::SizeInBlocks(content.len() as u64 / SECTOR, SECTOR))?;
        sys::nbd(&device, Nbd::Socket(kernels.into()))?;
        let state = State { content, socket: ours.try_clone()?, withhold: false, withheld: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let answering = Arc::clone(&state);
        let threads = vec![
            thread::spawn(move || answer(ours, &answering)),
            thread::spawn(move || sys::nbd(&running, Nbd::Run)),
        ];
        Ok(Some(Self { path, device, state, threads }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on no read is answered.
    pub(crate) fn withhold(&self) {
        lock(&self.state).withhold = true;
    }

    /// Bytes asked for that wait for an answer.
    pub(crate) fn waiting(&self) -> u64 {
        lock(&self.state).withheld.iter().map(|request| u64::from(request.length)).sum()
    }

    /// Answers all that waits, and what comes.
    pub(crate) fn release(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.withhold = false;
        for request in std::mem::take(&mut state.withheld) {
            state.answer(request)?;
        }
        Ok(())
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        let _ = self.release();
        let _ = sys::nbd(&self.device, Nbd::Disconnect);
        // The kernel waits for this.
        let _ = lock(&self.state).socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = sys::nbd(&self.device, Nbd::Clear);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn answer(&mut self, request: Request) -> io::Result<()> {
        let start = usize::try_from(request.offset).map_err(|_| io::ErrorKind::InvalidData)?;
        let length = usize::try_from(request.length).map_err(|_| io::ErrorKind::InvalidData)?;
        let data = self.content.get(start..start.saturating_add(length)).ok_or(io::ErrorKind::InvalidData)?;
        self.socket.write_all(&ANSWER_MAGIC.to_be_bytes())?;
        self.socket.write_all(&[0; 4])?;
        self.socket.write_all(&request.cookie)?;
        self.socket.write_all(data)
    }
}

/// Reads requests until the kernel takes its leave.
fn answer(mut socket: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    loop {
        let mut request = [0; REQUEST];
        socket.read_exact(&mut request)?;
        let word =
            |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (kind, length) = (word(4) & 0xffff, word(24));
        if kind == DISCONNECT {
            return Ok(());
        }
        if word(0) != REQUEST_MAGIC || kind != READ || length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&request[8..16]);
        let request = Request { cookie, offset: u64::from(word(16)) << 32 | u64::from(word(20)), length };
        let mut state = lock(state);
        match state.withhold {
            true => state.withheld.push(request),
            false => state.answer(request)?,
        }
    }
}
