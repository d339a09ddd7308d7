//! The running half of a balloon: takes arrays of page numbers off the queues, has the state judge them and the host
//! act, and only then uses their buffers.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::PAGE_BYTES;
use super::handle::Shared;
use super::host::{BalloonHost, Sweep};
use super::pages::{PageRun, compact};
use super::stats::{GuestStats, MAX_BYTES};
use crate::virtio::{Chain, GuestMemoryHandle, Interest, QueuePosition, Source, Worker, WorkerQueue};

/// Most pages of one array that are looked at; Linux has 256. The others are answered and counted, and stay the
/// guest's.
pub const MAX_ARRAY_PAGES: usize = 16 << 10;
/// Pages whose judging costs about as much as following a descriptor: a round looks at 128 Ki pages or so.
const PAGES_PER_WORK: usize = 8;
/// Arrays taken from a queue before the others get their turn.
const ROUND: u16 = 64;
const PFN_BYTES: usize = 4;

const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;
const STATISTICS: u32 = 2;
const REPORTING: u32 = 3;
const REFRESH: u32 = 4;
const RETRY: u32 = 5;
const HINTS: u32 = 6;
const SWEEP: u32 = 7;
const RETRY_NOW: u32 = 8;

/// Between two looks for memory that the host owes the guest.
const RETRY_TIME: Duration = Duration::from_millis(100);

/// Between two sweeps: the host's kernel makes huge pages whole at 1.6 MiB/s unless it is told otherwise (khugepaged).
const SWEEP_TIME: Duration = Duration::from_secs(30);

/// Between two parts of one: arrays come between them.
const PART_TIME: Duration = Duration::from_millis(200);

/// The queues of a balloon.
pub(super) struct Queues<M> {
    pub inflate: WorkerQueue<M>,
    pub deflate: WorkerQueue<M>,
    pub statistics: Option<WorkerQueue<M>>,
    pub hints: Option<WorkerQueue<M>>,
    pub reporting: Option<WorkerQueue<M>>,
}

/// What a balloon waits for beside its driver.
pub(super) struct Timers {
    /// Armed while the host owes the guest memory.
    pub retry: TimerFd,
    /// Armed while the host may have pages again that are out.
    pub sweep: TimerFd,
}

pub(super) struct BalloonWorker<M> {
    queues: Queues<M>,
    /// The driver's buffer for its figures: used when new ones are wanted (virtio 1.3, 5.5.6.3).
    waiting: Option<Chain>,
    /// An array that the guest takes back and the host has no memory for yet.
    owed: Option<(Chain, Vec<PageRun>)>,
    /// The pages of such an array while the worker is stopped: the array is the next on its queue again.
    waited_for: Option<Vec<PageRun>>,
    /// Pages that were out before a restore, whose memory the host has not let go again.
    taken: Vec<PageRun>,
    timers: Timers,
    sweeps: bool,
    shared: Arc<Shared>,
    host: Arc<dyn BalloonHost>,
}

impl<M: GuestMemoryHandle> BalloonWorker<M> {
    pub fn new(queues: Queues<M>, timers: Timers, shared: Arc<Shared>, host: Arc<dyn BalloonHost>) -> Self {
        let (waiting, owed, waited_for, taken) = (None, None, None, Vec::new());
        Self { queues, waiting, owed, waited_for, taken, timers, sweeps: false, shared, host }
    }

    /// The pages that the driver waits for, of the array that is next on the deflate queue; for a worker that is stopped.
    pub fn waited_for(&self) -> Option<&[PageRun]> {
        self.waited_for.as_deref()
    }

    /// Before the first start: memory of `taken` goes to the host again, and the driver waits for that of `waited_for`.
    pub fn restore(&mut self, taken: Vec<PageRun>, waited_for: Option<Vec<PageRun>>) {
        (self.taken, self.waited_for) = (taken, waited_for);
    }

