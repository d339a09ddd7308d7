//! Frames from the interface into the driver's buffers (virtio 1.3, 5.1.6.3 and 5.1.6.4). When to come back is the
//! worker's business.
//!
//! How long a frame is, is known only once it is read. So the interface is given the buffers that recent frames
//! would have needed, and behind them memory of our own that takes the rest of a larger one. Then, and only then,
//! the frame is copied, and waits until the driver has room for it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Instant;

use vm_memory::{GuestMemory, Permissions};

use super::counters::{NetCounters, NetHandle};
use super::features::bits;
use super::pair::Common;
use super::state::ReceiveState;
use super::tap::{HEADER_BYTES, MAX_FRAME_BYTES, MAX_SLICES, Tap};
use crate::LogLimit;
use crate::state::HexBytes;
use crate::virtio::guest_slices::{GuestSlice, Slices, read_front, write_at};
use crate::virtio::queue_worker::Emptied;
use crate::virtio::{Chain, GuestMemoryHandle, WorkerQueue};

/// Most frames of one round, so that the other direction gets its turn.
const FRAMES_PER_ROUND: usize = 64;
/// Most rounds in a row that do not try for more frames than came before.
const MAX_PATIENCE: u32 = 16;
/// Reads that fail one after the other until the interface is taken for gone, and left alone until the next reset.
const MAX_FAILURES: u32 = 16;
/// Where the flags lie in the header.
const FLAGS_OFFSET: usize = 0;
/// Where the number of buffers lies in the header.
const NUM_BUFFERS_OFFSET: usize = 10;
/// Frames after which the largest of them is no longer reckoned with, once as many more have come: between two large
/// ones of a stream lie small ones of others.
const FRAMES_REMEMBERED: u32 = 256;

/// The receive queue of a pair.
pub(super) struct Receive<M> {
    pub queue: WorkerQueue<M>,
    /// The driver has no room: come back when it kicks.
    pub starved: bool,
    mergeable: bool,
    /// The driver knows flags of checksums (`VIRTIO_NET_F_GUEST_CSUM`).
    knows_flags: bool,
    rest: Vec<u8>,
    /// A frame that waits for room; empty if none does.
    held: Vec<u8>,
    /// Where a round keeps the chains that it takes ahead; empty in between.
    ahead: VecDeque<Entry>,
    /// What recent frames needed.
    recent: Recent,
    pace: Pace,
    /// Most chains that the driver had ready at once.
    most: u16,
    failures: u32,
    log: LogLimit,
}

/// The largest of the frames that came lately.
#[derive(Debug, Default)]
struct Recent {
    now: usize,
    before: usize,
    frames: u32,
}

impl Recent {
    fn largest(&self) -> usize {
        self.now.max(self.before).max(HEADER_BYTES)
    }

    fn came(&mut self, bytes: usize) {
        self.now = self.now.max(bytes);
        self.frames += 1;
        if self.frames >= FRAMES_REMEMBERED {
            *self = Self { now: 0, before: self.now, frames: 0 };
        }
    }
}

/// How many frames a round takes. Asking for one that is not there costs a system call, and whoever waits for the
/// interface hears at once if there are more: so a round that found all it wanted is followed by a larger one, unless
/// such tries were in vain lately.
#[derive(Debug)]
struct Pace {
    frames: usize,
    /// Rounds until the next try.
    wait: u32,
    /// That many after the next in vain.
    patience: u32,
}

impl Pace {
    const START: Self = Self { frames: 1, wait: 0, patience: 1 };

    /// A round found so many frames.
    fn found(&mut self, frames: usize) {
        if frames < self.frames {
            self.frames = frames.max(1);
            self.wait = self.patience;
            self.patience = (self.patience * 2).min(MAX_PATIENCE);
        } else if self.wait > 0 {
            self.wait -= 1;
        } else {
            if self.frames > 1 {
                self.patience = 1;
            }
            self.frames = (self.frames * 2).min(FRAMES_PER_ROUND);
        }
    }
}

enum Step {
    /// On with the next frame.
    Next,
    /// The interface has none.
    Idle,
    /// The driver has no room.
    Starved,
}

