//! A pair of queues and the interface's queue that belongs to them: served by the kernel where it can, else here.
//! Which pairs are in use is the worker's business.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use virtio_queue::QueueT;

use super::counters::NetHandle;
use super::device::NetQueues;
use super::receive::Receive;
use super::state::ReceiveState;
use super::tap::Tap;
use super::transmit::{REST, Transmit};
use crate::virtio::{
    ActiveQueue, GuestMemoryHandle, Interest, KernelQueue, QueuePosition, Source, VirtioInterrupt,
    WorkerQueue,
};

/// What the queues of a device have in common while its driver runs it.
pub(super) struct Common<M> {
    pub memory: M,
    pub features: u64,
    pub interrupt: Arc<dyn VirtioInterrupt>,
    pub handle: Arc<NetHandle>,
}

/// Sources of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairSource {
    ReceiveKick,
    TransmitKick,
    Tap,
}

impl PairSource {
    pub const COUNT: u32 = 3;

    pub fn number(self) -> u32 {
        match self {
            Self::ReceiveKick => 0,
            Self::TransmitKick => 1,
            Self::Tap => 2,
        }
    }

    pub fn of(number: u32) -> Option<Self> {
        [Self::ReceiveKick, Self::TransmitKick, Self::Tap].into_iter().find(|s| s.number() == number)
    }
}

/// A pair of queues. It starts at rest, in nobody's hands.
pub(super) struct Pair<M, T> {
    pub queues: NetQueues<M, T>,
    path: Path<M>,
    /// For the receive queue as it starts.
    restored: ReceiveState,
    /// When to look for more of a burst from the driver, which has not been asked to notify.
    rest_until: Option<Instant>,
}

enum Path<M> {
    Rest(ActiveQueue, ActiveQueue),
    Kernel(ActiveQueue, ActiveQueue),
    Own(Box<(Receive<M>, Transmit<M>)>),
    /// Between two others.
    Moving,
}

impl<M: GuestMemoryHandle, T: Tap> Pair<M, T> {
    pub fn new(queues: NetQueues<M, T>, receive: ActiveQueue, transmit: ActiveQueue) -> Self {
        let restored = ReceiveState::default();
        Self { queues, path: Path::Rest(receive, transmit), restored, rest_until: None }
    }

    /// What its receive queue knows, for a state.
    pub fn save(&self) -> ReceiveState {
        match &self.path {
            Path::Own(own) => own.0.save(),
            Path::Rest(..) | Path::Kernel(..) | Path::Moving => self.restored.clone(),
        }
    }

    /// Before the first start.
    pub fn restore(&mut self, state: ReceiveState) {
        self.restored = state;
    }

    /// How far it has come, at rest or stopped.
    pub fn positions(&self) -> Vec<(u16, QueuePosition)> {
        match &self.path {
            Path::Own(own) => vec![own.0.queue.position(), own.1.queue.position()],
            Path::Rest(receive, transmit) | Path::Kernel(receive, transmit) => {
                [receive, transmit].map(|queue| (queue.index, queue.position())).to_vec()
            }
            Path::Moving => Vec::new(),
        }
    }

    /// Begins to serve the queues, or goes on.
    pub fn start(&mut self, common: &Common<M>) {
        self.path = match std::mem::replace(&mut self.path, Path::Moving) {
            Path::Rest(receive, transmit) => self.start_from_rest(receive, transmit, common),
            path => path,
        };
        if let Path::Own(own) = &mut self.path {
            let (receive, transmit) = &mut **own;
            transmit.serve(&*self.queues.tap, common);
            receive.serve(&*self.queues.tap, common);
        }
        self.note_rest();
    }

    fn start_from_rest(
        &mut self,
        receive: ActiveQueue,
        transmit: ActiveQueue,
        common: &Common<M>,
    ) -> Path<M> {
        let restored = std::mem::take(&mut self.restored);
        // The kernel would go on with a queue that the driver broke.
        let broken = receive.broken || transmit.broken;
        if let Some(kernel) = self.queues.kernel.as_mut().filter(|_| !broken) {
            let queues =
                kernel_queue(&receive, common).and_then(|r| Ok([r, kernel_queue(&transmit, common)?]));
            match queues.and_then(|queues| kernel.start(&common.memory, common.features, &queues)) {
                Ok(()) => {
                    if !restored.frame.0.is_empty() {
                        common.handle.counters().received_dropped.one();
                    }
                    return Path::Kernel(receive, transmit);
                }
                // For the next driver, or after a pause, it may.
                Err(error) => {
                    common.handle.report("the kernel does not serve the queues, doing it here", &error)
                }
            }
        }
        let take = |queue| WorkerQueue::new(queue, &common.memory, &common.interrupt, common.features);
        let receive = Receive::new(take(receive), common.features, restored);
        Path::Own(Box::new((receive, Transmit::new(take(transmit)))))
    }

