//! The running half of a console: output from the transmit queue to the host's end, what is typed into the receive
//! queue's buffers.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::backlog::{BACKLOG_BYTES, Backlog};
use super::counters::ConsoleCounters;
use super::host::ConsoleHost;
use crate::virtio::{Chain, GuestMemoryHandle, Interest, QueuePosition, Source, Worker, WorkerQueue};

/// How long the guest may have to wait for a client that reads slowly, before output is lost to it. Linux calls a CPU
/// that spins for 10 seconds stuck.
const PATIENCE: Duration = Duration::from_millis(200);
/// When nobody could be let in, it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Copied at once.
const CHUNK_BYTES: usize = 4096;

/// Bytes whose copying and writing costs about as much as following a descriptor.
const BYTES_PER_WORK: usize = 64;
/// What a system call costs, in the same unit.
const WORK_PER_READ: usize = 16;

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const TIMER: u32 = 2;
const LISTENER: u32 = 3;
/// From here on: the client. Another number each time, since its descriptor may have the number of the last one.
const ATTACHED: u32 = 16;

/// What outlives a driver.
pub(super) struct Port {
    pub host: Box<dyn ConsoleHost>,
    pub backlog: Backlog,
    /// The client took nothing for [`PATIENCE`] while the backlog was full.
    pub stalled: bool,
    /// The client will type no more, but may still read.
    pub silent: bool,
    /// Counts the clients.
    pub visit: u32,
}

pub(super) struct ConsoleWorker<M> {
    receive: WorkerQueue<M>,
    transmit: WorkerQueue<M>,
    /// Armed while a chain waits for room in the backlog, or no client can be let in.
    timer: TimerFd,
    port: Arc<Mutex<Port>>,
    counters: Arc<ConsoleCounters>,
    /// The guest has room for more that is typed.
    hungry: bool,
    /// A chain waits for room in the backlog.
    holding: bool,
    /// A client may be let in.
    listening: bool,
    /// What is waited for of clients since the last time the sources were asked.
    waiting: [Option<Source>; 2],
}

impl<M: GuestMemoryHandle> ConsoleWorker<M> {
    pub fn new(
        receive: WorkerQueue<M>,
        transmit: WorkerQueue<M>,
        timer: TimerFd,
        port: Arc<Mutex<Port>>,
        counters: Arc<ConsoleCounters>,
    ) -> Self {
        let (hungry, holding, listening, waiting) = (false, false, true, [None; 2]);
        Self { receive, transmit, timer, port, counters, hungry, holding, listening, waiting }
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        lock(&self.port)
    }

    /// Takes what the guest prints.
    fn print(&mut self) {
        let port = Arc::clone(&self.port);
        let mut port = lock(&port);
        self.holding = false;
        self.transmit.begin();
        while let Some(chain) = self.transmit.pop() {
            let bytes = usize::try_from(chain.readable_bytes()).unwrap_or(usize::MAX);
            if bytes.min(BACKLOG_BYTES) > port.backlog.room()
                && port.host.attached().is_some()
                && !port.stalled
            {
                self.transmit.put_back(chain);
                self.holding = true;
                // Without the timer the client is waited for until it reads or leaves.
                let _ = self.timer.reset(PATIENCE, None);
                break;
            }
            if bytes == 0 {
                self.counters.malformed.one();
                self.transmit.refused("a buffer without anything to print");
            }
            self.take(&chain, bytes, &mut port);
            // The end of a chain is copied chunk by chunk, and each chunk looked for from the chain's start.
            let copied = bytes.min(BACKLOG_BYTES);
            self.transmit
                .charge(copied.div_ceil(CHUNK_BYTES) * chain.readable().len() + copied / BYTES_PER_WORK);
            self.transmit.used(chain, 0);
        }
        self.transmit.signal();
    }

    /// Only the end of a chain that is longer than the backlog is looked at.
    fn take(&self, chain: &Chain, bytes: usize, port: &mut Port) {
        let memory = self.transmit.memory();
        let mut at = bytes.saturating_sub(BACKLOG_BYTES);
        self.counters.printed_bytes.add(bytes_of(bytes));
        self.counters.lost_bytes.add(bytes_of(at));
        let mut buffer = [0; CHUNK_BYTES];
        while at < bytes {
            let length = (bytes - at).min(CHUNK_BYTES);
            let read = chain.read(memory, u64::try_from(at).unwrap_or(u64::MAX), &mut buffer[..length]);
            if read == 0 {
                break;
            }
            at += read;
            self.counters.lost_bytes.add(bytes_of(port.backlog.push(&buffer[..read])));
            flush(port, &self.counters);
        }
    }

