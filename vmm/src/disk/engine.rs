//! Carries out a disk's operations for one queue: through a ring of its own where there is one, else by helper threads.
//! The steps of an operation are `transfer`'s, the calls `sys`' and `helpers`'.

use super::helpers::{Call, Helpers, Job, Letter, Mailbox};
use super::transfer::{IoContext, Step, Transfer};
use super::write_order::Turn;
use crate::memory::FilledByKernel;
use crate::sys::{IoVec, Landed, Ring, wait_readable};
use devices::virtio::blk::{Completion, DiskEngine, Operation, Segments};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at whether requests were cancelled, while the engine waits for them.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long cancelled requests may take.
const CANCELLED_WITHIN: Duration = Duration::from_secs(1);

/// An engine.
pub struct Engine<G> {
    name: String,
    context: IoContext<G>,
    /// Without one, helpers make all calls.
    ring: Option<Ring>,
    helpers: Arc<Helpers>,
    mailbox: Arc<Mailbox>,
    /// By tag.
    requests: Vec<Option<Request>>,
    under_way: usize,
    done: Vec<Completion>,
    /// Lists of pieces of guest memory that no operation has any more, not more than there can be operations at once.
    spare: Vec<Segments>,
    /// Nothing is begun any more.
    cancelled: bool,
}

/// An operation that has not ended.
struct Request {
    transfer: Transfer,
    /// What the ring or a helper does for it.
    call: Option<Call>,
    /// Its place among the writes that must not cross each other.
    _turn: Option<Turn>,
}

impl<G> Engine<G>
where
    G: FilledByKernel + Send + Sync + 'static,
{
    /// An engine for up to `depth` operations at a time.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new(
        name: String,
        context: IoContext<G>,
        ring: Option<Ring>,
        helpers: Arc<Helpers>,
        depth: u16,
    ) -> io::Result<Self> {
        if let Some(ring) = &ring {
            ring.follow_thread();
        }
        let (requests, mailbox) = ((0..depth).map(|_| None).collect(), Arc::new(Mailbox::new()?));
        Ok(Self {
            name,
            context,
            ring,
            helpers,
            mailbox,
            requests,
            under_way: 0,
            done: Vec::new(),
            spare: Vec::new(),
            cancelled: false,
        })
    }

    /// Takes an operation as far as it goes without waiting.
    fn step(&mut self, tag: u16) {
        let Some(Some(request)) = self.requests.get_mut(usize::from(tag)) else { return };
        let result = loop {
            let (call, memory) = match request.transfer.next(&self.context) {
                Step::Done(result) => break result,
                Step::Call(..) if self.cancelled => break Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                Step::Call(call, memory) => (call, memory),
            };
            request.call = Some(call);
            let (Call::Disk(operation), Some(ring), false) =
                (call, &mut self.ring, request.transfer.is_patient())
            else {
                let to = Arc::clone(&self.mailbox);
                return self.helpers.push(Job { tag, call, memory, to });
            };
            let Err(memory) = ring.push(tag, operation, memory) else { return };
            let result = Err(io::Error::from_raw_os_error(libc::EIO));
            request.transfer.landed(&self.context, call, result, memory);
        };
        let request = self.requests[usize::from(tag)].take();
        if let Some(segments) = request.and_then(|request| request.transfer.into_segments())
            && self.spare.len() < self.requests.len()
        {
            self.spare.push(segments);
        }
        self.under_way -= 1;
        self.done.push(Completion { tag, result });
    }

    /// A call has ended.
    fn land(&mut self, tag: u16, result: io::Result<usize>, memory: Option<IoVec>) {
        if let Some(Some(request)) = self.requests.get_mut(usize::from(tag))
            && let Some(call) = request.call.take()
        {
            request.transfer.landed(&self.context, call, result, memory);
            self.step(tag);
        }
    }

    /// Takes what has landed, and takes those operations further.
    fn take_landed(&mut self) {
        loop {
            let mut any = false;
            while let Some(Landed { slot, result, memory }) = self.ring.as_mut().and_then(Ring::pop) {
                any = true;
                self.land(slot, result, memory);
            }
            for letter in self.mailbox.take() {
                any = true;
                match letter {
                    Letter::Ended { tag, result, memory } => self.land(tag, result, memory),
                    Letter::Turn(tag) => self.step(tag),
                }
            }
            if !any {
                break;
            }
            self.submit();
        }
    }

    fn submit(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let Err(error) = ring.submit() else { return };
        // With something in the kernel there will be a completion, and with it another attempt.
        if ring.in_kernel() == 0 {
            tracing::warn!(disk = %self.name, %error, "io_uring failed, falling back to helper threads");
            let queued = self.ring.take().map(Ring::take_queued).unwrap_or_default();
            for (tag, memory) in queued {
                self.land(tag, Err(io::ErrorKind::Interrupted.into()), memory);
            }
        }
    }

    /// Nothing is begun any more, and what has begun is to end.
    fn cancel(&mut self) {
        self.cancelled = true;
        self.helpers.withdraw(&self.mailbox);
        if let Some(Err(error)) = self.ring.as_mut().map(Ring::cancel) {
            tracing::warn!(disk = %self.name, %error, "cannot cancel requests");
        }
        // Those that wait for another write to end.
        for tag in 0..u16::try_from(self.requests.len()).unwrap_or(u16::MAX) {
            let slot = self.requests.get(usize::from(tag));
            if slot.is_some_and(|slot| slot.as_ref().is_some_and(|request| request.call.is_none())) {
                self.step(tag);
            }
        }
    }

    /// What does not end is left to itself.
    fn leave(&mut self) {
        tracing::error!(disk = %self.name, requests = self.under_way, "storage does not respond, abandoning requests");
        if let Some(ring) = &mut self.ring {
            ring.give_up();
        }
    }
}