impl<M: GuestMemoryHandle> Receive<M> {
    /// For a driver with these features, as it was in `state`.
    pub fn new(queue: WorkerQueue<M>, features: u64, state: ReceiveState) -> Self {
        Self {
            queue,
            starved: false,
            mergeable: features & bits::MRG_RXBUF != 0,
            knows_flags: features & bits::GUEST_CSUM != 0,
            rest: vec![0; MAX_FRAME_BYTES],
            held: state.frame.0,
            ahead: VecDeque::new(),
            recent: Recent::default(),
            pace: Pace::START,
            most: state.most_chains,
            failures: 0,
            log: LogLimit::per_second(1),
        }
    }

    /// What it knows beyond its queue.
    pub fn save(&self) -> ReceiveState {
        ReceiveState { frame: HexBytes(self.held.clone()), most_chains: self.most }
    }

    /// Whether frames can be taken now.
    pub fn wants_frames(&self) -> bool {
        !self.starved && self.failures < MAX_FAILURES
    }

    /// The driver kicked: it has buffers again, perhaps.
    pub fn kicked<T: Tap>(&mut self, tap: &T, common: &Common<M>) {
        if self.starved {
            self.serve(tap, common);
        } else {
            self.queue.begin();
        }
    }

    /// Takes what there is, until the driver has no room.
    pub fn serve<T: Tap>(&mut self, tap: &T, common: &Common<M>) {
        let handle = &*common.handle;
        self.starved = false;
        self.queue.begin();
        self.most = self.most.max(self.queue.available());
        let mut window = Window::new(common.memory.memory(), std::mem::take(&mut self.ahead));
        let mut found = 0;
        // A frame that waits is not in the interface any more: nobody would call us for it.
        while found < self.pace.frames || !self.held.is_empty() {
            let step = if self.held.is_empty() {
                self.take(&mut window, tap, handle)
            } else {
                self.place(&mut window, handle.counters())
            };
            match step {
                Step::Next => found += 1,
                Step::Idle => break,
                Step::Starved => {
                    handle.counters().receive_starved.one();
                    self.starved = true;
                    break;
                }
            }
        }
        if !self.starved {
            self.pace.found(found);
        }
        self.ahead = window.put_back(&mut self.queue);
        self.queue.signal();
    }

    /// Takes a frame from the interface.
    fn take<T: Tap>(&mut self, window: &mut Window<'_, M::M>, tap: &T, handle: &NetHandle) -> Step {
        let counters = handle.counters();
        let wanted = if self.mergeable { self.recent.largest() } else { 1 };
        window.fill(&mut self.queue, wanted, counters);
        if window.chains.is_empty() {
            return Step::Starved;
        }
        // Without merging a frame has one chain, whatever lies behind it.
        let slices = if self.mergeable { &*window.slices } else { window.first() };
        let room: usize = slices.iter().map(|slice| slice.len()).sum();
        let bytes = match tap.receive(slices, &mut self.rest) {
            Ok(bytes) => bytes,
            Err(error) => return self.failed(&error, counters),
        };
        self.failures = 0;
        if bytes < HEADER_BYTES {
            counters.receive_errors.one();
            return Step::Next;
        }
        let over = bytes.saturating_sub(room);
        if !handle.is_link_up() || (over > 0 && !self.mergeable) || over > self.rest.len() {
            counters.received_dropped.one();
            return Step::Next;
        }
        if over == 0 {
            self.finish(window, bytes, counters);
            return Step::Next;
        }
        counters.received_copied.one();
        self.held.resize(room, 0);
        read_front(&window.slices, &mut self.held);
        self.held.extend_from_slice(self.rest.get(..over).unwrap_or_default());
        Step::Next
    }

    /// Gives the frame that waits to the driver.
    fn place(&mut self, window: &mut Window<'_, M::M>, counters: &NetCounters) -> Step {
        // So that only the driver, and not the end of a round's share, leaves it without room.
        self.queue.begin();
        window.fill(&mut self.queue, self.held.len(), counters);
        if window.bytes < self.held.len() {
            // A driver that has half of its buffers ready adds no more by itself: Linux does so when fewer are left.
            if window.chains.len().saturating_mul(2) < usize::from(self.most) {
                return Step::Starved;
            }
            self.held.clear();
            counters.received_dropped.one();
            return Step::Next;
        }
        write_at(&window.slices, 0, &self.held);
        let bytes = std::mem::take(&mut self.held).len();
        self.finish(window, bytes, counters);
        Step::Next
    }

