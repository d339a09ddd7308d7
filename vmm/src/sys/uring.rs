//! A ring of system calls on one file (io_uring): owns what the kernel may touch until the kernel has given it back.
//! What is asked of the file is `disk`'s decision.

use super::poll::wait_readable;
use super::pvec::IoVec;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Probe, opcode, squeue};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// User data of a request to cancel; operations have their slots.
const CANCEL: u64 = u64::MAX;

/// How long the end of a ring waits for operations that were cancelled.
const END_WITHIN: Duration = Duration::from_millis(500);

/// What a ring does to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingOperation {
    /// Fills memory from this offset on.
    Read(u64),
    /// Writes memory at `offset`; `durable` as in [`IoVec::write`].
    Write {
        /// Where to.
        offset: u64,
        /// It is complete when it survives a power failure.
        durable: bool,
    },
    /// Makes what was written durable (`fdatasync`).
    Sync,
    /// Changes what a range is made of (`fallocate`).
    Allocate {
        /// `FALLOC_FL_*`.
        mode: i32,
        /// Its first byte.
        offset: u64,
        /// Its length.
        length: u64,
    },
}

/// What came back.
pub struct Landed {
    /// What it was pushed with.
    pub slot: u16,
    /// What the system call would have given.
    pub result: io::Result<usize>,
    /// Its memory.
    pub memory: Option<IoVec>,
}

/// The memory of an operation in the ring.
struct Flight(Option<IoVec>);

/// A ring, its file, and the memory of what is in flight.
pub struct Ring {
    ring: IoUring,
    /// Not registered with the ring: the kernel closes rings a while after their process has ended, and a registered file
    /// would stay locked until then.
    file: Arc<File>,
    flights: Vec<Option<Flight>>,
    /// Pushed, not yet seen by the kernel; oldest first.
    queued: VecDeque<u16>,
    /// With the kernel.
    in_kernel: usize,
    /// How long the end waits for what the kernel has.
    patience: Duration,
    /// The kernel takes nothing.
    #[cfg(test)]
    pub refusing: bool,
}

impl Ring {
    /// A ring for up to `depth` operations at a time.
    pub fn new(file: &Arc<File>, depth: u16) -> io::Result<Self> {
        let entries = u32::from(depth.max(1)).next_power_of_two();
        // Without interrupts between processors where the kernel knows how (Linux 5.19): this thread comes by anyway.
        let ring =
            IoUring::builder().dontfork().setup_coop_taskrun().build(entries).or_else(|error| match error
                .raw_os_error()
            {
                Some(libc::EINVAL) => IoUring::builder().dontfork().build(entries),
                _ => Err(error),
            })?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let flights = (0..depth).map(|_| None).collect();
        let (file, queued) = (Arc::clone(file), VecDeque::new());
        Ok(Self {
            ring,
            file,
            flights,
            queued,
            in_kernel: 0,
            patience: END_WITHIN,
            #[cfg(test)]
            refusing: false,
        })
    }

    /// Becomes readable when something has landed.
    pub fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Runs the kernel's helper threads for this thread's rings on the CPUs where this thread may run (Linux 5.14).
    pub fn follow_thread(&self) {
        let size = std::mem::size_of::<libc::cpu_set_t>();
        let mut cpus = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the kernel writes at most `size` bytes to the set, which outlives the call.
        if unsafe { libc::sched_getaffinity(0, size, cpus.as_mut_ptr()) } != 0 {
            return;
        }
        // SAFETY: a set of bits, of which the zeroes that it began with were valid already.
        let cpus = unsafe { cpus.assume_init() };
        // Where the helpers run changes how fast they are, not what they do.
        let _ = self.ring.submitter().register_iowq_aff(&cpus);
    }

