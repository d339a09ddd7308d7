//! Threads that make a disk's system calls where no ring does: all of them without io_uring, else those that no ring has or
//! that a ring was refused. Which calls, and what comes after them, is the engine's decision.

use super::lock::LockedFile;
use crate::pci::helper_thread;
use crate::sys::{IoVec, RingOperation, discard_blocks};
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Most threads of a disk. They are made when there is work for one more.
pub const MAX_THREADS: usize = 8;

/// Pauses before a call that the host was too short of something for (`EAGAIN`) is made again: half a second in all.
const PAUSES: [Duration; 9] = {
    let mut pauses = [Duration::ZERO; 9];
    let mut i = 0;
    while i < pauses.len() {
        pauses[i] = Duration::from_millis(1 << i);
        i += 1;
    }
    pauses
};

/// A system call on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// One that a ring has too.
    Disk(RingOperation),
    /// A transfer through the page cache, though the disk is opened for direct I/O.
    Buffered(RingOperation),
    /// `BLKDISCARD`.
    DiscardBlocks {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// Makes calls.
pub trait Calls: Send + Sync {
    /// Makes one, however long it takes.
    fn call(&self, call: Call, memory: Option<&IoVec>) -> io::Result<usize>;
}

/// The files of a disk.
pub struct Files {
    /// The disk.
    pub locked: Arc<LockedFile>,
    /// The same without direct I/O, where there is a need for it.
    pub buffered: Option<File>,
}

impl Calls for Files {
    fn call(&self, call: Call, memory: Option<&IoVec>) -> io::Result<usize> {
        let file = &**self.locked.file();
        match call {
            Call::Disk(operation) => run(file, operation, memory),
            Call::Buffered(operation) => run(self.buffered.as_ref().unwrap_or(file), operation, memory),
            Call::DiscardBlocks { offset, length } => discard_blocks(file, offset, length).map(|()| 0),
        }
    }
}

fn run(file: &File, operation: RingOperation, memory: Option<&IoVec>) -> io::Result<usize> {
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

/// A call to be made.
pub struct Job {
    /// Whose.
    pub tag: u16,
    /// Which.
    pub call: Call,
    /// What it works on.
    pub memory: Option<IoVec>,
    /// Who wants to know.
    pub to: Arc<Mailbox>,
}

/// What an engine finds in its mailbox.
pub enum Letter {
    /// A call has ended.
    Ended {
        /// Whose.
        tag: u16,
        /// What it gave.
        result: io::Result<usize>,
        /// What it worked on.
        memory: Option<IoVec>,
    },
    /// A write that waited for others may begin.
    Turn(u16),
}

/// What others have for an engine.
pub struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    event: EventFd,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { letters: Mutex::new(Vec::new()), event: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Readable while there is anything.
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Puts something in.
    pub fn post(&self, letter: Letter) {
        lock(&self.letters).push(letter);
        // Fails only if the counter is full, and then it is readable.
        let _ = self.event.write(1);
    }

    /// Takes everything out.
    pub fn take(&self) -> Vec<Letter> {
        let mut letters = lock(&self.letters);
        if !letters.is_empty() {
            let _ = self.event.read();
        }
        std::mem::take(&mut letters)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of one disk.
pub struct Helpers {
    calls: Arc<dyn Calls>,
    pool: Arc<Pool>,
}

/// What threads share that wait for work. It has no file: a thread that only waits keeps no disk locked.
#[derive(Default)]
struct Pool {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Job, Arc<dyn Calls>)>,
    threads: usize,
    idle: usize,
    closed: bool,
    /// It was told that there are no threads.
    warned: bool,
}

impl Helpers {
    /// No thread yet.
    pub fn new(calls: impl Calls + 'static) -> Self {
        Self { calls: Arc::new(calls), pool: Arc::default() }
    }

    /// Has a thread make a call. Without any, it is made at once.
    pub fn push(&self, job: Job) {
        let mut queue = lock(&self.pool.queue);
        queue.jobs.push_back((job, Arc::clone(&self.calls)));
        if queue.jobs.len() <= queue.idle || queue.threads == MAX_THREADS {
            self.pool.work.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let pool = Arc::clone(&self.pool);
        let Err(error) = helper_thread("disk-io", move || pool.serve()) else { return };
        let mut queue = lock(&self.pool.queue);
        queue.threads -= 1;
        if queue.threads == 0 {
            let jobs = std::mem::take(&mut queue.jobs);
            let warned = std::mem::replace(&mut queue.warned, true);
            drop(queue);
            if !warned {
                tracing::warn!(%error, "cannot start a disk I/O thread, using the device thread");
            }
            jobs.into_iter().for_each(|(job, calls)| make(job, calls));
        }
    }

    /// Takes back what no thread has begun of `to`'s.
    pub fn withdraw(&self, to: &Arc<Mailbox>) {
        let mut queue = lock(&self.pool.queue);
        let jobs = std::mem::take(&mut queue.jobs);
        let (withdrawn, kept): (VecDeque<_>, VecDeque<_>) =
            jobs.into_iter().partition(|(job, _)| Arc::ptr_eq(&job.to, to));
        queue.jobs = kept;
        drop(queue);
        for (Job { tag, memory, .. }, _) in withdrawn {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            to.post(Letter::Ended { tag, result, memory });
        }
    }
}

impl fmt::Debug for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helpers").finish_non_exhaustive()
    }
}

impl Drop for Helpers {
    /// Threads end with the calls that they are making; those own what they work on.
    fn drop(&mut self) {
        lock(&self.pool.queue).closed = true;
        self.pool.work.notify_all();
    }
}

impl Pool {
    fn serve(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some((job, calls)) = queue.jobs.pop_front() {
                drop(queue);
                make(job, calls);
                queue = lock(&self.queue);
                continue;
            }
            if queue.closed {
                queue.threads -= 1;
                return;
            }
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

fn make(Job { tag, call, memory, to }: Job, calls: Arc<dyn Calls>) {
    let result = patiently(|| calls.call(call, memory.as_ref()), std::thread::sleep);
    // Before it is told: whoever hears that all has ended may open the disk again.
    drop(calls);
    to.post(Letter::Ended { tag, result, memory });
}

/// Makes a call again, after longer and longer pauses, while the host is short of something.
fn patiently(
    mut call: impl FnMut() -> io::Result<usize>,
    mut pause: impl FnMut(Duration),
) -> io::Result<usize> {
    for length in PAUSES {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(length),
            result => return result,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::patiently;
    use std::io;
    use std::time::Duration;

    fn short() -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    #[test]
    fn a_host_that_is_short_of_something_is_given_time_and_not_a_burst() {
        let (mut left, mut paused) = (3, Vec::new());
        let call = || {
            left -= 1;
            if left >= 0 { short() } else { Ok(512) }
        };
        assert_eq!(patiently(call, |pause| paused.push(pause)).unwrap(), 512);
        assert_eq!(paused, [1, 2, 4].map(Duration::from_millis));
        let (mut calls, mut paused) = (0, Duration::ZERO);
        let always = || {
            calls += 1;
            short()
        };
        let error = patiently(always, |pause| paused += pause).unwrap_err();
        assert_eq!(
            (error.kind(), calls, paused),
            (io::ErrorKind::WouldBlock, 10, Duration::from_millis(511))
        );
    }
}