    /// The frame of `bytes` lies in the first chains: they are the driver's now.
    fn finish(&mut self, window: &mut Window<'_, M::M>, bytes: usize, counters: &NetCounters) {
        let buffers = window.chains_for(bytes);
        if !self.knows_flags {
            // A tap says that it has checked a frame, also to who has not asked (virtio 1.3, 5.1.6.4.1).
            write_at(&window.slices, FLAGS_OFFSET, &[0]);
        }
        write_at(
            &window.slices,
            NUM_BUFFERS_OFFSET,
            &u16::try_from(buffers).unwrap_or(u16::MAX).to_le_bytes(),
        );
        self.queue.used_together(window.take(buffers, bytes));
        self.recent.came(bytes);
        counters.received_frames.one();
        counters.received_bytes.add((bytes - HEADER_BYTES) as u64);
    }

    fn failed(&mut self, error: &std::io::Error, counters: &NetCounters) -> Step {
        match error.kind() {
            ErrorKind::WouldBlock => return Step::Idle,
            ErrorKind::Interrupted => return Step::Next,
            _ => {}
        }
        counters.receive_errors.one();
        self.failures += 1;
        if let Some(suppressed) = self.log.admit(Instant::now()) {
            let gone = self.failures >= MAX_FAILURES;
            tracing::warn!(%error, gone, suppressed, "net: cannot receive from the interface");
        }
        Step::Idle
    }
}

/// Chains that were taken from the queue ahead of the frames for them.
struct Window<'m, G: GuestMemory> {
    memory: &'m G,
    chains: VecDeque<Entry>,
    slices: Slices<GuestSlice<'m, G>>,
    bytes: usize,
}

struct Entry {
    chain: Chain,
    slices: usize,
    bytes: usize,
}

impl<'m, G: GuestMemory> Window<'m, G> {
    fn new(memory: &'m G, empty: VecDeque<Entry>) -> Self {
        Self { memory, chains: empty, slices: Slices::new(), bytes: 0 }
    }

    /// Takes chains until they have room for `wanted` bytes, or the driver has no more, or too many pieces.
    fn fill<M: GuestMemoryHandle<M = G>>(
        &mut self,
        queue: &mut WorkerQueue<M>,
        wanted: usize,
        counters: &NetCounters,
    ) {
        while self.bytes < wanted {
            let before = self.slices.len();
            let next = queue.take_into(Emptied::Asks, self.memory, Permissions::Write, &mut self.slices);
            let Some(chain) = next else { return };
            let bytes = usize::try_from(chain.writable_bytes()).unwrap_or(0);
            if bytes > 0 && self.slices.len() <= MAX_SLICES {
                self.chains.push_back(Entry { chain, slices: self.slices.len() - before, bytes });
                self.bytes += bytes;
                continue;
            }
            self.slices.truncate(before);
            if before > 0 {
                // Too many pieces together, or bad: see when its turn comes.
                return queue.put_back(chain);
            }
            counters.malformed.one();
            queue.refused("a buffer that no frame can be put in");
            queue.used(chain, 0);
        }
    }

    /// The pieces of the first chain.
    fn first(&self) -> &[GuestSlice<'m, G>] {
        let count = self.chains.front().map_or(0, |entry| entry.slices);
        self.slices.get(..count).unwrap_or_default()
    }

    /// How many chains `bytes` take.
    fn chains_for(&self, bytes: usize) -> usize {
        let mut room = 0;
        let full = self.chains.iter().take_while(|entry| {
            room += entry.bytes;
            room < bytes
        });
        (full.count() + 1).min(self.chains.len())
    }

    /// Takes the first `count` chains out, with the share of `bytes` that each has.
    fn take(&mut self, count: usize, bytes: usize) -> impl ExactSizeIterator<Item = (Chain, u32)> {
        let count = count.min(self.chains.len());
        let mut slices = 0;
        for entry in self.chains.range(..count) {
            slices += entry.slices;
            self.bytes -= entry.bytes;
        }
        self.slices.drain(..slices.min(self.slices.len()));
        let mut left = bytes;
        self.chains.drain(..count).map(move |entry| {
            let part = left.min(entry.bytes);
            left -= part;
            (entry.chain, u32::try_from(part).unwrap_or(u32::MAX))
        })
    }

    /// Gives all chains back to the queue as if they had never been taken; what they were kept in, for the next round.
    fn put_back<M: GuestMemoryHandle>(mut self, queue: &mut WorkerQueue<M>) -> VecDeque<Entry> {
        for entry in self.chains.drain(..).rev() {
            queue.put_back(entry.chain);
        }
        self.chains
    }
}
