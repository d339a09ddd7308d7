//! The balloon as its transport sees it: features, queues, configuration, and who holds what while it runs.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::{self, Written};
use super::counters::BalloonCounters;
use super::handle::{BalloonHandle, Shared};
use super::host::BalloonHost;
use super::state::{BalloonState, State};
use super::worker::{BalloonWorker, Queues, Timers};
use crate::Figures;
use crate::interrupt::MsiMessage;
use crate::state::{Section, StateError};
use crate::virtio::device::{timer, worker_as, worker_as_mut};
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, VirtioDevice, Worker, WorkerQueue,
};

/// Feature bits (virtio 1.3, 5.5.3).
const VIRTIO_BALLOON_F_MUST_TELL_HOST: u32 = 0;
const VIRTIO_BALLOON_F_STATS_VQ: u32 = 1;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
const VIRTIO_BALLOON_F_FREE_PAGE_HINT: u32 = 3;
const VIRTIO_BALLOON_F_PAGE_POISON: u32 = 4;
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;

const NAME: &str = "balloon";
/// Base class and subclass "other", as QEMU has it: there is no class for it.
const KIND: DeviceKind = DeviceKind { id: 5, pci_class: 0x00_FF_00 };
/// Linux has one buffer in flight on each queue, but for reporting.
const QUEUE_SIZE: u16 = 128;

/// What a balloon offers beside inflating and deflating. Linux has room for one device with each: the second that
/// offers reporting fails its whole probe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BalloonOptions {
    /// APIC IDs of the vnode's CPUs.
    pub apic_ids: Vec<u32>,
    /// Asks the guest for its figures.
    pub statistics: bool,
    /// Has the guest say what it has free, when asked.
    pub hinting: bool,
    /// Has the guest report free pages.
    pub reporting: bool,
    /// A page that the guest takes back must not be touched before the host has memory for it: a driver that does not
    /// take MUST_TELL_HOST is refused.
    pub must_tell: bool,
}

/// A balloon.
pub struct Balloon {
    shared: Arc<Shared>,
    host: Arc<dyn BalloonHost>,
    options: BalloonOptions,
}

impl Balloon {
    /// A balloon without a driver, which goes on counting in `counters`.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(
        options: BalloonOptions,
        host: Arc<dyn BalloonHost>,
        counters: Arc<BalloonCounters>,
    ) -> io::Result<Self> {
        let (refresh, retry) = (EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?);
        let shared = Arc::new(Shared::new(State::new(options.apic_ids.clone(), counters), refresh, retry));
        Ok(Self { shared, host, options })
    }

    fn rest(&self) {
        self.shared.connect(None);
        self.shared.state().end();
        self.shared.changed();
    }

    /// Its handle, to keep when the device is handed to its transport.
    #[must_use]
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle { shared: Arc::clone(&self.shared) }
    }
}

/// The driver tells before it uses a page again, and waits for the answer (virtio 1.3, 5.5.6.1).
fn tells_first(features: u64) -> bool {
    features & 1 << VIRTIO_BALLOON_F_MUST_TELL_HOST != 0
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Balloon {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1 << VIRTIO_BALLOON_F_MUST_TELL_HOST;
        if self.options.statistics {
            features |= 1 << VIRTIO_BALLOON_F_STATS_VQ;
        }
        if self.options.hinting {
            features |= 1 << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
        }
        if self.options.reporting {
            // Linux that clears or poisons its free pages reports none to a device that does not know of that.
            features |= 1 << VIRTIO_BALLOON_F_REPORTING | 1 << VIRTIO_BALLOON_F_PAGE_POISON;
        }
        features
    }

    fn accepts(&self, features: u64) -> bool {
        !self.options.must_tell || tells_first(features)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let options = [self.options.statistics, self.options.hinting, self.options.reporting];
        vec![QUEUE_SIZE; 2 + options.into_iter().filter(|option| *option).count()]
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(Arc::new(self.handle()))
    }

    fn config(&self) -> Vec<u8> {
        let state = self.shared.state();
        let (asked, actual, poison) = state.config();
        config::image([asked, actual, state.hints.command(), poison])
    }

    fn config_read(&self, offset: u64) {
        if config::has_target(offset) {
            self.shared.state().read_target();
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut state = self.shared.state();
        let (_, actual, poison) = state.config();
        match config::written(actual, poison, offset, data) {
            Some(Written::Actual(actual)) => state.set_actual(actual),
            Some(Written::Poison(poison)) if self.options.reporting => state.poison = poison,
            Some(Written::Poison(_)) | None => self.shared.counters.ignored_writes.one(),
        }
    }

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let (features, interrupt) = (activation.features, Arc::clone(&activation.interrupt));
        let mut queue = |index| WorkerQueue::of(&mut activation, NAME, index);
        // Linux numbers its queues over the features that it took, without gaps.
        let (inflate, deflate) = (queue(0)?, queue(1)?);
        let has = |feature: u32| features & (1 << feature) != 0;
        let statistics = has(VIRTIO_BALLOON_F_STATS_VQ).then(|| queue(2)).transpose()?;
        let index = 2 + u16::from(statistics.is_some());
        let hints = has(VIRTIO_BALLOON_F_FREE_PAGE_HINT).then(|| queue(index)).transpose()?;
        let index = index + u16::from(hints.is_some());
        let reporting = has(VIRTIO_BALLOON_F_REPORTING).then(|| queue(index)).transpose()?;
        self.host.begin(tells_first(features));
        self.shared.state().begin(hints.is_some(), has(VIRTIO_BALLOON_F_PAGE_POISON));
        self.shared.connect(Some(interrupt));
        let queues = Queues { inflate, deflate, statistics, hints, reporting };
        let timers = Timers { retry: timer(NAME)?, sweep: timer(NAME)? };
        let (shared, host) = (Arc::clone(&self.shared), Arc::clone(&self.host));
        shared.changed();
        Ok(Box::new(BalloonWorker::new(queues, timers, shared, host)))
    }

    fn config_message_changed(&mut self, message: Option<MsiMessage>) {
        self.shared.steer(message);
    }

    fn save(&self, worker: Option<&dyn Worker>) -> Result<Section, StateError> {
        let worker: Option<&BalloonWorker<M>> = worker_as(worker);
        Section::of(&self.shared.state().save(worker.map(BalloonWorker::waited_for)))
    }

    fn restore(&mut self, state: Section, worker: Option<&mut dyn Worker>) -> Result<(), StateError> {
        let state: BalloonState = state.decode()?;
        let taken = self.shared.state().restore(&state, &*self.host)?;
        let worker: Option<&mut BalloonWorker<M>> = worker_as_mut(worker);
        if let Some((worker, driver)) = worker.zip(state.driver) {
            worker.restore(taken, driver.waited_for);
        }
        self.shared.changed();
        Ok(())
    }

    fn reset(&mut self, _: Option<Box<dyn Worker>>) {
        self.rest();
        self.host.forget();
    }

    fn is_resetting(&self) -> bool {
        !self.host.is_ready()
    }

    fn end(&mut self, _: Option<Box<dyn Worker>>) {
        self.rest();
        self.host.end();
    }
}
