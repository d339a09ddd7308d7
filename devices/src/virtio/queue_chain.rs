//! Descriptor chains of a split virtqueue (virtio 1.3, 2.7), copied out of guest memory and checked as a whole before
//! a device sees them. What the bytes in the buffers mean is left to the device.

use std::mem::size_of;

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use super::guest_slices::GuestSlice;

/// Most descriptors of one chain, empty ones too, whatever length an indirect table claims to have; Linux stays below
/// 256, QEMU allows as many as here. It bounds the time and the host memory that one chain takes.
pub const MAX_CHAIN_DESCRIPTORS: u32 = 1024;

/// Most bytes of one chain (virtio 1.3, 2.7.4.2 gives 2^32).
const MAX_CHAIN_BYTES: u64 = 1 << 32;

const DESCRIPTOR_BYTES: u32 = 16;
const _: () = assert!(size_of::<Descriptor>() == 16);

/// How a driver broke a queue. Nothing more is taken from the queue until the driver resets the device, which the
/// transport asks it to do (DEVICE_NEEDS_RESET, virtio 1.3, 2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QueueFault {
    /// The rings cannot be read or written.
    #[error("a ring is outside of memory")]
    RingOutside,
    /// More buffers available than the queue has entries.
    #[error("the available index {available} is more than {size} past {next}")]
    AvailableIndex {
        /// What the driver wrote.
        available: u16,
        /// The next that the device would take.
        next: u16,
        /// Entries of the queue.
        size: u16,
    },
    /// No descriptor has that number.
    #[error("descriptor {index} is not below the table's size of {size}")]
    DescriptorIndex {
        /// What the driver wrote.
        index: u16,
        /// Entries of the table.
        size: u32,
    },
    /// The descriptor table cannot be read.
    #[error("the descriptor at {address:#x} is outside of memory")]
    TableOutside {
        /// Where the descriptor would be.
        address: u64,
    },
    /// The chain is a loop, or too long.
    #[error("a chain has more than {limit} descriptors")]
    TooLong {
        /// As many are allowed.
        limit: u32,
    },
    /// The chain has more bytes than a chain may have.
    #[error("a chain has more than 2^32 bytes")]
    TooManyBytes,
    /// A buffer is not in guest memory.
    #[error("the buffer of {length} bytes at {address:#x} is outside of memory")]
    BufferOutside {
        /// Its first byte.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// The driver has to put device-readable buffers first.
    #[error("a readable buffer follows a writable one")]
    ReadableAfterWritable,
    /// An indirect table although that was not negotiated, or inside another, or with more descriptors after it.
    #[error("an indirect descriptor is not allowed here")]
    IndirectMisplaced,
    /// The length is 0, or no multiple of a descriptor's.
    #[error("an indirect table of {length} bytes")]
    IndirectLength {
        /// What the driver wrote.
        length: u32,
    },
    /// A chain was given back that cannot be one of this queue's.
    #[error("descriptor {head} cannot be marked used, the queue has {size}")]
    Used {
        /// First descriptor of the chain.
        head: u16,
        /// Entries of the queue.
        size: u16,
    },
}

/// Memory that the driver lends; not empty, and wholly in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its first byte.
    pub address: GuestAddress,
    /// Bytes.
    pub length: u32,
}

/// A chain that the driver made available. First the buffers to read, then those to write; empty ones are left out.
///
/// It has to go back with [`WorkerQueue::used`](super::WorkerQueue::used) or
/// [`put_back`](super::WorkerQueue::put_back), otherwise the driver waits for ever.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the driver waits for the chain"]
pub struct Chain {
    head: u16,
    buffers: Vec<Buffer>,
    readable: usize,
    /// Descriptors that were followed, empty ones too.
    descriptors: u32,
}

/// What is needed to find the descriptors of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub address: GuestAddress,
    pub size: u16,
    /// VIRTIO_F_RING_INDIRECT_DESC was negotiated.
    pub indirect: bool,
}

impl Chain {
    /// The number of its first descriptor, which names the chain among those of its queue that are not yet used.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// How many descriptors it has, those of empty buffers too.
    pub(super) fn descriptors(&self) -> u32 {
        self.descriptors
    }