    /// Puts an operation in the ring; [`submit`](Self::submit) begins it. Gives the memory back if the slot is taken, or
    /// the memory is not what the operation needs.
    pub fn push(
        &mut self,
        slot: u16,
        operation: RingOperation,
        memory: Option<IoVec>,
    ) -> Result<(), Option<IoVec>> {
        if !matches!(self.flights.get(usize::from(slot)), Some(None)) {
            return Err(memory);
        }
        let Some(entry) = entry(Fd(self.file.as_raw_fd()), operation, memory.as_ref()) else {
            return Err(memory);
        };
        let entry = entry.user_data(u64::from(slot));
        // SAFETY: the file stays open as long as this ring. The memory, if any, is what the entry points to
        // (its addresses do not change when the `IoVec` moves) and stays in `flights`, untouched, until the kernel
        // reports that it has ended; `drop` waits for that.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            return Err(memory);
        }
        self.flights[usize::from(slot)] = Some(Flight(memory));
        self.queued.push_back(slot);
        Ok(())
    }

    /// Begins what was pushed. An error leaves the rest pushed, to be begun by the next call.
    pub fn submit(&mut self) -> io::Result<()> {
        while !self.queued.is_empty() {
            #[cfg(test)]
            if self.refusing {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            self.enter()?;
        }
        Ok(())
    }

    /// Asks the kernel to end everything. What has begun may go on for as long as it likes all the same.
    pub fn cancel(&mut self) -> io::Result<()> {
        let taken = self.flights.iter().zip(0_u16..).filter(|(flight, _)| flight.is_some());
        let slots: Vec<u16> = taken.map(|(_, slot)| slot).collect();
        for slot in slots {
            // What is only pushed begins now, and ends with the next entry.
            if !self.push_cancel(slot) {
                self.enter()?;
                self.push_cancel(slot);
            }
        }
        self.enter()
    }

    /// False if there is no room before the kernel has seen what is there.
    fn push_cancel(&mut self, slot: u16) -> bool {
        let entry = opcode::AsyncCancel::new(u64::from(slot)).build().user_data(CANCEL);
        // SAFETY: the entry names no memory.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// Waits, not longer than so, until something has landed, if anything is with the kernel.
    pub fn wait(&mut self, most: Duration) {
        if self.in_kernel > 0 && self.ring.completion().is_empty() {
            wait_readable(&[self.fd()], most);
        }
    }

    /// What the kernel has now is not waited for any more.
    pub fn give_up(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// Operations that the kernel has.
    pub fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// What has landed, one at a time.
    pub fn pop(&mut self) -> Option<Landed> {
        loop {
            let entry = self.ring.completion().next()?;
            let Ok(slot) = u16::try_from(entry.user_data()) else { continue };
            let Some(flight) = self.flights.get_mut(usize::from(slot)).and_then(Option::take) else {
                continue;
            };
            self.in_kernel = self.in_kernel.saturating_sub(1);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            return Some(Landed { slot, result, memory: flight.0 });
        }
    }

    /// Takes back what the kernel has not seen, and closes the ring. Only when nothing is with the kernel, else nothing
    /// is given back.
    pub fn take_queued(mut self) -> Vec<(u16, Option<IoVec>)> {
        let mut taken = Vec::new();
        // Waiting for the kernel would show it the entries whose memory is taken back here.
        if self.in_kernel > 0 {
            return taken;
        }
        for slot in std::mem::take(&mut self.queued) {
            if let Some(flight) = self.flights.get_mut(usize::from(slot)).and_then(Option::take) {
                taken.push((slot, flight.0));
            }
        }
        taken
    }

    fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(0) if !self.queued.is_empty() => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Ok(taken) => {
                self.in_kernel += self.queued.drain(..taken.min(self.queued.len())).len();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Ring {
    /// Closing a ring does not wait for its operations: they would use memory that is gone. Nor does this wait for those
    /// that do not end, or not for long.
    fn drop(&mut self) {
        let start = Instant::now();
        if self.in_kernel > 0 && self.patience > Duration::ZERO {
            // Without it, waiting is the only way.
            let _ = self.cancel();
        }
        loop {
            while self.pop().is_some() {}
            let left = self.patience.saturating_sub(start.elapsed());
            if self.in_kernel == 0 || left.is_zero() {
                break;
            }
            self.wait(left);
        }
        if self.in_kernel > 0 {
            tracing::error!(
                operations = self.in_kernel,
                "io_uring did not complete operations; leaking their memory"
            );
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}

/// The ring's entry; `None` if the memory is missing or may not be filled.
fn entry(file: Fd, operation: RingOperation, memory: Option<&IoVec>) -> Option<squeue::Entry> {
    let parts = memory.map(IoVec::parts).unwrap_or_default();
    let count = u32::try_from(parts.len()).ok()?;
    // A single piece spares the kernel the copy of the list.
    let single = match parts {
        [part] => u32::try_from(part.iov_len).ok().map(|length| (part.iov_base.cast::<u8>(), length)),
        _ => None,
    };
    Some(match operation {
        RingOperation::Read(offset) => {
            if !memory?.is_writable() {
                return None;
            }
            match single {
                Some((start, length)) => opcode::Read::new(file, start, length).offset(offset).build(),
                None => opcode::Readv::new(file, parts.as_ptr(), count).offset(offset).build(),
            }
        }
        RingOperation::Write { offset, durable } => {
            memory?;
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            match single {
                Some((start, length)) => {
                    opcode::Write::new(file, start, length).offset(offset).rw_flags(flags).build()
                }
                None => {
                    opcode::Writev::new(file, parts.as_ptr(), count).offset(offset).rw_flags(flags).build()
                }
            }
        }
        RingOperation::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        RingOperation::Allocate { mode, offset, length } => {
            opcode::Fallocate::new(file, length).offset(offset).mode(mode).build()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Landed, Ring, RingOperation};
    use crate::sys::IoVec;
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Duration;

    /// A ring on the reading end of a pipe: its reads last until somebody writes.
    fn ring_on_pipe(depth: u16) -> Option<(Ring, io::PipeWriter)> {
        let (reader, writer) = io::pipe().unwrap();
        let file = Arc::new(File::from(OwnedFd::from(reader)));
        match Ring::new(&file, depth) {
            Ok(ring) => Some((ring, writer)),
            Err(error) => {
                testing::skip(format_args!("no io_uring: {error}"));
                None
            }
        }
    }

    fn landed(ring: &mut Ring) -> Landed {
        ring.submit().unwrap();
        loop {
            if let Some(landed) = ring.pop() {
                return landed;
            }
            ring.wait(Duration::from_secs(10));
        }
    }

    #[test]
    fn memory_comes_back_with_what_was_read() {
        let Some((mut ring, mut writer)) = ring_on_pipe(4) else { return };
        assert!(ring.push(3, RingOperation::Read(0), Some(IoVec::bounce(16))).is_ok());
        writer.write_all(b"ring").unwrap();
        let mut landed = landed(&mut ring);
        assert_eq!((landed.slot, landed.result.unwrap(), ring.in_kernel()), (3, 4, 0));
        assert_eq!(&landed.memory.as_mut().unwrap().bounce_bytes()[..4], b"ring");
        assert!(ring.pop().is_none());
    }

    #[test]
    fn what_makes_no_sense_is_given_back_at_once() {
        let Some((mut ring, _writer)) = ring_on_pipe(4) else { return };
        assert!(ring.push(4, RingOperation::Sync, None).is_err(), "no such slot");
        assert!(ring.push(0, RingOperation::Read(0), None).is_err(), "no memory");
        assert!(matches!(ring.push(0, RingOperation::Read(0), Some(IoVec::zeroes(512))), Err(Some(_))));
        assert!(ring.push(0, RingOperation::Read(0), Some(IoVec::bounce(16))).is_ok());
        assert!(ring.push(0, RingOperation::Read(0), Some(IoVec::bounce(16))).is_err(), "slot taken");
        assert_eq!(ring.take_queued().len(), 1);
    }

    #[test]
    fn errors_of_the_kernel_are_results() {
        let Some((mut ring, _writer)) = ring_on_pipe(4) else { return };
        assert!(ring.push(1, RingOperation::Sync, None).is_ok());
        assert_eq!(landed(&mut ring).result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn what_would_last_is_cancelled_and_its_memory_comes_back() {
        let Some((mut ring, _writer)) = ring_on_pipe(4) else { return };
        for slot in 0..3 {
            assert!(ring.push(slot, RingOperation::Read(0), Some(IoVec::bounce(16))).is_ok());
        }
        ring.submit().unwrap();
        assert_eq!((ring.in_kernel(), ring.pop().is_none()), (3, true));
        ring.cancel().unwrap();
        for _ in 0..3 {
            let landed = landed(&mut ring);
            let error = landed.result.unwrap_err().raw_os_error();
            assert!(matches!(error, Some(libc::ECANCELED | libc::EINTR)), "{error:?}");
            assert!(landed.memory.is_some());
        }
        assert_eq!(ring.in_kernel(), 0);
    }

    #[test]
    fn the_end_of_a_ring_takes_back_what_can_be_cancelled() {
        let Some((mut ring, _writer)) = ring_on_pipe(4) else { return };
        let kept = Arc::new(());
        assert!(ring.push(0, RingOperation::Read(0), Some(IoVec::bounce_with(16, &kept))).is_ok());
        ring.submit().unwrap();
        assert!(ring.push(1, RingOperation::Read(0), Some(IoVec::bounce_with(16, &kept))).is_ok());
        drop(ring);
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn memory_of_what_is_not_waited_for_is_kept_for_ever() {
        let Some((mut ring, _writer)) = ring_on_pipe(4) else { return };
        let kept = Arc::new(());
        assert!(ring.push(0, RingOperation::Read(0), Some(IoVec::bounce_with(16, &kept))).is_ok());
        ring.submit().unwrap();
        ring.give_up();
        drop(ring);
        assert_eq!(Arc::strong_count(&kept), 2);
    }
}
