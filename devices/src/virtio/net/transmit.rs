//! Frames from the driver to the interface (virtio 1.3, 5.1.6.2). When to come back is the worker's business.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use vm_memory::Permissions;

use super::moderation::Moderation;
use super::pair::Common;
use super::tap::{HEADER_BYTES, MAX_FRAME_BYTES, MAX_SLICES, Tap};
use crate::LogLimit;
use crate::virtio::guest_slices::Slices;
use crate::virtio::queue_worker::Emptied;
use crate::virtio::{Chain, GuestMemoryHandle, WorkerQueue};

/// Most frames of one round, so that the other direction gets its turn.
const FRAMES_PER_ROUND: u16 = 128;

/// Rounds of so many frames or bytes are part of a burst.
const BURST_FRAMES: u16 = 32;
const BURST_BYTES: u64 = 32 << 10;
/// How long more of a burst may gather, and what comes the other way.
pub(super) const REST: Duration = Duration::from_micros(150);
/// Where it does not rest, a driver hears at once of frames of so many bytes: it makes the next one while one is copied,
/// and has little room for frames that are under way (Linux's TCP has no more than a millisecond's worth in its queues).
const LARGE: u64 = 16 << 10;

/// The transmit queue of a pair.
pub(super) struct Transmit<M> {
    pub queue: WorkerQueue<M>,
    /// The interface takes nothing for now.
    pub blocked: bool,
    moderation: Moderation,
    log: LogLimit,
}

enum Sent {
    Yes,
    Dropped,
    Malformed,
    Later,
}

impl<M: GuestMemoryHandle> Transmit<M> {
    pub fn new(queue: WorkerQueue<M>) -> Self {
        Self { queue, blocked: false, moderation: Moderation::default(), log: LogLimit::per_second(1) }
    }

    /// More of a burst is expected: the driver has not been asked to notify.
    pub fn is_resting(&self) -> bool {
        self.moderation.is_resting()
    }

    /// Sends what there is, until the interface takes no more. After part of a burst it [rests](Self::is_resting), if that
    /// pays.
    pub fn serve<T: Tap>(&mut self, tap: &T, common: &Common<M>) {
        let (memory, handle) = (common.memory.memory(), &*common.handle);
        let counters = handle.counters();
        self.blocked = false;
        let mut round = Round::default();
        self.queue.begin_with(FRAMES_PER_ROUND);
        let mut slices = Slices::new();
        let resting = loop {
            let resting = round.is_burst() && self.moderation.rests_after(round.frames);
            slices.clear();
            let emptied = if resting { Emptied::IsQuiet } else { Emptied::Asks };
            let next = self.queue.take_into(emptied, memory, Permissions::Read, &mut slices);
            let Some(chain) = next else { break resting };
            let bytes = chain.readable_bytes();
            round.frames += 1;
            round.bytes += bytes;
            let sent = if !is_frame(&chain) || slices.len() > MAX_SLICES {
                Sent::Malformed
            } else if handle.is_link_up() {
                send(tap, &slices, bytes, &mut self.log)
            } else {
                Sent::Dropped
            };
            match sent {
                Sent::Yes => {
                    counters.sent_frames.one();
                    counters.sent_bytes.add(bytes.saturating_sub(HEADER_BYTES as u64));
                }
                Sent::Dropped => counters.sent_dropped.one(),
                Sent::Malformed => {
                    counters.malformed.one();
                    self.queue.refused("what was sent is no frame");
                }
                Sent::Later => {
                    counters.send_blocked.one();
                    self.blocked = true;
                    self.queue.put_back(chain);
                    break false;
                }
            }
            self.queue.used(chain, 0);
            if bytes >= LARGE && !self.is_resting() {
                self.queue.signal();
            }
        };
        self.queue.signal();
        self.moderation.ended(round.frames, round.is_burst(), resting);
    }
}

/// What a round has taken from the driver.
#[derive(Default)]
struct Round {
    frames: u16,
    bytes: u64,
}

impl Round {
    /// Part of a burst; not at the end of a round's share, after which the queue calls again at once.
    fn is_burst(&self) -> bool {
        (self.frames >= BURST_FRAMES || self.bytes >= BURST_BYTES) && self.frames < FRAMES_PER_ROUND
    }
}

fn is_frame(chain: &Chain) -> bool {
    let bytes = chain.readable_bytes();
    bytes > HEADER_BYTES as u64 && bytes <= MAX_FRAME_BYTES as u64
}

fn send<T: Tap, B: vm_memory::bitmap::BitmapSlice>(
    tap: &T,
    slices: &[vm_memory::VolatileSlice<'_, B>],
    bytes: u64,
    log: &mut LogLimit,
) -> Sent {
    match tap.send(slices) {
        Ok(taken) if taken as u64 == bytes => Sent::Yes,
        Ok(_) => Sent::Dropped,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Later,
        Err(error) => {
            // The interface is down, or the header makes no sense: as a wire would, it takes the frame nowhere.
            if let Some(suppressed) = log.admit(Instant::now()) {
                tracing::warn!(%error, suppressed, "net: frame not sent");
            }
            Sent::Dropped
        }
    }
}
