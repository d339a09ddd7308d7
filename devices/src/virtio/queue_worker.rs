//! A queue as a worker thread holds it: takes checked chains, gives used ones back, asks for notifications and sends
//! them as the driver wants them (virtio 1.3, 2.7.7 to 2.7.10). What is done with a chain is left to the device.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};
use vmm_sys_util::eventfd::EventFd;

use super::device::{
    Activation, ActivationError, ActiveQueue, GuestMemoryHandle, Interest, QueuePosition, Source,
    VirtioInterrupt,
};
use super::guest_slices::{GuestSlice, Slices};
use super::queue_chain::{Buffer, Chain, QueueFault, Table};

/// Most chains taken in one round, so that a driver that never stops adding cannot keep a worker from its other
/// sources, or from stopping.
pub const MAX_CHAINS_PER_ROUND: u16 = 1024;

/// Most work of one round, for the same reason: a descriptor followed is a unit, and devices
/// [charge](WorkerQueue::charge) what a chain's content costs beyond that.
pub const MAX_WORK_PER_ROUND: u32 = 16 << 10;

/// The first entry of an available ring, behind flags and index (virtio 1.3, 2.7.6).
const AVAIL_RING_OFFSET: u64 = 4;
const AVAIL_ENTRY_BYTES: u64 = 2;
/// The first entry of a used ring, behind flags and index (virtio 1.3, 2.7.8).
const USED_RING_OFFSET: u64 = 4;
const USED_ENTRY_BYTES: u64 = 8;

/// Buffers' room kept for later chains: as many as a disk has at once.
const MAX_SPARE: usize = 256;
/// Room for more than that is given up with its chain.
const MAX_SPARE_BUFFERS: usize = 256;

/// One queue of an active device, in its worker's hands.
///
/// ```text
/// fn ready(&mut self, token: u32) -> bool {
///     self.queue.begin();
///     while let Some(chain) = self.queue.pop() {
///         let written = ...;
///         self.queue.used(chain, written);
///     }
///     self.queue.signal();
///     false
/// }
/// ```
/// When [`pop`](Self::pop) gives nothing more, the driver has been asked to notify, and the next kick comes through
/// [`source`](Self::source). A driver that broke the queue has been told so; the queue then stays empty.
pub struct WorkerQueue<M> {
    index: u16,
    queue: Queue,
    kick: EventFd,
    memory: M,
    interrupt: Arc<dyn VirtioInterrupt>,
    indirect: bool,
    /// The driver broke it: nothing is taken or given any more.
    broken: bool,
    /// The driver has been asked not to notify.
    quiet: bool,
    /// Chains were used since the last signal.
    unsignalled: bool,
    /// The used index at the last signal, given or not.
    signalled: u16,
    /// Chains that this round may still take.
    budget: u16,
    /// Work that this round may still do.
    work: u32,
    spare: Vec<Vec<Buffer>>,
}

/// What is done when a queue has no more chains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied {
    /// The driver is asked to notify.
    Asks,
    /// It is not.
    IsQuiet,
}

/// Where the next chain begins.
struct Head {
    table: Table,
    index: u16,
    /// Room for what is found.
    buffers: Vec<Buffer>,
}

impl<M: GuestMemoryHandle> WorkerQueue<M> {
    /// All queues of an activation, in their order.
    #[must_use]
    pub fn all(activation: Activation<M>) -> Vec<Self> {
        let Activation { memory, features, queues, interrupt } = activation;
        queues.into_iter().map(|queue| Self::new(queue, &memory, &interrupt, features)).collect()
    }

    /// Takes queue `index` out of an activation.
    ///
    /// # Errors
    /// The driver did not enable it, and `device` cannot do without.
    pub fn of(
        activation: &mut Activation<M>,
        device: &'static str,
        index: u16,
    ) -> Result<Self, ActivationError> {
        let queue = activation.take(device, index)?;
        Ok(Self::new(queue, &activation.memory, &activation.interrupt, activation.features))
    }

