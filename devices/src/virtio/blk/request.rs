//! What a request asks (virtio 1.3, 5.2.6), read from a chain whose framing means nothing (2.7.4.1), and whether it
//! may be done. Doing it is the engine's part, counting and answering the worker's.

use virtio_bindings::bindings::virtio_blk as bits;
use vm_memory::GuestMemory;

use super::SECTOR_BYTES;
use super::config::{MAX_RANGE_SECTORS, MAX_RANGES, SEG_MAX, bit};
use super::device::Serial;
use super::engine::{Extent, Operation};
use super::segments::Segments;
use crate::virtio::Chain;

/// `type`, a reserved word and `sector`.
const HEADER_BYTES: usize = 16;
/// Most buffers of a request: the segments that were offered, the status, and a header in single bytes (2.7.4). It bounds the
/// memory of requests in flight: about 13 KiB each, with a list of buffers for the chain, the operation and the host's call.
pub(super) const MAX_BUFFERS: usize = SEG_MAX as usize + 1 + HEADER_BYTES;
/// One `virtio_blk_discard_write_zeroes`.
const EXTENT_BYTES: usize = 16;
const EXTENT_UNMAP: u32 = 1;

/// The last byte that the device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// `VIRTIO_BLK_S_OK`
    Ok,
    /// `VIRTIO_BLK_S_IOERR`
    IoError,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported,
}

impl Status {
    pub fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

/// What is counted when a request succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    Id,
}

/// Why a request is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed(&'static str),
    OutOfRange,
    ReadOnly,
    Unsupported,
}

impl Refusal {
    pub fn status(self) -> Status {
        match self {
            Self::Malformed(_) | Self::OutOfRange | Self::ReadOnly => Status::IoError,
            Self::Unsupported => Status::Unsupported,
        }
    }
}

/// What is to be done for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Give this to the engine.
    Run { kind: Kind, operation: Operation, bytes: u64 },
    /// Nothing is left to do; `written` bytes of data were written.
    Done { kind: Kind, written: u64 },
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub sectors: u64,
    pub read_only: bool,
    /// The negotiated features.
    pub features: u64,
    /// Writes are complete when they are durable (write-through).
    pub durable: bool,
    pub serial: Serial,
}

struct Header {
    kind: u32,
    sector: u64,
}

/// What `chain` asks. Its last writable byte is the status and left alone; the caller has seen that there is one. `spare`
/// gives a list of pieces to be filled again, if data moves.
pub(super) fn task(
    rules: &Rules,
    chain: &Chain,
    memory: &impl GuestMemory,
    spare: impl FnOnce() -> Segments,
) -> Result<Task, Refusal> {
    if chain.readable().len() + chain.writable().len() > MAX_BUFFERS {
        return Err(Refusal::Malformed("more buffers than segments were offered"));
    }
    let header = header(chain, memory)?;
    match header.kind {
        bits::VIRTIO_BLK_T_IN => {
            let data = spare().refilled(chain.writable(), 0, room(chain));
            let offset = rules.transfer(header.sector, &data)?;
            if data.is_empty() {
                return Ok(Task::Done { kind: Kind::Read, written: 0 });
            }
            let bytes = data.len();
            Ok(Task::Run { kind: Kind::Read, operation: Operation::Read { offset, data }, bytes })
        }
        bits::VIRTIO_BLK_T_OUT => {
            rules.writable()?;
            let data = spare().refilled(chain.readable(), HEADER_BYTES as u64, u64::MAX);
            let offset = rules.transfer(header.sector, &data)?;
            if data.is_empty() {
                return Ok(Task::Done { kind: Kind::Write, written: 0 });
            }
            let (bytes, durable) = (data.len(), rules.durable);
            Ok(Task::Run { kind: Kind::Write, operation: Operation::Write { offset, data, durable }, bytes })
        }
        bits::VIRTIO_BLK_T_FLUSH => {
            Ok(Task::Run { kind: Kind::Flush, operation: Operation::Flush, bytes: 0 })
        }
        bits::VIRTIO_BLK_T_GET_ID => {
            let mut id = rules.serial.bytes();
            let length = id.len().min(usize::try_from(room(chain)).unwrap_or(usize::MAX));
            let written = chain.write(memory, 0, &id.as_mut_slice()[..length]) as u64;
            Ok(Task::Done { kind: Kind::Id, written })
        }
        bits::VIRTIO_BLK_T_DISCARD => {
            rules.writable()?;
            rules.negotiated(bits::VIRTIO_BLK_F_DISCARD)?;
            let extents = rules.extents(chain, memory, 0)?;
            let bytes = extents.iter().map(|extent| extent.length).sum();
            Ok(Task::Run { kind: Kind::Discard, operation: Operation::Discard(extents), bytes })
        }
        bits::VIRTIO_BLK_T_WRITE_ZEROES => {
            rules.writable()?;
            rules.negotiated(bits::VIRTIO_BLK_F_WRITE_ZEROES)?;
            let extents = rules.extents(chain, memory, EXTENT_UNMAP)?;
            let bytes = extents.iter().map(|extent| extent.length).sum();
            let operation = Operation::WriteZeroes { extents, durable: rules.durable };
            Ok(Task::Run { kind: Kind::WriteZeroes, operation, bytes })
        }
        _ => Err(Refusal::Unsupported),
    }
}