    /// Stops: nothing touches guest memory until the next start.
    pub fn stop(&mut self, common: &Common<M>) {
        self.path = match std::mem::replace(&mut self.path, Path::Moving) {
            Path::Kernel(mut receive, mut transmit) => {
                let next = match self.queues.kernel.as_mut().map(|kernel| kernel.stop()) {
                    Some(Ok(next)) => next,
                    Some(Err(error)) => {
                        // Asked for no more: a guest that resets in a loop would have us say this each time.
                        tracing::error!(%error, "net: cannot read the queue state from vhost");
                        self.queues.kernel = None;
                        Vec::new()
                    }
                    None => Vec::new(),
                };
                let memory = common.memory.memory();
                for (number, active) in [&mut receive, &mut transmit].into_iter().enumerate() {
                    // The kernel has used all that it took.
                    let used = || active.queue.used_idx(memory, Ordering::Acquire).map_or(0, |index| index.0);
                    let next = next.get(number).copied().unwrap_or_else(used);
                    active.queue.set_next_avail(next);
                    active.queue.set_next_used(next);
                }
                Path::Rest(receive, transmit)
            }
            path => path,
        };
        self.rest_until = None;
    }

    pub fn is_in_kernel(&self) -> bool {
        matches!(self.path, Path::Kernel(..))
    }

    /// What to wait for, with tokens from `base` on.
    pub fn sources(&self, base: u32, sources: &mut Vec<Source>) {
        let Path::Own(own) = &self.path else { return };
        let (receive, transmit) = &**own;
        sources.push(receive.queue.source(base + PairSource::ReceiveKick.number()));
        if let Some(interest) = self.tap_interest() {
            let token = base + PairSource::Tap.number();
            sources.push(Source { fd: self.queues.tap.fd(), token, interest });
        }
        if !transmit.blocked {
            sources.push(transmit.queue.source(base + PairSource::TransmitKick.number()));
        }
    }

    fn tap_interest(&self) -> Option<Interest> {
        let Path::Own(own) = &self.path else { return None };
        match (own.0.wants_frames(), own.1.blocked) {
            (true, false) => Some(Interest::Readable),
            (false, true) => Some(Interest::Writable),
            (true, true) => Some(Interest::Both),
            (false, false) => None,
        }
    }

    /// Until when more of a burst from the driver is waited for.
    pub fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// A round of the transmit queue has ended, perhaps with a rest.
    fn note_rest(&mut self) {
        let resting = matches!(&self.path, Path::Own(own) if own.1.is_resting());
        self.rest_until = resting.then(|| Instant::now() + REST);
    }

    /// Looks for more of a burst from the driver, if it is time; true when what to wait for has changed.
    pub fn look(&mut self, now: Instant, common: &Common<M>) -> bool {
        let before = self.tap_interest();
        if let Path::Own(own) = &mut self.path
            && self.rest_until.is_some_and(|until| until <= now)
        {
            own.1.serve(&*self.queues.tap, common);
            self.note_rest();
        }
        before != self.tap_interest()
    }

    /// Serves a source; true when what to wait for has changed.
    pub fn ready(&mut self, source: PairSource, common: &Common<M>) -> bool {
        let before = self.tap_interest();
        let Path::Own(own) = &mut self.path else { return false };
        let (receive, transmit) = &mut **own;
        let tap = &*self.queues.tap;
        let transmits = match source {
            PairSource::ReceiveKick => false,
            PairSource::TransmitKick => !transmit.blocked,
            PairSource::Tap => transmit.blocked,
        };
        if transmits {
            transmit.serve(tap, common);
        }
        match source {
            PairSource::ReceiveKick => receive.kicked(tap, common),
            PairSource::Tap if receive.wants_frames() => receive.serve(tap, common),
            PairSource::Tap | PairSource::TransmitKick => {}
        }
        if transmits {
            self.note_rest();
        }
        before != self.tap_interest()
    }
}

fn kernel_queue<'a, M>(active: &'a ActiveQueue, common: &Common<M>) -> io::Result<KernelQueue<'a>> {
    let call = common.interrupt.queue_call(active.index);
    let call =
        call.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no eventfd interrupts the driver"))?;
    Ok(KernelQueue { queue: &active.queue, kick: &active.kick, call })
}