    /// The host lets memory go again that it had let go before a restore.
    fn take_again(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            return;
        }
        self.host.take(&taken);
        if self.shared.state().is_settled() {
            self.host.settled();
        }
        self.follow_torn();
    }

    fn inflate(&mut self) {
        let queue = &mut self.queues.inflate;
        queue.begin_with(ROUND);
        while let Some(chain) = queue.pop() {
            let pfns = read_array(queue, &chain, &self.shared);
            queue.charge(pfns.len() / PAGES_PER_WORK);
            let mut verdict = self.shared.state().inflate(&pfns, &*self.host);
            if verdict.interrupt {
                // Before the buffer is used: the next that the driver does is to turn round.
                self.shared.tell();
            }
            let runs = compact(&mut verdict.pages);
            if !runs.is_empty() {
                self.host.take(&runs);
            }
            if verdict.settled {
                self.host.settled();
            }
            self.shared.state().let_go();
            queue.used(chain, 0);
            queue.signal();
        }
    }

    fn deflate(&mut self) {
        if let Some(runs) = self.waited_for.take() {
            self.queues.deflate.begin_with(ROUND);
            let Some(chain) = self.queues.deflate.pop() else {
                self.waited_for = Some(runs);
                return;
            };
            self.owed = Some((chain, runs));
        }
        if !self.pay() {
            return;
        }
        self.queues.deflate.begin_with(ROUND);
        while let Some(chain) = self.queues.deflate.pop() {
            let pfns = read_array(&self.queues.deflate, &chain, &self.shared);
            self.queues.deflate.charge(pfns.len() / PAGES_PER_WORK);
            let mut verdict = self.shared.state().deflate(&pfns, &*self.host);
            if verdict.interrupt {
                self.shared.tell();
            }
            if verdict.drained {
                self.shared.changed();
            }
            let runs = compact(&mut verdict.pages);
            self.owed = Some((chain, runs));
            if !self.pay() {
                return;
            }
        }
    }

    /// Gives what is owed, and only then uses its buffer; false if the host has no memory for it.
    fn pay(&mut self) -> bool {
        let Some((chain, runs)) = self.owed.take() else { return true };
        let paid = runs.is_empty() || self.host.give(&runs);
        self.shared.state().owing = !paid;
        if !paid {
            self.owed = Some((chain, runs));
            // Without the timer the driver's next kick tries again.
            let _ = self.timers.retry.reset(RETRY_TIME, None);
            return false;
        }
        self.queues.deflate.used(chain, 0);
        self.queues.deflate.signal();
        true
    }

    /// After arrays: there is a sweep before long while the host may have pages again that are out, and no timer otherwise.
    fn follow_torn(&mut self) {
        match (self.host.is_torn(), self.sweeps) {
            (true, false) => self.sweep_in(SWEEP_TIME),
            (false, true) => {
                let _ = self.timers.sweep.clear();
                self.sweeps = false;
            }
            (true, true) | (false, false) => {}
        }
    }

    fn sweep_in(&mut self, time: Duration) {
        self.sweeps = self.timers.sweep.reset(time, None).is_ok();
    }

    fn sweep(&mut self) {
        let _ = self.timers.sweep.clear();
        self.sweeps = false;
        match self.host.sweep() {
            Sweep::Whole => self.follow_torn(),
            Sweep::Part => self.sweep_in(PART_TIME),
        }
    }

    fn statistics(&mut self) {
        let Some(queue) = &mut self.queues.statistics else { return };
        queue.begin_with(ROUND);
        while let Some(chain) = queue.pop() {
            let mut bytes = [0; MAX_BYTES];
            let read = chain.read(queue.memory(), 0, &mut bytes);
            self.shared.state().guest = GuestStats::parse(bytes.get(..read).unwrap_or_default());
            // A driver has one buffer here; another one takes its place.
            if let Some(chain) = self.waiting.replace(chain) {
                queue.used(chain, 0);
            }
        }
        queue.signal();
    }

    fn refresh(&mut self) {
        let _ = self.shared.refresh.read();
        let Some(queue) = &mut self.queues.statistics else { return };
        if let Some(chain) = self.waiting.take() {
            queue.used(chain, 0);
            queue.signal();
        }
    }

    /// Numbers that the driver reads out, pages that it lends for writing.
    fn hints(&mut self) {
        let Some(queue) = &mut self.queues.hints else { return };
        queue.begin_with(ROUND);
        while let Some(chain) = queue.pop() {
            let mut number = [0; 4];
            if chain.read(queue.memory(), 0, &mut number) == number.len() {
                let (over, begun) = {
                    let mut state = self.shared.state();
                    let over = state.hints.say(u32::from_le_bytes(number));
                    (over, state.hints.open())
                };
                if begun {
                    self.host.hinting();
                }
                if over {
                    self.shared.tell();
                }
            }
            let runs = lent(&chain);
            if !runs.is_empty() && self.shared.state().hints.open() {
                self.host.hinted(&runs);
            }
            queue.used(chain, 0);
        }
        queue.signal();
    }

    fn reporting(&mut self) {
        let Some(queue) = &mut self.queues.reporting else { return };
        queue.begin_with(ROUND);
        while let Some(chain) = queue.pop() {
            let runs = lent(&chain);
            if !runs.is_empty() {
                let poisoned = self.shared.state().is_poisoned();
                self.host.reported(&runs, poisoned);
            }
            queue.used(chain, 0);
            queue.signal();
        }
    }
}

