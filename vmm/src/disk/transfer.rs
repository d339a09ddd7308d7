//! The steps of one operation of a disk, whoever carries them out: the rest after a short transfer, memory and ranges that
//! direct I/O does not take, and other ways where the host does not know one. Each step is one system call.

use super::helpers::Call;
use super::shape::DirectAlignment;
use super::write_order::{Claim, WriteOrder};
use crate::memory::FilledByKernel;
use crate::sys::{IoVec, RingOperation};
use devices::virtio::blk::{Extent, Operation, Segments};
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::GuestMemory;

/// Bytes that go through a buffer of our own at once, where guest memory or the range is not aligned.
const BOUNCE_BYTES: u64 = 64 << 10;

/// How often in a row a call may ask to be made again.
const MAX_RETRIES: u32 = 16;

/// What operations work on.
pub struct IoContext<G> {
    /// Guest memory.
    pub memory: Arc<G>,
    /// What direct I/O asks for; `None` through the page cache.
    pub direct: Option<DirectAlignment>,
    /// A block device, and the blocks that it addresses: it discards and zeroes no parts of them.
    pub device_block: Option<u32>,
    /// The disk's length as its guest knows it. A file may end within a block, of which direct I/O takes only all.
    pub length: Arc<AtomicU64>,
    /// Where direct I/O takes no single sectors: which writes may be under way together.
    pub order: Option<Arc<WriteOrder>>,
    /// Lists of pieces of guest memory that no call has any more, as many as there were calls at once.
    pub spare: RefCell<Vec<IoVec>>,
}

impl<G> IoContext<G> {
    /// Keeps a list of pieces of guest memory for another call, and gives anything else back.
    fn recycle(&self, memory: IoVec) -> Option<IoVec> {
        if !memory.is_guest() {
            return Some(memory);
        }
        self.spare.borrow_mut().push(memory);
        None
    }
}

/// What comes next.
pub enum Step {
    /// This call, on this memory.
    Call(Call, Option<IoVec>),
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
pub struct Transfer {
    work: Work,
    /// What the last step did.
    part: Part,
    /// The block that is being changed, as it was read and then changed.
    block: Option<IoVec>,
    retries: u32,
    /// The host was short of something: what comes next may take its time.
    patient: bool,
    failure: Option<io::Error>,
}

#[derive(Debug)]
enum Work {
    Move { write: bool, durable: bool, offset: u64, left: Segments },
    Extents { discard: bool, durable: bool, rest: Vec<Extent>, way: Option<Way> },
    Sync,
    Done,
}

/// A part of a transfer that one call can do, or that one block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// So many bytes, just as they are.
    Plain(u64),
    /// So many bytes, through the page cache: they lie in the block in which the file ends.
    Tail(u64),
    /// `bytes` of them, `skip` into the `length` bytes of whole blocks from `start` on.
    Blocks { start: u64, length: u64, skip: u64, bytes: u64 },
}

impl<G> IoContext<G> {
    /// The first part of a transfer of `length` bytes at `offset`.
    fn part(&self, offset: u64, length: u64, write: bool) -> Part {
        let Some(direct) = self.direct else { return Part::Plain(length) };
        let block = u64::from(direct.offset.max(1));
        let end = offset.saturating_add(length);
        if offset.is_multiple_of(block) && end.is_multiple_of(block) {
            return Part::Plain(length);
        }
        let size = self.length.load(Ordering::Acquire);
        let tail = if self.device_block.is_some() || size.is_multiple_of(block) {
            u64::MAX
        } else {
            size - size % block
        };
        if offset >= tail {
            return Part::Tail(length);
        }
        let end = end.min(tail);
        let (start, skip) = (offset - offset % block, offset % block);
        if skip == 0 && end - start >= block {
            return Part::Plain((end - start) / block * block);
        }
        // What is written back is one block; what is only read may be more.
        let most = if write { block } else { BOUNCE_BYTES.max(block) };
        let end = end.min(start.saturating_add(most));
        let length = (end - start).next_multiple_of(block);
        Part::Blocks { start, length, skip, bytes: end - offset }
    }

    /// Whether discarding and zeroing must leave out, or write, `part` bytes of a block at `offset` first.
    fn part_of_block(&self, offset: u64, length: u64) -> Option<u64> {
        let block = u64::from(self.device_block?.max(1));
        let skip = offset % block;
        (skip != 0 || length < block).then(|| length.min(block - skip))
    }

