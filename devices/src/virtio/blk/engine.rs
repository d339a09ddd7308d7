//! What the block device asks of the host: a disk's shape and length, and an engine that moves bytes between it and
//! guest memory. How the host does that is the implementation's.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;

use super::segments::Segments;
use crate::virtio::GuestMemoryHandle;

/// What does not change about a disk while it is open. Lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskShape {
    /// Writes are refused.
    pub read_only: bool,
    /// The unit that the host addresses, a power of two from 512 (`blk_size`).
    pub logical_block: u32,
    /// The unit that the host writes without reading first, a power of two from `logical_block`.
    pub physical_block: u32,
    /// Where the first physical block begins; less than `physical_block`.
    pub alignment: u32,
    /// The least that is worth asking for at once; 0 for no opinion.
    pub minimum_io: u32,
    /// The most that is worth asking for at once; 0 for no opinion.
    pub optimal_io: u32,
    /// Discards work, in pieces of this many bytes; `None` if they do not.
    pub discard: Option<u32>,
}

/// A disk as its device sees it.
pub trait Disk: Send + Sync {
    /// What does not change.
    fn shape(&self) -> DiskShape;

    /// Its length in bytes as it is now; asked at the start and at each resize.
    fn length(&self) -> io::Result<u64>;

    /// For log lines: a path, say.
    fn name(&self) -> String;

    /// Makes it so many bytes long, more than it has. Kinds of disks that have the length they have refuse with
    /// [`io::ErrorKind::Unsupported`].
    fn grow(&self, length: u64) -> io::Result<()> {
        let _ = length;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A disk that makes engines for guest memory of the type `M`.
pub trait DiskBackend<M: GuestMemoryHandle>: Disk {
    /// An engine for one queue, with at most `depth` operations at a time. Called in the thread that will use it, so
    /// that what it allocates lies on that thread's node. An engine that cannot work says so in its completions.
    fn engine(&self, memory: &M, depth: u16) -> Box<dyn DiskEngine>;
}

/// A range of a disk, in bytes, for operations without data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// Zeroes may be written by giving the space back.
    pub unmap: bool,
}

/// An operation of a disk. Ranges lie inside the disk's length as it was when the request was checked; data lies in
/// guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Disk to guest memory.
    Read {
        /// The first byte on the disk.
        offset: u64,
        /// Where to.
        data: Segments,
    },
    /// Guest memory to disk.
    Write {
        /// The first byte on the disk.
        offset: u64,
        /// Where from.
        data: Segments,
        /// It survives a power failure once it is complete.
        durable: bool,
    },
    /// What was written and completed before survives a power failure once this is complete.
    Flush,
    /// The content is no longer needed.
    Discard(Vec<Extent>),
    /// The content becomes zeroes.
    WriteZeroes {
        /// Where.
        extents: Vec<Extent>,
        /// As for [`Write`](Self::Write).
        durable: bool,
    },
}

/// An operation has ended; its memory is not touched any more.
#[derive(Debug)]
pub struct Completion {
    /// What it was submitted with.
    pub tag: u16,
    /// All of it was done; else [`io::ErrorKind::Unsupported`], [`io::ErrorKind::StorageFull`] or another reason.
    pub result: io::Result<()>,
}

/// Carries out operations of one queue, in any order. Used by one thread.
pub trait DiskEngine: Send {
    /// Become readable when there are completions to take; without any, all are there when [`start`](Self::start) returns.
    /// May change in the course of any other call.
    fn fds(&self) -> [Option<RawFd>; 2];

    /// Called in the thread that uses the engine when that is another one from now on, or runs on other CPUs.
    fn follow_thread(&mut self) {}

    /// Takes an operation; `tag` is below the depth and not in use. May begin at once or wait for
    /// [`start`](Self::start).
    fn submit(&mut self, tag: u16, operation: Operation);

    /// Begins everything that was submitted. Does not wait for it, if the engine can avoid that.
    fn start(&mut self);

    /// Appends what has ended. Does not wait.
    fn completions(&mut self, done: &mut Vec<Completion>);

    /// The list of pieces of an operation that has ended, to be filled again. An engine that keeps none gives none.
    fn spare(&mut self) -> Option<Segments> {
        None
    }

    /// Waits until everything has ended, and appends it: afterwards guest memory is not touched. Once `cancelled` is true
    /// it cancels what it can, and soon leaves the rest to itself, with the memory that it uses.
    fn drain(&mut self, done: &mut Vec<Completion>, cancelled: &AtomicBool);
}