/// The numbers of an array, as many as are looked at.
fn read_array<M: GuestMemoryHandle>(queue: &WorkerQueue<M>, chain: &Chain, shared: &Shared) -> Vec<u32> {
    let bytes = usize::try_from(chain.readable_bytes()).unwrap_or(usize::MAX);
    let wanted = bytes.min(MAX_ARRAY_PAGES * PFN_BYTES);
    if bytes != wanted || !bytes.is_multiple_of(PFN_BYTES) {
        shared.counters.malformed.one();
        queue.refused("an array of pages of an odd size");
    }
    let mut data = vec![0; wanted];
    let read = chain.read(queue.memory(), 0, &mut data);
    let (numbers, _) = data.get(..read).unwrap_or_default().as_chunks::<PFN_BYTES>();
    numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// The pages of a chain. What is written is lost, so only what the driver lends for writing counts.
fn lent(chain: &Chain) -> Vec<PageRun> {
    let writable = chain.writable().iter();
    writable.filter_map(|buffer| whole_pages(buffer.address.0, buffer.length)).collect()
}

/// The pages that lie wholly in a range.
fn whole_pages(address: u64, length: u32) -> Option<PageRun> {
    let first = address.div_ceil(PAGE_BYTES);
    let end = (address + u64::from(length)) / PAGE_BYTES;
    let count = u32::try_from(end.checked_sub(first)?).ok().filter(|count| *count > 0)?;
    Some(PageRun { first: u32::try_from(first).ok()?, count })
}

impl<M: GuestMemoryHandle> Worker for BalloonWorker<M> {
    fn sources(&self) -> Vec<Source> {
        let timer =
            |timer: &TimerFd, token| Source { fd: timer.as_raw_fd(), token, interest: Interest::Readable };
        let (retry, sweep) = (timer(&self.timers.retry, RETRY), timer(&self.timers.sweep, SWEEP));
        let fd = self.shared.retry.as_raw_fd();
        let retry_now = Source { fd, token: RETRY_NOW, interest: Interest::Readable };
        let (inflate, deflate) = (self.queues.inflate.source(INFLATE), self.queues.deflate.source(DEFLATE));
        let mut sources = vec![inflate, deflate, retry, sweep, retry_now];
        if let Some(queue) = &self.queues.statistics {
            let fd = self.shared.refresh.as_raw_fd();
            sources.extend([
                queue.source(STATISTICS),
                Source { fd, token: REFRESH, interest: Interest::Readable },
            ]);
        }
        sources.extend(self.queues.hints.iter().map(|queue| queue.source(HINTS)));
        sources.extend(self.queues.reporting.iter().map(|queue| queue.source(REPORTING)));
        sources
    }

    fn start(&mut self) {
        self.take_again();
        self.inflate();
        self.deflate();
        self.statistics();
        self.hints();
        self.reporting();
    }

    fn ready(&mut self, token: u32) -> bool {
        match token {
            INFLATE => {
                self.inflate();
                self.follow_torn();
            }
            DEFLATE => {
                self.deflate();
                self.follow_torn();
            }
            SWEEP => self.sweep(),
            RETRY => {
                // Not read: it may have been set anew since it ran out.
                let _ = self.timers.retry.clear();
                self.deflate();
            }
            RETRY_NOW => {
                let _ = self.shared.retry.read();
                self.deflate();
            }
            STATISTICS => self.statistics(),
            HINTS => self.hints(),
            REPORTING => self.reporting(),
            _ => self.refresh(),
        }
        false
    }

    /// What waits is on its queue again, where the next start finds it.
    fn stop(&mut self, _: &AtomicBool) {
        if let Some((chain, runs)) = self.owed.take() {
            self.queues.deflate.put_back(chain);
            self.waited_for = Some(runs);
        }
        if let Some((queue, chain)) = self.queues.statistics.as_mut().zip(self.waiting.take()) {
            queue.put_back(chain);
        }
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        let Queues { inflate, deflate, statistics, hints, reporting } = &self.queues;
        let others = [statistics, hints, reporting].into_iter().flatten();
        [inflate, deflate].into_iter().chain(others).map(WorkerQueue::position).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