impl<G> DiskEngine for Engine<G>
where
    G: FilledByKernel + Send + Sync + 'static,
{
    fn fds(&self) -> [Option<RawFd>; 2] {
        [self.ring.as_ref().map(Ring::fd), Some(self.mailbox.fd())]
    }

    fn follow_thread(&mut self) {
        if let Some(ring) = &self.ring {
            ring.follow_thread();
        }
    }

    fn submit(&mut self, tag: u16, operation: Operation) {
        let Some(slot @ None) = self.requests.get_mut(usize::from(tag)) else {
            let result = Err(io::Error::from_raw_os_error(libc::EINVAL));
            return self.done.push(Completion { tag, result });
        };
        let transfer = Transfer::new(operation);
        let ordered = self.context.order.as_ref().zip(self.context.direct);
        let claim = ordered.and_then(|(order, direct)| Some((order, transfer.claim(direct)?)));
        let turn = claim.map(|(order, claim)| order.enter(claim, &self.mailbox, tag));
        let (turn, begins) = turn.map_or((None, true), |(turn, begins)| (Some(turn), begins));
        *slot = Some(Request { transfer, call: None, _turn: turn });
        self.under_way += 1;
        if begins {
            self.step(tag);
        }
    }

    fn start(&mut self) {
        Engine::submit(self);
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.take_landed();
        done.append(&mut self.done);
    }

    fn spare(&mut self) -> Option<Segments> {
        self.spare.pop()
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
            let [ring, mailbox] = self.fds();
            let fds: Vec<RawFd> = ring.into_iter().chain(mailbox).collect();
            wait_readable(&fds, LOOK_AGAIN);
        }
    }
}

/// What stands in for an engine that the host has no means for: all operations fail.
#[derive(Default)]
pub struct NoEngine(Vec<Completion>);

impl DiskEngine for NoEngine {
    fn fds(&self) -> [Option<RawFd>; 2] {
        [None; 2]
    }

    fn submit(&mut self, tag: u16, _: Operation) {
        self.0.push(Completion { tag, result: Err(io::Error::from_raw_os_error(libc::EIO)) });
    }

    fn start(&mut self) {}

    fn completions(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.0);
    }

    fn drain(&mut self, done: &mut Vec<Completion>, _: &AtomicBool) {
        done.append(&mut self.0);
    }
}