    /// One queue of an activation; `features` are the negotiated ones.
    #[must_use]
    pub fn new(active: ActiveQueue, memory: &M, interrupt: &Arc<dyn VirtioInterrupt>, features: u64) -> Self {
        let ActiveQueue { index, queue, kick, broken } = active;
        let signalled = queue.next_used();
        Self {
            index,
            queue,
            kick,
            memory: memory.clone(),
            interrupt: Arc::clone(interrupt),
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
            broken,
            quiet: false,
            unsignalled: false,
            signalled,
            budget: MAX_CHAINS_PER_ROUND,
            work: MAX_WORK_PER_ROUND,
            spare: Vec::new(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Its number, and how far it has come: for [`Worker::positions`](super::Worker::positions).
    #[must_use]
    pub fn position(&self) -> (u16, QueuePosition) {
        let (next_available, next_used) = (self.queue.next_avail(), self.queue.next_used());
        (self.index, QueuePosition { next_available, next_used, broken: self.broken })
    }

    /// Its entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The driver broke it; it stays empty until the device is reset.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &M::M {
        self.memory.memory()
    }

    /// What to wait for: kicked when the driver, or [`pop`](Self::pop), wants another round.
    #[must_use]
    pub fn source(&self, token: u32) -> Source {
        Source { fd: self.kick.as_raw_fd(), token, interest: Interest::Kick }
    }

    /// Begins a round: allows another [`MAX_CHAINS_PER_ROUND`] chains, of `MAX_WORK_PER_ROUND` descriptors together.
    pub fn begin(&mut self) {
        self.begin_with(MAX_CHAINS_PER_ROUND);
    }

    /// As [`begin`](Self::begin), with another number of chains.
    pub fn begin_with(&mut self, chains: u16) {
        (self.budget, self.work) = (chains, MAX_WORK_PER_ROUND);
    }

    /// Counts work towards this round's share: about as much for a unit as following a descriptor costs. When it is
    /// used up, [`pop`](Self::pop) gives nothing more in this round.
    pub fn charge(&mut self, work: usize) {
        self.work = self.work.saturating_sub(u32::try_from(work).unwrap_or(u32::MAX));
    }

    /// How many chains there are to take; 0 if the driver's index makes no sense.
    #[must_use]
    pub fn available(&self) -> u16 {
        let index = self.queue.avail_idx(self.memory.memory(), Ordering::Acquire);
        let count = index.map_or(0, |index| index.0.wrapping_sub(self.queue.next_avail()));
        if count > self.queue.size() { 0 } else { count }
    }

    /// The next chain. `None` if there is none, after asking the driver to notify; or if the round has had its
    /// share, in which case [`source`](Self::source) becomes ready at once.
    pub fn pop(&mut self) -> Option<Chain> {
        self.take(Emptied::Asks)
    }

    /// As [`pop`](Self::pop), but does not ask the driver to notify if there is no chain: the caller comes back by
    /// itself.
    pub fn poll(&mut self) -> Option<Chain> {
        self.take(Emptied::IsQuiet)
    }

    /// As [`pop`](Self::pop) or [`poll`](Self::poll), and adds the pieces of the chain's buffers that are for this `access` to
    /// `slices`. `memory` is the queue's own, borrowed for as long as they are used.
    pub(super) fn take_into<'m>(
        &mut self,
        emptied: Emptied,
        memory: &'m M::M,
        access: Permissions,
        slices: &mut Slices<GuestSlice<'m, M::M>>,
    ) -> Option<Chain> {
        let Head { table, index, buffers } = self.next_head(emptied)?;
        let before = slices.len();
        let chain = Chain::walk(memory, table, index, buffers, |allowed, slice| {
            if allowed == access {
                slices.push(slice);
            }
        });
        let chain = self.taken(chain);
        if chain.is_none() {
            slices.truncate(before);
        }
        chain
    }

    fn take(&mut self, emptied: Emptied) -> Option<Chain> {
        let Head { table, index, buffers } = self.next_head(emptied)?;
        let chain = Chain::walk(self.memory.memory(), table, index, buffers, |_, _| {});
        self.taken(chain)
    }

    fn taken(&mut self, chain: Result<Chain, QueueFault>) -> Option<Chain> {
        match chain {
            Ok(chain) => {
                self.work = self.work.saturating_sub(chain.descriptors());
                Some(chain)
            }
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    fn next_head(&mut self, emptied: Emptied) -> Option<Head> {
        if self.broken {
            return None;
        }
        match self.try_next_head(emptied) {
            Ok(head) => head,
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Undoes the last [`pop`](Self::pop): the same chain comes next. The driver is not asked to notify, the caller
    /// comes back by itself.
    pub fn put_back(&mut self, chain: Chain) {
        self.queue.go_to_previous_position();
        self.recycle(chain);
    }

    /// Gives a chain back, in any order, of whose writable bytes the first `written` were written (virtio 1.3, 2.7.8).
    /// [`signal`](Self::signal) tells the driver.
    pub fn used(&mut self, chain: Chain, written: u32) {
        let head = chain.head();
        self.recycle(chain);
        if self.broken {
            return;
        }
        let memory = self.memory.memory();
        match self.queue.add_used(memory, head, written) {
            Ok(()) => self.unsignalled = true,
            Err(virtio_queue::Error::InvalidDescriptorIndex) => {
                self.fail(QueueFault::Used { head, size: self.queue.size() });
            }
            Err(_) => self.fail(QueueFault::RingOutside),
        }
    }

    /// Gives several chains back, of whose writable bytes as many as told were written, so that the driver sees all
    /// of them at once or none: as it must be for a frame in several buffers (virtio 1.3, 5.1.6.4.1).
    pub fn used_together(&mut self, chains: impl ExactSizeIterator<Item = (Chain, u32)>) {
        if self.broken {
            return;
        }
        let (mut left, mut slot) = (chains.len(), self.queue.next_used());
        for (chain, written) in chains {
            left -= 1;
            if left == 0 {
                self.queue.set_next_used(slot);
                self.used(chain, written);
                break;
            }
            let head = chain.head();
            let put = put_used(self.memory.memory(), &self.queue, slot, head, written);
            self.recycle(chain);
            if let Err(fault) = put {
                return self.fail(fault);
            }
            slot = slot.wrapping_add(1);
        }
    }

    /// Interrupts the driver if chains were used since the last call and it wants to know (virtio 1.3, 2.7.7.2).
    pub fn signal(&mut self) {
        if !std::mem::take(&mut self.unsignalled) || self.broken {
            return;
        }
        match self.driver_wants_signal() {
            // A host that cannot interrupt was reported by the transport, and nothing here can mend it.
            Ok(true) => drop(self.interrupt.queue_used(self.index)),
            Ok(false) => {}
            Err(_) => self.fail(QueueFault::RingOutside),
        }
    }

    /// Has the host's log say that a request made no sense. Counting and answering it is the device's part.
    pub fn refused(&self, why: &'static str) {
        self.interrupt.request_refused(self.index, why);
    }

    fn try_next_head(&mut self, emptied: Emptied) -> Result<Option<Head>, QueueFault> {
        let memory = self.memory.memory();
        loop {
            let available =
                self.queue.avail_idx(memory, Ordering::Acquire).map_err(|_| QueueFault::RingOutside)?.0;
            let next = self.queue.next_avail();
            if available == next {
                if emptied == Emptied::IsQuiet {
                    return Ok(None);
                }
                self.quiet = false;
                match self.queue.enable_notification(memory) {
                    Ok(true) => continue,
                    Ok(false) => return Ok(None),
                    Err(_) => return Err(QueueFault::RingOutside),
                }
            }
            let size = self.queue.size();
            if available.wrapping_sub(next) > size {
                return Err(QueueFault::AvailableIndex { available, next, size });
            }
            if self.budget == 0 || self.work == 0 {
                // Fails only if the counter is full, after 2^64 kicks.
                let _ = self.kick.write(1);
                return Ok(None);
            }
            self.budget -= 1;
            if !std::mem::replace(&mut self.quiet, true) {
                self.queue.disable_notification(memory).map_err(|_| QueueFault::RingOutside)?;
            }
            // The index may have changed since, so the iterator may refuse it although it was good before.
            let index = match self.queue.iter(memory) {
                Ok(mut heads) => heads.next().ok_or(QueueFault::RingOutside)?.head_index(),
                Err(virtio_queue::Error::InvalidAvailRingIndex) => {
                    return Err(QueueFault::AvailableIndex { available, next, size });
                }
                Err(_) => return Err(QueueFault::RingOutside),
            };
            let table =
                Table { address: GuestAddress(self.queue.desc_table()), size, indirect: self.indirect };
            let buffers = self.spare.pop().unwrap_or_default();
            return Ok(Some(Head { table, index, buffers }));
        }
    }

    /// Reckoned from our own index and not by the `virtio-queue` crate, which does not know of chains used together.
    fn driver_wants_signal(&mut self) -> Result<bool, GuestMemoryError> {
        let memory = self.memory.memory();
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.signalled, new);
        // Between the used index and what the driver wants (virtio 1.3, 2.7.10.1): the driver does it the other way
        // round, so at least one of both sees the other's news.
        fence(Ordering::SeqCst);
        let ring = GuestAddress(self.queue.avail_ring());
        let load = |offset: u64| -> Result<u16, GuestMemoryError> {
            let address = ring.checked_add(offset).ok_or(GuestMemoryError::GuestAddressOverflow)?;
            memory.load(address, Ordering::Relaxed).map(u16::from_le)
        };
        if self.queue.event_idx_enabled() {
            let event = load(AVAIL_RING_OFFSET + u64::from(self.queue.size()) * AVAIL_ENTRY_BYTES)?;
            return Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        Ok(u32::from(load(0)?) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn fail(&mut self, fault: QueueFault) {
        self.broken = true;
        self.interrupt.driver_fault(self.index, fault);
    }

    fn recycle(&mut self, chain: Chain) {
        let buffers = chain.into_buffers();
        if self.spare.len() < MAX_SPARE && buffers.capacity() <= MAX_SPARE_BUFFERS {
            self.spare.push(buffers);
        }
    }
}

/// Writes an entry of the used ring, without the driver being told (virtio 1.3, 2.7.8).
fn put_used(
    memory: &impl GuestMemory,
    queue: &Queue,
    slot: u16,
    head: u16,
    written: u32,
) -> Result<(), QueueFault> {
    let size = queue.size();
    if head >= size {
        return Err(QueueFault::Used { head, size });
    }
    let offset = USED_RING_OFFSET + u64::from(slot % size) * USED_ENTRY_BYTES;
    let address = GuestAddress(queue.used_ring()).checked_add(offset).ok_or(QueueFault::RingOutside)?;
    let entry = u64::from(written) << 32 | u64::from(head);
    memory.write_obj(entry.to_le(), address).map_err(|_| QueueFault::RingOutside)
}

#[cfg(test)]
#[path = "queue_worker_tests.rs"]
mod tests;