/// Bytes that the device may write before the status.
fn room(chain: &Chain) -> u64 {
    chain.writable_bytes().saturating_sub(1)
}

fn header(chain: &Chain, memory: &impl GuestMemory) -> Result<Header, Refusal> {
    let mut bytes = [0; HEADER_BYTES];
    if chain.read(memory, 0, &mut bytes) != HEADER_BYTES {
        return Err(Refusal::Malformed("a header of less than 16 bytes"));
    }
    let (kind, rest) = bytes.split_at(4);
    let (_, sector) = rest.split_at(4);
    Ok(Header { kind: le32(kind), sector: le64(sector) })
}

impl Rules {
    fn writable(&self) -> Result<(), Refusal> {
        if self.read_only { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    fn negotiated(&self, feature: u32) -> Result<(), Refusal> {
        if self.features & bit(feature) == 0 { Err(Refusal::Unsupported) } else { Ok(()) }
    }

    /// Where `count` sectors from `sector` on begin, in bytes, if the disk has them.
    fn range(&self, sector: u64, count: u64) -> Result<u64, Refusal> {
        match sector.checked_add(count) {
            Some(end) if end <= self.sectors => sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::OutOfRange),
            _ => Err(Refusal::OutOfRange),
        }
    }

    fn transfer(&self, sector: u64, data: &Segments) -> Result<u64, Refusal> {
        if !data.len().is_multiple_of(SECTOR_BYTES) {
            return Err(Refusal::Malformed("data that is no multiple of 512 bytes"));
        }
        self.range(sector, data.len() / SECTOR_BYTES)
    }

    /// The extents after the header; `known` are the flags that they may have (5.2.6.2).
    fn extents(&self, chain: &Chain, memory: &impl GuestMemory, known: u32) -> Result<Vec<Extent>, Refusal> {
        const MOST: usize = MAX_RANGES as usize * EXTENT_BYTES;
        let length = chain.readable_bytes().saturating_sub(HEADER_BYTES as u64);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length == 0 || length > MOST || !length.is_multiple_of(EXTENT_BYTES) {
            return Err(Refusal::Malformed("extents of a size that cannot be"));
        }
        let mut bytes = [0; MOST];
        let bytes = &mut bytes[..length];
        if chain.read(memory, HEADER_BYTES as u64, bytes) != length {
            return Err(Refusal::Malformed("extents that cannot be read"));
        }
        bytes.chunks_exact(EXTENT_BYTES).map(|extent| self.extent(extent, known)).collect()
    }

    fn extent(&self, bytes: &[u8], known: u32) -> Result<Extent, Refusal> {
        let (sector, rest) = bytes.split_at(8);
        let (count, flags) = rest.split_at(4);
        let (sector, count, flags) = (le64(sector), le32(count), le32(flags));
        if flags & !known != 0 {
            return Err(Refusal::Unsupported);
        }
        if count > MAX_RANGE_SECTORS {
            return Err(Refusal::Malformed("an extent of more sectors than offered"));
        }
        let offset = self.range(sector, u64::from(count))?;
        let length = u64::from(count) * SECTOR_BYTES;
        Ok(Extent { offset, length, unmap: flags & EXTENT_UNMAP != 0 })
    }
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