    /// Gives the guest what was typed, as far as it has room. What it has no room for stays where it is.
    fn feed(&mut self) {
        let port = Arc::clone(&self.port);
        let mut port = lock(&port);
        self.hungry = false;
        self.receive.begin();
        let mut buffer = [0; CHUNK_BYTES];
        while port.host.attached().is_some() && !port.silent {
            let Some(chain) = self.receive.pop() else { break };
            let room = usize::try_from(chain.writable_bytes()).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            if room == 0 {
                self.counters.malformed.one();
                self.receive.refused("a buffer without room for what is typed");
                self.receive.used(chain, 0);
                continue;
            }
            match port.host.read(&mut buffer[..room]) {
                Ok(typed @ 1..) => {
                    self.receive.charge(typed / BYTES_PER_WORK + WORK_PER_READ);
                    let written = chain.write(self.receive.memory(), 0, &buffer[..typed.min(room)]);
                    self.counters.typed_bytes.add(bytes_of(written));
                    self.receive.used(chain, u32::try_from(written).unwrap_or(u32::MAX));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.receive.put_back(chain);
                    self.hungry = true;
                    break;
                }
                Ok(0) => {
                    self.receive.put_back(chain);
                    port.silent = true;
                }
                Err(_) => {
                    self.receive.put_back(chain);
                    port.host.detach();
                }
            }
        }
        self.receive.signal();
    }

    /// The client can take more, or it typed, or it is gone.
    fn attend(&mut self) {
        flush(&mut self.port(), &self.counters);
        if self.holding {
            self.print();
        }
        self.feed();
    }

    fn attach(&mut self) {
        let mut port = self.port();
        match port.host.attach() {
            Ok(true) => {
                port.visit = port.visit.wrapping_add(1);
                (port.stalled, port.silent) = (false, false);
                self.counters.attached.one();
                drop(port);
                self.attend();
            }
            Ok(false) => {}
            Err(_) => {
                drop(port);
                self.listening = false;
                if !self.holding {
                    // Without the timer none is let in until the guest starts anew.
                    let _ = self.timer.reset(RETRY, None);
                }
            }
        }
    }

    /// The listener, and the client.
    fn clients(&self) -> [Option<Source>; 2] {
        let port = self.port();
        let listener = port.host.listener().filter(|_| self.listening);
        let listener = listener.map(|fd| Source { fd, token: LISTENER, interest: Interest::Readable });
        let interest = match (self.hungry, port.backlog.is_empty()) {
            (true, true) => Some(Interest::Readable),
            (true, false) => Some(Interest::Both),
            (false, false) => Some(Interest::Writable),
            (false, true) => None,
        };
        let token = ATTACHED + port.visit % (u32::MAX - ATTACHED);
        let attached = port.host.attached().zip(interest);
        [listener, attached.map(|(fd, interest)| Source { fd, token, interest })]
    }
}

fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn lock(port: &Mutex<Port>) -> MutexGuard<'_, Port> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands over what there is, as far as it is taken now.
fn flush(port: &mut Port, counters: &ConsoleCounters) {
    while !port.backlog.is_empty() {
        match port.host.write(port.backlog.front()) {
            Ok(count @ 1..) => {
                port.stalled = false;
                port.backlog.take(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The next client shall have it; a file's loss is a loss.
            Ok(0) | Err(_) if port.host.attached().is_some() => return port.host.detach(),
            Ok(0) | Err(_) => return counters.lost_bytes.add(bytes_of(port.backlog.clear())),
        }
    }
}

impl<M: GuestMemoryHandle> Worker for ConsoleWorker<M> {
    fn sources(&self) -> Vec<Source> {
        let timer = Source { fd: self.timer.as_raw_fd(), token: TIMER, interest: Interest::Readable };
        let mut sources = vec![self.receive.source(RECEIVE), self.transmit.source(TRANSMIT), timer];
        sources.extend(self.clients().into_iter().flatten());
        sources
    }

    fn start(&mut self) {
        self.print();
        self.feed();
        self.waiting = self.clients();
    }

    fn ready(&mut self, token: u32) -> bool {
        match token {
            RECEIVE => self.feed(),
            TRANSMIT if self.holding => {}
            TRANSMIT => self.print(),
            TIMER => {
                // Not read: it may have been set anew since it ran out.
                let _ = self.timer.clear();
                self.listening = true;
                if self.holding {
                    self.port().stalled = true;
                    self.print();
                }
            }
            LISTENER => self.attach(),
            _ => self.attend(),
        }
        let now = self.clients();
        let changed = now != self.waiting;
        self.waiting = now;
        changed
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        vec![self.receive.position(), self.transmit.position()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