    /// What whole blocks there are of an extent that does not begin with a part of one.
    fn whole_blocks(&self, length: u64) -> u64 {
        self.device_block.map_or(length, |block| length - length % u64::from(block.max(1)))
    }
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
        Self { work, part: Part::Plain(0), block: None, retries: 0, patient: false, failure: None }
    }

    /// What it changes, before its first step; `None` if it changes nothing.
    pub fn claim(&self, direct: DirectAlignment) -> Option<Claim> {
        let block = u64::from(direct.offset.max(1));
        let ranges: Vec<Range<u64>> = match &self.work {
            Work::Move { write: true, offset, left, .. } => {
                std::iter::once(*offset..offset.saturating_add(left.len())).collect()
            }
            Work::Extents { rest, .. } => {
                rest.iter().map(|extent| extent.offset..extent.offset.saturating_add(extent.length)).collect()
            }
            Work::Move { write: false, .. } | Work::Sync | Work::Done => return None,
        };
        let whole = |range: &Range<u64>| range.start.is_multiple_of(block) && range.end.is_multiple_of(block);
        let exclusive = !ranges.iter().all(whole);
        let round = |range: Range<u64>| {
            let end = range.end.checked_next_multiple_of(block).unwrap_or(u64::MAX);
            range.start - range.start % block..end
        };
        Some(Claim { ranges: ranges.into_iter().map(round).collect(), exclusive })
    }

    /// The list of pieces that its data was in, if it has come to a good end.
    pub fn into_segments(self) -> Option<Segments> {
        match self.work {
            Work::Move { left, .. } => Some(left),
            Work::Extents { .. } | Work::Sync | Work::Done => None,
        }
    }

    /// The next call is to be made where it may take its time.
    pub fn is_patient(&self) -> bool {
        self.patient
    }

    /// What comes next.
    pub fn next<G>(&mut self, context: &IoContext<G>) -> Step
    where
        G: FilledByKernel + Send + Sync + 'static,
    {
        loop {
            if let Some(error) = self.failure.take() {
                self.work = Work::Done;
                return Step::Done(Err(error));
            }
            match &mut self.work {
                Work::Done => return Step::Done(Ok(())),
                Work::Sync => return Step::Call(Call::Disk(RingOperation::Sync), None),
                Work::Move { left, .. } if left.is_empty() => return Step::Done(Ok(())),
                Work::Move { write, durable, offset, left } => {
                    self.part = context.part(*offset, left.len(), *write);
                    let step = match *write {
                        true => write_step(self.part, *offset, *durable, &mut self.block, |bytes| {
                            left.read(&*context.memory, bytes).is_ok()
                        }),
                        false => read_step(self.part, *offset),
                    };
                    let step = step.map_or_else(|call| pieces(context, left, call), Some);
                    match step {
                        Some(step) => return step,
                        None => self.failure = Some(io::Error::from_raw_os_error(libc::EFAULT)),
                    }
                }
                Work::Extents { rest, durable, discard, way } => match rest.last_mut() {
                    None => self.work = if *durable { Work::Sync } else { Work::Done },
                    Some(Extent { length: 0, .. }) => {
                        rest.pop();
                        *way = None;
                    }
                    Some(extent) => {
                        let part = context.part_of_block(extent.offset, extent.length);
                        if let Some(bytes) = part.filter(|_| *discard) {
                            // What a device cannot discard stays.
                            (extent.offset, extent.length) = (extent.offset + bytes, extent.length - bytes);
                            continue;
                        }
                        let chosen = *way.get_or_insert(first_way(*discard, extent.unmap));
                        let (offset, length) = (extent.offset, part.unwrap_or(extent.length));
                        if part.is_some() || chosen == Way::Write {
                            self.part = context.part(offset, length, true);
                            let zero = |bytes: &mut [u8]| {
                                bytes.fill(0);
                                true
                            };
                            // What makes it durable comes at the end, once.
                            let step = write_step(self.part, offset, false, &mut self.block, zero);
                            return step.unwrap_or_else(zeroes);
                        }
                        let length = context.whole_blocks(length);
                        self.part = Part::Plain(length);
                        match extent_step(chosen, offset, length) {
                            Some(step) => return step,
                            None => self.failure = Some(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
                        }
                    }
                },
            }
        }
    }

    /// The last step has ended so; `memory` is what it worked on.
    pub fn landed<G: FilledByKernel>(
        &mut self,
        context: &IoContext<G>,
        call: Call,
        result: io::Result<usize>,
        memory: Option<IoVec>,
    ) {
        // What lies in guest memory is where it belongs, some of it also if the call failed.
        if let (Work::Move { write: false, left, .. }, Some(filled)) = (&self.work, &memory)
            && filled.is_guest()
        {
            note_filled(&*context.memory, left, filled.length());
        }
        let memory = memory.and_then(|memory| context.recycle(memory));
        match result {
            Ok(count) => {
                if let Err(error) = self.advance(context, call, count as u64, memory) {
                    self.failure = Some(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.patient => {
                self.patient = true;
                self.keep_block(call, memory);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted && self.retries < MAX_RETRIES => {
                self.retries += 1;
                self.keep_block(call, memory);
            }
            Err(error) if unknown(&error) && self.other_way(context.device_block.is_some()) => {}
            Err(error) => self.failure = Some(error),
        }
    }

    fn advance<G: GuestMemory>(
        &mut self,
        context: &IoContext<G>,
        call: Call,
        count: u64,
        memory: Option<IoVec>,
    ) -> io::Result<()> {
        let (is_write, moves) = match call {
            Call::Disk(RingOperation::Write { .. }) | Call::Buffered(RingOperation::Write { .. }) => {
                (true, true)
            }
            Call::Disk(RingOperation::Read(_)) | Call::Buffered(RingOperation::Read(_)) => (false, true),
            Call::Disk(RingOperation::Sync | RingOperation::Allocate { .. })
            | Call::Buffered(RingOperation::Sync | RingOperation::Allocate { .. })
            | Call::DiscardBlocks { .. } => (true, false),
        };
        if !moves {
            self.done(match self.part {
                Part::Plain(length) => length,
                Part::Tail(_) | Part::Blocks { .. } => 0,
            });
            return Ok(());
        }
        let (skip, bytes) = match self.part {
            Part::Plain(bytes) | Part::Tail(bytes) => (0, bytes),
            Part::Blocks { length, skip, bytes, .. } => {
                if self.writes() && count < length {
                    // Not the whole block: once more from its beginning, unless the disk has become shorter.
                    self.retries += 1;
                    self.keep_block(call, memory);
                    return if count == 0 || self.retries > MAX_RETRIES {
                        Err(ends(is_write))
                    } else {
                        Ok(())
                    };
                }
                if self.writes() && !is_write {
                    self.block = memory;
                    return Ok(());
                }
                (skip, bytes)
            }
        };
        let bytes = count.saturating_sub(skip).min(bytes);
        if bytes == 0 {
            return Err(ends(is_write));
        }
        if let (Work::Move { write: false, left, .. }, Some(mut memory)) = (&self.work, memory) {
            let range = usize::try_from(skip).ok().zip(usize::try_from(skip + bytes).ok());
            if let Some(read) = range.and_then(|(from, to)| memory.bounce_bytes().get(from..to)) {
                left.write(&*context.memory, read).map_err(io::Error::other)?;
            }
        }
        self.done(bytes);
        Ok(())
    }

    /// A block that is to be written once more.
    fn keep_block(&mut self, call: Call, memory: Option<IoVec>) {
        if self.writes()
            && matches!(self.part, Part::Blocks { .. })
            && matches!(call, Call::Disk(RingOperation::Write { .. }))
        {
            self.block = memory;
        }
    }

    fn writes(&self) -> bool {
        !matches!(self.work, Work::Move { write: false, .. })
    }

    /// So many bytes of the work are done.
    fn done(&mut self, bytes: u64) {
        (self.retries, self.patient, self.block) = (0, false, None);
        match &mut self.work {
            Work::Done => {}
            Work::Sync => self.work = Work::Done,
            Work::Move { offset, left, .. } => {
                *offset = offset.saturating_add(bytes);
                left.advance(bytes);
            }
            Work::Extents { rest, .. } => {
                let Some(extent) = rest.last_mut() else { return };
                let bytes = bytes.min(extent.length);
                extent.offset = extent.offset.saturating_add(bytes);
                extent.length -= bytes;
            }
        }
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

/// The kernel has filled the first bytes of these pieces.
fn note_filled(memory: &impl FilledByKernel, pieces: &Segments, mut bytes: usize) {
    for part in pieces.parts() {
        let length = bytes.min(part.length as usize);
        if length == 0 {
            return;
        }
        memory.filled(part.address, length);
        bytes -= length;
    }
}

/// The disk has become shorter than its guest was told.
fn ends(is_write: bool) -> io::Error {
    if is_write { io::ErrorKind::WriteZero.into() } else { io::ErrorKind::UnexpectedEof.into() }
}

/// A call that still needs memory of so many bytes.
struct Bare {
    call: Call,
    length: u64,
}

/// A step that writes a part. Of a block, all is read first; `fill` gives the bytes that are new in it.
fn write_step(
    part: Part,
    offset: u64,
    durable: bool,
    block: &mut Option<IoVec>,
    fill: impl FnOnce(&mut [u8]) -> bool,
) -> Result<Step, Bare> {
    let write = |offset| RingOperation::Write { offset, durable };
    match part {
        Part::Plain(length) => Err(Bare { call: Call::Disk(write(offset)), length }),
        Part::Tail(length) => Err(Bare { call: Call::Buffered(write(offset)), length }),
        Part::Blocks { start, length, skip, bytes } => {
            let fault = || io::Error::from_raw_os_error(libc::EFAULT);
            let Ok(length) = usize::try_from(length) else { return Ok(Step::Done(Err(fault()))) };
            let Some(mut memory) = block.take() else {
                let memory = IoVec::bounce(length);
                return Ok(Step::Call(Call::Disk(RingOperation::Read(start)), Some(memory)));
            };
            let range = usize::try_from(skip).ok().zip(usize::try_from(skip + bytes).ok());
            let new = range.and_then(|(from, to)| memory.bounce_bytes().get_mut(from..to));
            match new.is_some_and(fill) {
                true => Ok(Step::Call(Call::Disk(write(start)), Some(memory))),
                false => Ok(Step::Done(Err(fault()))),
            }
        }
    }
}

fn read_step(part: Part, offset: u64) -> Result<Step, Bare> {
    match part {
        Part::Plain(length) => Err(Bare { call: Call::Disk(RingOperation::Read(offset)), length }),
        Part::Tail(length) => Err(Bare { call: Call::Buffered(RingOperation::Read(offset)), length }),
        Part::Blocks { start, length, .. } => {
            let memory = usize::try_from(length).ok().map(IoVec::bounce);
            Ok(Step::Call(Call::Disk(RingOperation::Read(start)), memory))
        }
    }
}

fn zeroes(Bare { call, length }: Bare) -> Step {
    Step::Call(call, Some(IoVec::zeroes(length)))
}

fn first_way(discard: bool, unmap: bool) -> Way {
    if discard || unmap { Way::Punch } else { Way::Zero }
}

fn extent_step(way: Way, offset: u64, length: u64) -> Option<Step> {
    let allocate = |mode: i32| {
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        Some(Step::Call(Call::Disk(RingOperation::Allocate { mode, offset, length }), None))
    };
    match way {
        Way::Punch => allocate(libc::FALLOC_FL_PUNCH_HOLE),
        Way::Zero => allocate(libc::FALLOC_FL_ZERO_RANGE),
        Way::Blocks => Some(Step::Call(Call::DiscardBlocks { offset, length }, None)),
        Way::Write | Way::None => None,
    }
}

/// The step with guest memory itself, or a buffer of our own if direct I/O would not take it.
fn pieces<G>(context: &IoContext<G>, left: &Segments, Bare { call, length }: Bare) -> Option<Step>
where
    G: FilledByKernel + Send + Sync + 'static,
{
    let write =
        matches!(call, Call::Disk(RingOperation::Write { .. }) | Call::Buffered(RingOperation::Write { .. }));
    let part = (length < left.len()).then(|| Segments::window(left.parts(), 0, length));
    let left = part.as_ref().unwrap_or(left);
    let memory = IoVec::guest(&context.memory, left, !write, context.spare.borrow_mut().pop())?;
    let direct = context.direct.filter(|_| matches!(call, Call::Disk(_)));
    if direct.is_none_or(|direct| memory.is_aligned(direct.memory as usize, direct.offset as usize)) {
        return Some(Step::Call(call, Some(memory)));
    }
    context.recycle(memory);
    let most = BOUNCE_BYTES.max(direct.map_or(0, |direct| u64::from(direct.offset)));
    let mut bounce = IoVec::bounce(usize::try_from(left.len().min(most)).ok()?);
    if write {
        left.read(&*context.memory, bounce.bounce_bytes()).ok()?;
    }
    Some(Step::Call(call, Some(bounce)))
}

/// The host does not know the call for this kind of file.
fn unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOTTY | libc::ENOSYS))
}
