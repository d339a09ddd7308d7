//! The event queue of a socket device (virtio 1.3, 5.10.6.7): the one event there is tells a guest that its connections
//! are gone, as after a restore.

use crate::virtio::{Activation, GuestMemoryHandle, QueuePosition, Source, WorkerQueue};

use super::device::NAME;

const QUEUE: u16 = 2;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, as `struct virtio_vsock_event`.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// The queue.
pub(super) struct Events<M> {
    queue: WorkerQueue<M>,
    /// The guest has not been told yet.
    pending: bool,
}

impl<M: GuestMemoryHandle> Events<M> {
    /// The queue of an activation; `None` if the driver did without.
    pub fn of(activation: &mut Activation<M>) -> Option<Self> {
        let queue = WorkerQueue::of(activation, NAME, QUEUE).ok()?;
        Some(Self { queue, pending: false })
    }

    /// All connections are gone: the guest is told by the next [`serve`](Self::serve) that finds a buffer.
    pub fn transport_reset(&mut self) {
        self.pending = true;
    }

    /// Tells the guest what there is to tell.
    pub fn serve(&mut self) {
        self.queue.begin();
        while self.pending
            && let Some(chain) = self.queue.pop()
        {
            let written = chain.write(self.queue.memory(), 0, &TRANSPORT_RESET);
            self.pending = written < TRANSPORT_RESET.len();
            if self.pending {
                self.queue.refused("a buffer that no event can be put in");
            }
            self.queue.used(chain, u32::try_from(written).unwrap_or(0));
        }
        self.queue.signal();
    }

    pub fn source(&self, token: u32) -> Source {
        self.queue.source(token)
    }

    pub fn position(&self) -> (u16, QueuePosition) {
        self.queue.position()
    }
}
