//! The running half of the block device: takes requests from its queues, hands them to the engines and answers them as
//! they end. Rings are [`WorkerQueue`]'s, bytes are the engine's.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::device::Shared;
use super::engine::{Completion, DiskBackend, DiskEngine};
use super::request::{Kind, Refusal, Status, Task, task};
use crate::virtio::{Chain, GuestMemoryHandle, Interest, QueuePosition, Source, Worker, WorkerQueue};

/// Tokens of a queue: its notifications, and its engine's two descriptors.
const TOKENS_PER_QUEUE: u32 = 3;

/// Most operations of a queue at a time, whatever its size.
pub(super) const MAX_DEPTH: u16 = 256;

pub(super) struct BlkWorker<M> {
    backend: Arc<dyn DiskBackend<M>>,
    shared: Arc<Shared>,
    memory: M,
    features: u64,
    /// Until [`Worker::start`].
    waiting: Vec<WorkerQueue<M>>,
    lanes: Vec<Lane<M>>,
}

impl<M: GuestMemoryHandle> BlkWorker<M> {
    pub fn new(
        backend: Arc<dyn DiskBackend<M>>,
        shared: Arc<Shared>,
        memory: M,
        features: u64,
        queues: Vec<WorkerQueue<M>>,
    ) -> Self {
        Self { backend, shared, memory, features, waiting: queues, lanes: Vec::new() }
    }

    fn engine_fds(&self, index: usize) -> [Option<RawFd>; 2] {
        self.lanes.get(index).map_or([None; 2], |lane| lane.engine.fds())
    }

    fn round(&mut self, index: usize, by_driver: bool) {
        let memory = self.memory.memory();
        if let Some(lane) = self.lanes.get_mut(index) {
            if by_driver {
                lane.queue.begin();
            }
            lane.round(&self.shared, self.features, memory);
        }
    }
}

