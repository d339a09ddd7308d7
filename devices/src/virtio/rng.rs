//! The entropy device (virtio 1.3, 5.4): fills the driver's buffers from a source the host gives, at a bounded rate.
//! What the source is, and how good, is left to `vmm`.

use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::timerfd::TimerFd;

use super::device::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, Interest, QueuePosition, Source,
    VirtioDevice, Worker, timer,
};
use super::queue_chain::Chain;
use super::queue_worker::WorkerQueue;
use crate::Figures;
use crate::state::{Section, State, StateError};

const NAME: &str = "rng";
/// Base class and subclass "other", as QEMU has it: there is no class for it.
const KIND: DeviceKind = DeviceKind { id: 4, pci_class: 0x00_FF_00 };
const QUEUE_SIZE: u16 = 64;

/// Most bytes given for one request, however much room there is: a device may give fewer (virtio 1.3, 5.4.6.2), and
/// no request can keep the worker busy for long.
pub const RNG_REQUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes whose making costs about as much as following a descriptor: a round gives 1 MiB at most.
const BYTES_PER_WORK: usize = 64;
/// Read from the source at once.
const CHUNK_BYTES: usize = 4096;
/// When a source that gave nothing is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Shortest wait for the rate limit, so that it costs few wake-ups.
const WAIT_MIN: Duration = Duration::from_millis(10);

const QUEUE_TOKEN: u32 = 0;
const TIMER_TOKEN: u32 = 1;

/// Where entropy comes from. Should not block.
pub type EntropySource = Box<dyn Read + Send>;

crate::figures! {
    /// Entropy given and not given.
    pub struct RngCounters: "rng" {
        bytes: Counter = "Bytes of entropy provided to the guest.",
        requests: Counter = "Requests that were served.",
        waits: Counter = "Times that the rate limit made the driver wait.",
        failures: Counter = "Times that the entropy source failed.",
    }
}

/// State of an [`Rng`]: there is none beyond its queue. A rate limit begins with a full allowance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {}

impl State for RngState {
    const NAME: &'static str = "virtio-rng";
    const VERSION: u32 = 1;
}

/// An entropy device.
pub struct Rng {
    source: Arc<Mutex<EntropySource>>,
    bytes_per_second: Option<NonZeroU64>,
    counters: Arc<RngCounters>,
}

impl Rng {
    /// A device that gives what `source` gives, `bytes_per_second` at most.
    #[must_use]
    pub fn new(source: EntropySource, bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { source: Arc::new(Mutex::new(source)), bytes_per_second, counters: Arc::default() }
    }

    /// What it counts, to keep when the device is handed to its transport.
    #[must_use]
    pub fn counters(&self) -> Arc<RngCounters> {
        Arc::clone(&self.counters)
    }
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Rng {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(self.counters())
    }

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let queue = WorkerQueue::of(&mut activation, NAME, 0)?;
        let timer = timer(NAME)?;
        Ok(Box::new(RngWorker {
            queue,
            source: Arc::clone(&self.source),
            allowance: self.bytes_per_second.map(|rate| Allowance::new(rate, Instant::now())),
            timer,
            counters: Arc::clone(&self.counters),
        }))
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        Section::of(&RngState {})
    }

    fn restore(&mut self, state: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
        state.decode().map(|RngState {}| ())
    }
}

/// Bytes that may be given: a second's worth at most, earned as time passes.
#[derive(Debug)]
struct Allowance {
    rate: NonZeroU64,
    bytes: u64,
    /// Earned up to here.
    at: Instant,
}

impl Allowance {
    fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self { rate, bytes: rate.get(), at: now }
    }

    /// How many of `wanted` bytes may be given now; they still have to be [taken](Self::take).
    fn allowed(&mut self, wanted: usize, now: Instant) -> usize {
        const SECOND: u128 = 1_000_000_000;
        let rate = u128::from(self.rate.get());
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed >= Duration::from_secs(1) {
            (self.bytes, self.at) = (self.rate.get(), now);
        } else {
            let earned = elapsed.as_nanos() * rate / SECOND;
            // The rest of a byte's time stays to be earned.
            let used = u64::try_from((earned * SECOND).div_ceil(rate)).unwrap_or(u64::MAX);
            self.at += Duration::from_nanos(used);
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.bytes = self.bytes.saturating_add(earned).min(self.rate.get());
        }
        usize::try_from(self.bytes).unwrap_or(usize::MAX).min(wanted)
    }

    fn take(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Until there is at least a byte.
    fn wait(&self) -> Duration {
        Duration::from_nanos(1_000_000_000 / self.rate.get()).max(WAIT_MIN)
    }
}

struct RngWorker<M> {
    queue: WorkerQueue<M>,
    source: Arc<Mutex<EntropySource>>,
    allowance: Option<Allowance>,
    /// Armed while the driver waits for the rate limit, or for a source that gave nothing.
    timer: TimerFd,
    counters: Arc<RngCounters>,
}

impl<M: GuestMemoryHandle> RngWorker<M> {
    fn serve(&mut self) {
        self.queue.begin();
        while let Some(chain) = self.queue.pop() {
            let room = usize::try_from(chain.writable_bytes()).unwrap_or(usize::MAX);
            let wanted = room.min(RNG_REQUEST_BYTES_MAX);
            let allowed = match &mut self.allowance {
                Some(allowance) => allowance.allowed(wanted, Instant::now()),
                None => wanted,
            };
            let given = self.give(&chain, allowed);
            if given == 0 && wanted > 0 {
                self.queue.put_back(chain);
                self.pause(allowed == 0);
                break;
            }
            if let Some(allowance) = &mut self.allowance {
                allowance.take(given);
            }
            self.counters.bytes.add(u64::try_from(given).unwrap_or(u64::MAX));
            self.counters.requests.one();
            self.queue.charge(given / BYTES_PER_WORK);
            self.queue.used(chain, u32::try_from(given).unwrap_or(u32::MAX));
        }
        self.queue.signal();
    }

    fn give(&self, chain: &Chain, bytes: usize) -> usize {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = self.queue.memory();
        let mut buffer = [0; CHUNK_BYTES];
        let mut given = 0;
        while given < bytes {
            let chunk = (bytes - given).min(CHUNK_BYTES);
            let read = match source.read(&mut buffer[..chunk]) {
                Ok(0) => break,
                Ok(read) => read.min(chunk),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let offset = u64::try_from(given).unwrap_or(u64::MAX);
            let written = chain.write(memory, offset, &buffer[..read]);
            given += written;
            if written < read {
                break;
            }
        }
        given
    }

    fn pause(&mut self, by_rate: bool) {
        let (counter, wait) = match (&self.allowance, by_rate) {
            (Some(allowance), true) => (&self.counters.waits, allowance.wait()),
            _ => (&self.counters.failures, RETRY),
        };
        counter.one();
        // Without the timer the next kick tries again.
        let _ = self.timer.reset(wait, None);
    }
}

impl<M: GuestMemoryHandle> Worker for RngWorker<M> {
    fn sources(&self) -> Vec<Source> {
        let timer = Source { fd: self.timer.as_raw_fd(), token: TIMER_TOKEN, interest: Interest::Readable };
        vec![self.queue.source(QUEUE_TOKEN), timer]
    }

    fn start(&mut self) {
        self.serve();
    }

    fn ready(&mut self, token: u32) -> bool {
        if token == TIMER_TOKEN {
            // Makes it unreadable; reading would block if the queue's turn has just set it again.
            let _ = self.timer.clear();
        }
        self.serve();
        false
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        vec![self.queue.position()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
#[path = "rng_tests.rs"]
mod tests;
