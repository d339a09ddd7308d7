//! The steps of one operation of a disk, whoever carries them out: the rest after a short transfer, buffers that direct
//! I/O does not take, and other ways where the host does not know one. Each step is one system call.

use crate::sys::{IoVec, RingOperation};
use devices::virtio::blk::{Extent, Operation, Segments};
use std::io;
use std::sync::Arc;
use vm_memory::GuestMemory;

/// Bytes that go through a buffer of our own at once, where guest memory is not aligned.
const BOUNCE_BYTES: u64 = 64 << 10;

/// How often in a row a call may ask to be made again.
const MAX_RETRIES: u32 = 16;

/// What operations work on.
#[derive(Debug)]
pub struct Ground<G> {
    /// Guest memory.
    pub memory: Arc<G>,
    /// What direct I/O asks of memory, in bytes; `None` through the page cache.
    pub align: Option<usize>,
    /// It is a block device.
    pub is_device: bool,
}

/// What comes next.
pub enum Step {
    /// This call, on this memory.
    Call(RingOperation, Option<IoVec>),
    /// `BLKDISCARD`, which no ring has.
    DiscardBlocks {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Nothing: this is the outcome.
    Done(io::Result<()>),
}

/// One way to discard or to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Give the space back; it reads as zeroes.
    Punch,
    /// Keep the space; it reads as zeroes.
    Zero,
    /// Write zeroes.
    Write,
    /// Tell the device.
    Blocks,
    /// There is none.
    None,
}

/// An operation under way.
#[derive(Debug)]
pub struct Transfer {
    work: Work,
    retries: u32,
    failure: Option<io::Error>,
}

#[derive(Debug)]
enum Work {
    Move { write: bool, durable: bool, offset: u64, left: Segments },
    Extents { discard: bool, durable: bool, rest: Vec<Extent>, way: Option<Way> },
    Sync,
    Done,
}

impl Transfer {
    /// Begins an operation.
    pub fn new(operation: Operation) -> Self {
        let reversed = |mut extents: Vec<Extent>| {
            extents.reverse();
            extents
        };
        let work = match operation {
            Operation::Read { offset, data } => {
                Work::Move { write: false, durable: false, offset, left: data }
            }
            Operation::Write { offset, data, durable } => {
                Work::Move { write: true, durable, offset, left: data }
            }
            Operation::Flush => Work::Sync,
            Operation::Discard(extents) => {
                Work::Extents { discard: true, durable: false, rest: reversed(extents), way: None }
            }
            Operation::WriteZeroes { extents, durable } => {
                Work::Extents { discard: false, durable, rest: reversed(extents), way: None }
            }
        };
        Self { work, retries: 0, failure: None }
    }