impl<M: GuestMemoryHandle> Worker for BlkWorker<M> {
    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for (base, lane) in (0..).step_by(TOKENS_PER_QUEUE as usize).zip(&self.lanes) {
            sources.push(lane.queue.source(base));
            for (token, fd) in (base + 1..).zip(lane.engine.fds()) {
                sources.extend(fd.map(|fd| Source { fd, token, interest: Interest::Readable }));
            }
        }
        sources
    }

    fn start(&mut self) {
        // Those of a start in another thread.
        self.moved();
        for queue in std::mem::take(&mut self.waiting) {
            let depth = queue.size().clamp(1, MAX_DEPTH);
            let engine = self.backend.engine(&self.memory, depth);
            self.lanes.push(Lane::new(queue, engine, depth));
        }
        for index in 0..self.lanes.len() {
            self.round(index, true);
        }
    }

    fn ready(&mut self, token: u32) -> bool {
        let (index, by_driver) =
            ((token / TOKENS_PER_QUEUE) as usize, token.is_multiple_of(TOKENS_PER_QUEUE));
        let watched = self.engine_fds(index);
        self.round(index, by_driver);
        watched != self.engine_fds(index)
    }

    fn moved(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.engine.follow_thread());
    }

    fn stop(&mut self, cancelled: &AtomicBool) {
        let memory = self.memory.memory();
        for lane in &mut self.lanes {
            lane.engine.drain(&mut lane.done, cancelled);
            lane.finish(&self.shared, memory);
            lane.queue.signal();
        }
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        let started = self.lanes.iter().map(|lane| &lane.queue);
        started.chain(&self.waiting).map(WorkerQueue::position).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// A request that the engine has.
struct Flight {
    chain: Chain,
    kind: Kind,
    bytes: u64,
}

/// A queue and its engine.
struct Lane<M> {
    queue: WorkerQueue<M>,
    engine: Box<dyn DiskEngine>,
    /// By tag.
    flights: Vec<Option<Flight>>,
    free: Vec<u16>,
    done: Vec<Completion>,
}

impl<M: GuestMemoryHandle> Lane<M> {
    fn new(queue: WorkerQueue<M>, engine: Box<dyn DiskEngine>, depth: u16) -> Self {
        let flights = (0..depth).map(|_| None).collect();
        Self { queue, engine, flights, free: (0..depth).rev().collect(), done: Vec::new() }
    }

    /// Takes what the driver offers and gives back what is done, as long as one makes room for the other.
    fn round(&mut self, shared: &Shared, features: u64, memory: &M::M) {
        shared.counters.rounds.one();
        loop {
            let submitted = self.take(shared, features, memory);
            let full = self.free.is_empty();
            if submitted {
                shared.counters.batches.one();
                self.engine.start();
            }
            self.engine.completions(&mut self.done);
            let finished = self.finish(shared, memory);
            // Not full: the queue was empty, or has had its share of this round and said so to itself.
            if !(full && finished) {
                break;
            }
        }
        self.queue.signal();
    }

    /// Takes chains while the engine has room for them; true if it got any.
    fn take(&mut self, shared: &Shared, features: u64, memory: &M::M) -> bool {
        let mut submitted = false;
        while let Some(tag) = self.free.pop() {
            let Some(chain) = self.queue.pop() else {
                self.free.push(tag);
                break;
            };
            if chain.writable().is_empty() {
                shared.refuse(Refusal::Malformed("no byte for the status"));
                self.queue.used(chain, 0);
                self.free.push(tag);
                continue;
            }
            // Anew for each: the driver made it available after whatever it wrote to `writeback`, or read of the size.
            let spare = || self.engine.spare().unwrap_or_default();
            match task(&shared.rules(features), &chain, memory, spare) {
                Ok(Task::Run { kind, operation, bytes }) => {
                    if let Some(flight) = self.flights.get_mut(usize::from(tag)) {
                        *flight = Some(Flight { chain, kind, bytes });
                        self.engine.submit(tag, operation);
                        submitted = true;
                    }
                }
                Ok(Task::Done { kind, written }) => {
                    shared.succeed(kind, 0);
                    self.answer(chain, Status::Ok, written, memory);
                    self.free.push(tag);
                }
                Err(refusal) => {
                    shared.refuse(refusal);
                    self.answer(chain, refusal.status(), 0, memory);
                    self.free.push(tag);
                }
            }
        }
        submitted
    }

    /// Answers what the engine has done; true if there was any.
    fn finish(&mut self, shared: &Shared, memory: &M::M) -> bool {
        let mut done = std::mem::take(&mut self.done);
        let mut any = false;
        for Completion { tag, result } in done.drain(..) {
            let Some(flight) = self.flights.get_mut(usize::from(tag)).and_then(Option::take) else {
                continue;
            };
            self.free.push(tag);
            any = true;
            let (status, written) = match result {
                Ok(()) => {
                    shared.succeed(flight.kind, flight.bytes);
                    (Status::Ok, if flight.kind == Kind::Read { flight.bytes } else { 0 })
                }
                Err(error) => {
                    shared.fail(flight.kind, &error);
                    let unsupported = error.kind() == io::ErrorKind::Unsupported;
                    (if unsupported { Status::Unsupported } else { Status::IoError }, 0)
                }
            };
            self.answer(flight.chain, status, written, memory);
        }
        self.done = done;
        any
    }

    /// Writes the status, the last byte that the device may write, and gives the chain back. Of the bytes before it,
    /// the first `written` are known to have been written: so many are reported, and the status only if there is no gap
    /// before it (virtio 1.3, 2.7.8.2).
    fn answer(&mut self, chain: Chain, status: Status, written: u64, memory: &M::M) {
        let room = chain.writable_bytes().saturating_sub(1);
        let put = chain.write(memory, room, &[status.byte()]) as u64;
        let first = if written == room { written.saturating_add(put) } else { written };
        self.queue.used(chain, u32::try_from(first).unwrap_or(u32::MAX));
    }
}

impl Shared {
    fn succeed(&self, kind: Kind, bytes: u64) {
        let (count, sum) = match kind {
            Kind::Read => (&self.counters.reads, Some(&self.counters.read_bytes)),
            Kind::Write => (&self.counters.writes, Some(&self.counters.written_bytes)),
            Kind::Flush => (&self.counters.flushes, None),
            Kind::Discard => (&self.counters.discards, Some(&self.counters.discarded_bytes)),
            Kind::WriteZeroes => (&self.counters.write_zeroes, Some(&self.counters.zeroed_bytes)),
            Kind::Id => (&self.counters.ids, None),
        };
        count.one();
        if let Some(sum) = sum {
            sum.add(bytes);
        }
    }

    fn refuse(&self, refusal: Refusal) {
        let (count, what) = match refusal {
            Refusal::Malformed(what) => (&self.counters.malformed, what),
            Refusal::OutOfRange => (&self.counters.out_of_range, "sectors past the end"),
            Refusal::ReadOnly => (&self.counters.refused_writes, "a write to a read-only disk"),
            // Drivers ask for what a device may know; that is no fault.
            Refusal::Unsupported => return self.counters.unsupported.one(),
        };
        count.one();
        if let Some(suppressed) = self.admit() {
            tracing::warn!(disk = %self.name, suppressed, "request rejected: {what}");
        }
    }

    fn fail(&self, kind: Kind, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::Unsupported => return self.counters.unsupported.one(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.counters.no_space.one(),
            _ => self.counters.host_errors.one(),
        }
        if let Some(suppressed) = self.admit() {
            tracing::warn!(disk = %self.name, request = ?kind, %error, suppressed, "request failed");
        }
    }

    fn admit(&self) -> Option<u64> {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).admit(Instant::now())
    }
}
