//! A queue as the driver sets it up register by register, and the checks it has to pass before a device gets it
//! (virtio 1.3, 2.7 and 4.1.5.1.3).

use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use crate::virtio::queue_chain::in_memory;

/// Alignments and bytes of the three parts (virtio 1.3, 2.7).
const DESCRIPTOR_ALIGN: u64 = 16;
const AVAILABLE_ALIGN: u64 = 2;
const USED_ALIGN: u64 = 4;
const DESCRIPTOR_BYTES: u64 = 16;
const AVAILABLE_BYTES: u64 = 2;
const USED_BYTES: u64 = 8;
/// Flags, index and event of a ring.
const RING_EXTRA_BYTES: u64 = 6;

/// Why a queue cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum SetupError {
    /// A part lies where it may not.
    #[error("queue {index}: {part} of {bytes} bytes at {address:#x} must lie in memory, aligned to {align}")]
    Part { index: u16, part: &'static str, address: u64, bytes: u64, align: u64 },
    /// The driver gave it no place.
    #[error("queue {index}: the available ring has no address")]
    Unset { index: u16 },
    /// The size is not one a queue can have.
    #[error("queue {index}: {size} entries are invalid")]
    Size { index: u16, size: u16 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueSetup {
    pub max: u16,
    pub size: u16,
    pub enabled: bool,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl QueueSetup {
    pub fn new(max: u16) -> Self {
        Self { max, size: max, enabled: false, descriptors: 0, available: 0, used: 0 }
    }

    /// Takes the size if the driver may choose it: a power of two, no more than the maximum.
    pub fn set_size(&mut self, size: u16) -> bool {
        let good = size.is_power_of_two() && size <= self.max;
        if good {
            self.size = size;
        }
        good
    }

    /// The rings for the device.
    pub fn build(&self, index: u16, memory: &impl GuestMemory, event_idx: bool) -> Result<Queue, SetupError> {
        let entries = u64::from(self.size);
        let part = |part, address, bytes, align, access| {
            let aligned = address % align == 0;
            if aligned && in_memory(memory, GuestAddress(address), bytes, access) {
                return Ok(GuestAddress(address));
            }
            Err(SetupError::Part { index, part, address, bytes, align })
        };
        let descriptors = part(
            "the descriptor table",
            self.descriptors,
            entries * DESCRIPTOR_BYTES,
            DESCRIPTOR_ALIGN,
            Permissions::Read,
        )?;
        let available = part(
            "the available ring",
            self.available,
            entries * AVAILABLE_BYTES + RING_EXTRA_BYTES,
            AVAILABLE_ALIGN,
            Permissions::Read,
        )?;
        let used = part(
            "the used ring",
            self.used,
            entries * USED_BYTES + RING_EXTRA_BYTES,
            USED_ALIGN,
            Permissions::Write,
        )?;
        // The ring library takes an available ring at 0 for one that is not set.
        if self.available == 0 {
            return Err(SetupError::Unset { index });
        }
        self.queue(descriptors, available, used, event_idx)
            .map_err(|_| SetupError::Size { index, size: self.size })
    }

    fn queue(
        &self,
        descriptors: GuestAddress,
        available: GuestAddress,
        used: GuestAddress,
        event_idx: bool,
    ) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max)?;
        queue.try_set_size(self.size)?;
        queue.try_set_desc_table_address(descriptors)?;
        queue.try_set_avail_ring_address(available)?;
        queue.try_set_used_ring_address(used)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}