    /// What comes next.
    pub fn next<G>(&mut self, ground: &Ground<G>) -> Step
    where
        G: GuestMemory<Bitmap = ()> + Send + Sync + 'static,
    {
        loop {
            if let Some(error) = self.failure.take() {
                self.work = Work::Done;
                return Step::Done(Err(error));
            }
            match &mut self.work {
                Work::Done => return Step::Done(Ok(())),
                Work::Sync => return Step::Call(RingOperation::Sync, None),
                Work::Move { left, .. } if left.is_empty() => self.work = Work::Done,
                Work::Move { write, durable, offset, left } => {
                    let Some(memory) = pieces(ground, left, *write) else {
                        self.failure = Some(io::Error::from_raw_os_error(libc::EFAULT));
                        continue;
                    };
                    let operation = match *write {
                        true => RingOperation::Write { offset: *offset, durable: *durable },
                        false => RingOperation::Read(*offset),
                    };
                    return Step::Call(operation, Some(memory));
                }
                Work::Extents { rest, durable, discard, way } => match rest.last() {
                    None => self.work = if *durable { Work::Sync } else { Work::Done },
                    Some(Extent { length: 0, .. }) => {
                        rest.pop();
                        *way = None;
                    }
                    Some(extent) => {
                        let way = *way.get_or_insert(first_way(*discard, extent.unmap));
                        match extent_step(way, extent) {
                            Some(step) => return step,
                            None => self.failure = Some(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
                        }
                    }
                },
            }
        }
    }

    /// The last step has ended so; `memory` is what it worked on.
    pub fn landed<G: GuestMemory>(
        &mut self,
        ground: &Ground<G>,
        result: io::Result<usize>,
        memory: Option<IoVec>,
    ) {
        match result {
            Ok(count) => {
                self.retries = 0;
                if let Err(error) = self.advance(ground, count, memory) {
                    self.failure = Some(error);
                }
            }
            Err(error) if again(&error) && self.retries < MAX_RETRIES => self.retries += 1,
            Err(error) if unknown(&error) && self.other_way(ground.is_device) => {}
            Err(error) => self.failure = Some(error),
        }
    }

    fn advance<G: GuestMemory>(
        &mut self,
        ground: &Ground<G>,
        count: usize,
        memory: Option<IoVec>,
    ) -> io::Result<()> {
        match &mut self.work {
            Work::Done => {}
            Work::Sync => self.work = Work::Done,
            Work::Move { write, offset, left, .. } => {
                if count == 0 {
                    // The disk has become shorter than its guest was told.
                    let kind = if *write { io::ErrorKind::WriteZero } else { io::ErrorKind::UnexpectedEof };
                    return Err(kind.into());
                }
                if let (false, Some(mut memory)) = (*write, memory)
                    && let Some(bytes) = memory.bounce_bytes().get(..count)
                {
                    left.write(&*ground.memory, bytes).map_err(io::Error::other)?;
                }
                *offset = offset.saturating_add(count as u64);
                left.advance(count as u64);
            }
            Work::Extents { rest, way, .. } => {
                let Some(extent) = rest.last_mut() else { return Ok(()) };
                let done = match way {
                    Some(Way::Write) if count == 0 => return Err(io::ErrorKind::WriteZero.into()),
                    Some(Way::Write) => (count as u64).min(extent.length),
                    _ => extent.length,
                };
                extent.offset = extent.offset.saturating_add(done);
                extent.length -= done;
            }
        }
        Ok(())
    }

    /// Chooses the next way, if the work has others.
    fn other_way(&mut self, is_device: bool) -> bool {
        let Work::Extents { discard, way: Some(way), .. } = &mut self.work else { return false };
        *way = match (*way, *discard) {
            (Way::Punch, true) if is_device => Way::Blocks,
            (Way::Punch, false) => Way::Zero,
            (Way::Zero, _) => Way::Write,
            (Way::Punch | Way::Blocks | Way::Write | Way::None, _) => Way::None,
        };
        true
    }
}

fn first_way(discard: bool, unmap: bool) -> Way {
    if discard || unmap { Way::Punch } else { Way::Zero }
}

fn extent_step(way: Way, extent: &Extent) -> Option<Step> {
    let Extent { offset, length, .. } = *extent;
    let allocate = |mode: i32| {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        Some(Step::Call(RingOperation::Allocate { mode, offset, length }, None))
    };
    match way {
        Way::Punch => allocate(libc::FALLOC_FL_PUNCH_HOLE),
        Way::Zero => allocate(libc::FALLOC_FL_ZERO_RANGE),
        Way::Write => {
            // What makes it durable comes at the end, once.
            let operation = RingOperation::Write { offset, durable: false };
            Some(Step::Call(operation, Some(IoVec::zeroes(length))))
        }
        Way::Blocks => Some(Step::DiscardBlocks { offset, length }),
        Way::None => None,
    }
}

/// Guest memory itself, or a buffer of our own if direct I/O would not take it.
fn pieces<G>(ground: &Ground<G>, left: &Segments, write: bool) -> Option<IoVec>
where
    G: GuestMemory<Bitmap = ()> + Send + Sync + 'static,
{
    let memory = IoVec::guest(&ground.memory, left, !write)?;
    if ground.align.is_none_or(|align| memory.is_aligned(align)) {
        return Some(memory);
    }
    let mut bounce = IoVec::bounce(usize::try_from(left.len().min(BOUNCE_BYTES)).ok()?);
    if write {
        left.read(&*ground.memory, bounce.bounce_bytes()).ok()?;
    }
    Some(bounce)
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The host does not know the call for this kind of file.
fn unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOTTY | libc::ENOSYS))
}