    /// What the device may read.
    #[must_use]
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.readable).unwrap_or_default()
    }

    /// What the device may write.
    #[must_use]
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.readable..).unwrap_or_default()
    }

    /// Bytes that the device may read.
    #[must_use]
    pub fn readable_bytes(&self) -> u64 {
        bytes(self.readable())
    }

    /// Bytes that the device may write.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        bytes(self.writable())
    }

    /// Copies what the device may read, from `offset` on, and says how many bytes: fewer than asked where the chain
    /// ends.
    pub fn read(&self, memory: &impl GuestMemory, offset: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        for part in parts(self.readable(), offset, data.len()) {
            let Some(into) = data.get_mut(done..done + part.1) else { break };
            if memory.read_slice(into, part.0).is_err() {
                break;
            }
            done += part.1;
        }
        done
    }

    /// Copies `data` to what the device may write, from `offset` on, and says how many bytes: fewer than given where
    /// the chain ends.
    pub fn write(&self, memory: &impl GuestMemory, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for part in parts(self.writable(), offset, data.len()) {
            let Some(from) = data.get(done..done + part.1) else { break };
            if memory.write_slice(from, part.0).is_err() {
                break;
            }
            done += part.1;
        }
        done
    }

    /// Follows the chain that begins at descriptor `head`. Each descriptor is read once, and each buffer looked for once in
    /// guest memory: `found` gets its pieces, and what the device may do with them. `buffers` is overwritten; it is an
    /// argument so that its room is used again.
    pub(super) fn walk<'m, G: GuestMemory>(
        memory: &'m G,
        table: Table,
        head: u16,
        mut buffers: Vec<Buffer>,
        mut found: impl FnMut(Permissions, GuestSlice<'m, G>),
    ) -> Result<Self, QueueFault> {
        buffers.clear();
        let mut chain = Self { head, buffers, readable: 0, descriptors: 0 };
        let mut level = Level { address: table.address, size: u32::from(table.size), nested: false };
        let (mut index, mut seen, mut total) = (head, 0, 0);
        loop {
            let descriptor = level.descriptor(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                if level.nested || !table.indirect || descriptor.has_next() {
                    return Err(QueueFault::IndirectMisplaced);
                }
                level = Level::indirect(&descriptor)?;
                (index, seen) = (0, 0);
                continue;
            }
            total += u64::from(descriptor.len());
            if total > MAX_CHAIN_BYTES {
                return Err(QueueFault::TooManyBytes);
            }
            chain.push(memory, &descriptor, &mut found)?;
            seen += 1;
            chain.descriptors += 1;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            if seen >= level.size {
                return Err(QueueFault::TooLong { limit: level.size });
            }
            if chain.descriptors >= MAX_CHAIN_DESCRIPTORS {
                return Err(QueueFault::TooLong { limit: MAX_CHAIN_DESCRIPTORS });
            }
            index = descriptor.next();
        }
    }

    fn push<'m, G: GuestMemory>(
        &mut self,
        memory: &'m G,
        descriptor: &Descriptor,
        found: &mut impl FnMut(Permissions, GuestSlice<'m, G>),
    ) -> Result<(), QueueFault> {
        let buffer = Buffer { address: descriptor.addr(), length: descriptor.len() };
        if !descriptor.is_write_only() && self.readable < self.buffers.len() {
            return Err(QueueFault::ReadableAfterWritable);
        }
        if buffer.length == 0 {
            return Ok(());
        }
        let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
        let outside = QueueFault::BufferOutside { address: buffer.address.0, length: buffer.length };
        let length = usize::try_from(buffer.length).map_err(|_| outside)?;
        buffer.address.checked_add(buffer.length.into()).ok_or(outside)?;
        for piece in memory.get_slices(buffer.address, length, access).map_err(|_| outside)? {
            found(access, piece.map_err(|_| outside)?);
        }
        self.buffers.push(buffer);
        if !descriptor.is_write_only() {
            self.readable = self.buffers.len();
        }
        Ok(())
    }

    pub(super) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }
}

/// The table that is being followed: the queue's own, or an indirect one.
struct Level {
    address: GuestAddress,
    size: u32,
    nested: bool,
}

impl Level {
    /// The write-only flag of the descriptor that names the table means nothing (virtio 1.3, 2.7.5.3.2).
    fn indirect(descriptor: &Descriptor) -> Result<Self, QueueFault> {
        let length = descriptor.len();
        if length == 0 || !length.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(QueueFault::IndirectLength { length });
        }
        Ok(Self { address: descriptor.addr(), size: length / DESCRIPTOR_BYTES, nested: true })
    }

    fn descriptor(&self, memory: &impl GuestMemory, index: u16) -> Result<Descriptor, QueueFault> {
        if u32::from(index) >= self.size {
            return Err(QueueFault::DescriptorIndex { index, size: self.size });
        }
        let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
        let outside = QueueFault::TableOutside { address: self.address.0.wrapping_add(offset) };
        let address = self.address.checked_add(offset).ok_or(outside)?;
        memory.read_obj(address).map_err(|_| outside)
    }
}

/// Whether all of `length` bytes at `address` are guest memory; false where the range wraps.
pub(super) fn in_memory(
    memory: &impl GuestMemory,
    address: GuestAddress,
    length: u64,
    access: Permissions,
) -> bool {
    let Ok(count) = usize::try_from(length) else { return false };
    address.checked_add(length).is_some() && memory.check_range(address, count, access)
}

fn bytes(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.length)).sum()
}

/// Where `length` bytes from `offset` on lie, piece by piece.
fn parts(
    buffers: &[Buffer],
    mut offset: u64,
    mut length: usize,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    buffers.iter().filter_map(move |buffer| {
        let size = u64::from(buffer.length);
        if offset >= size {
            offset -= size;
            return None;
        }
        let address = buffer.address.checked_add(offset)?;
        let part = usize::try_from(size - offset).ok()?.min(length);
        offset = 0;
        length -= part;
        (part > 0).then_some((address, part))
    })
}

#[cfg(test)]
#[path = "queue_chain_tests.rs"]
mod tests;
