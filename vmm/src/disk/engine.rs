//! Carries out a disk's operations for one queue: through a ring of its own, or by plain system calls at once. The
//! steps of an operation are `transfer`'s, the calls `sys`'.

use super::lock::LockedFile;
use super::transfer::{Ground, Step, Transfer};
use crate::sys::{IoVec, Landed, Ring, RingOperation, discard_blocks};
use devices::virtio::blk::{Completion, DiskEngine, Operation};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vm_memory::GuestMemory;

/// Between two looks at whether requests were cancelled, while the engine waits for them.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long cancelled requests may take.
const CANCELLED_WITHIN: Duration = Duration::from_secs(1);

/// An engine.
pub struct Engine<G> {
    name: String,
    ground: Ground<G>,
    /// Without one, calls are made at once.
    ring: Option<Ring>,
    /// By tag.
    transfers: Vec<Option<Transfer>>,
    under_way: usize,
    done: Vec<Completion>,
    /// Nothing is begun any more.
    cancelled: bool,
    /// Unlocked when nothing is under way any more.
    locked: Arc<LockedFile>,
}

impl<G> Engine<G>
where
    G: GuestMemory<Bitmap = ()> + Send + Sync + 'static,
{
    /// An engine for up to `depth` operations at a time.
    pub fn new(
        name: String,
        locked: Arc<LockedFile>,
        ground: Ground<G>,
        ring: Option<Ring>,
        depth: u16,
    ) -> Self {
        if let Some(ring) = &ring {
            ring.follow_thread();
        }
        let transfers = (0..depth).map(|_| None).collect();
        Self { name, ground, ring, transfers, under_way: 0, done: Vec::new(), cancelled: false, locked }
    }

    /// Takes an operation as far as it goes without waiting for the ring.
    fn step(&mut self, tag: u16) {
        let Some(Some(transfer)) = self.transfers.get_mut(usize::from(tag)) else { return };
        let result = loop {
            let (result, memory) = match transfer.next(&self.ground) {
                Step::Done(result) => break result,
                _ if self.cancelled => break Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                Step::DiscardBlocks { offset, length } => {
                    (discard_blocks(self.locked.file(), offset, length).map(|()| 0), None)
                }
                Step::Call(operation, memory) => match &mut self.ring {
                    None => (call(self.locked.file(), operation, memory.as_ref()), memory),
                    Some(ring) => match ring.push(tag, operation, memory) {
                        Ok(()) => return,
                        Err(memory) => (Err(io::Error::from_raw_os_error(libc::EIO)), memory),
                    },
                },
            };
            transfer.landed(&self.ground, result, memory);
        };
        self.transfers[usize::from(tag)] = None;
        self.under_way -= 1;
        self.done.push(Completion { tag, result });
    }

    /// Takes what has landed in the ring, and takes those operations further.
    fn land(&mut self) {
        loop {
            let mut any = false;
            while let Some(Landed { slot, result, memory }) = self.ring.as_mut().and_then(Ring::pop) {
                any = true;
                if let Some(Some(transfer)) = self.transfers.get_mut(usize::from(slot)) {
                    transfer.landed(&self.ground, result, memory);
                }
                self.step(slot);
            }
            if !any {
                break;
            }
            self.submit();
        }
    }

    /// Nothing is begun any more, and what has begun is to end.
    fn cancel(&mut self) {
        self.cancelled = true;
        if let Some(Err(error)) = self.ring.as_mut().map(Ring::cancel) {
            tracing::warn!(disk = %self.name, %error, "requests are not cancelled");
        }
    }

    /// What does not end is left to itself.
    fn leave(&mut self) {
        tracing::error!(disk = %self.name, requests = self.under_way, "storage does not answer, leaving it");
        if let Some(ring) = &mut self.ring {
            ring.give_up();
        }
    }

    fn submit(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let Err(error) = ring.submit() else { return };
        // With something in the kernel there will be a completion, and with it another attempt.
        if ring.in_kernel() == 0 {
            tracing::warn!(disk = %self.name, %error, "io_uring takes nothing, plain system calls from now on");
            let queued = self.ring.take().map(Ring::take_queued).unwrap_or_default();
            for (tag, memory) in queued {
                if let Some(Some(transfer)) = self.transfers.get_mut(usize::from(tag)) {
                    transfer.landed(&self.ground, Err(io::ErrorKind::Interrupted.into()), memory);
                }
                self.step(tag);
            }
        }
    }
}

impl<G> DiskEngine for Engine<G>
where
    G: GuestMemory<Bitmap = ()> + Send + Sync + 'static,
{
    fn fd(&self) -> Option<RawFd> {
        self.ring.as_ref().map(Ring::fd)
    }

    fn follow_thread(&mut self) {
        if let Some(ring) = &self.ring {
            ring.follow_thread();
        }
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        match self.transfers.get_mut(usize::from(tag)) {
            Some(slot @ None) => *slot = Some(Transfer::new(operation)),
            Some(Some(_)) | None => {
                let result = Err(io::Error::from_raw_os_error(libc::EINVAL));
                return self.done.push(Completion { tag, result });
            }
        }
        self.under_way += 1;
        self.step(tag);
    }

    fn start(&mut self) {
        Engine::submit(self);
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.land();
        done.append(&mut self.done);
    }

    fn drain(&mut self, done: &mut Vec<Completion>, cancelled: &AtomicBool) {
        let mut leave = None;
        loop {
            Engine::submit(self);
            self.completions(done);
            if self.under_way == 0 {
                return;
            }
            if cancelled.load(Ordering::Acquire) {
                let at = *leave.get_or_insert_with(|| {
                    self.cancel();
                    Instant::now() + CANCELLED_WITHIN
                });
                if Instant::now() >= at {
                    return self.leave();
                }
            }
            match &mut self.ring {
                Some(ring) => ring.wait(LOOK_AGAIN),
                None => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }
}

/// Makes a call at once.
fn call(file: &File, operation: RingOperation, memory: Option<&IoVec>) -> io::Result<usize> {
    let missing = || io::Error::from_raw_os_error(libc::EFAULT);
    match operation {
        RingOperation::Read(offset) => memory.ok_or_else(missing)?.read(file, offset),
        RingOperation::Write { offset, durable } => memory.ok_or_else(missing)?.write(file, offset, durable),
        RingOperation::Sync => file.sync_data().map(|()| 0),
        RingOperation::Allocate { mode, offset, length } => {
            let too_far = |_| io::Error::from_raw_os_error(libc::EFBIG);
            let (offset, length) =
                (i64::try_from(offset).map_err(too_far)?, i64::try_from(length).map_err(too_far)?);
            fallocate(file, FallocateFlags::from_bits_retain(mode), offset, length)?;
            Ok(0)
        }
    }
}
