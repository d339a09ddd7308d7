//! The boundary between a virtio device, its transport and its worker thread.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemory;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use super::queue_chain::QueueFault;
use crate::Figures;
use crate::interrupt::{InterruptError, MsiMessage};
use crate::state::{Section, StateError};

/// Guest memory as devices hold it, usable from any thread. A clone counts a reference, in a cache line that all devices on
/// all nodes share: a device has one for each of its parts, and requests borrow.
pub trait GuestMemoryHandle: Clone + Send + Sync + 'static {
    /// The memory.
    type M: GuestMemory;

    /// Borrows it.
    fn memory(&self) -> &Self::M;
}

impl<G: GuestMemory + Send + Sync + 'static> GuestMemoryHandle for Arc<G> {
    type M = G;

    fn memory(&self) -> &G {
        self
    }
}

/// How a device interrupts its driver, whatever the transport.
pub trait VirtioInterrupt: Send + Sync {
    /// Buffers of queue `index` were used. The caller has asked the queue whether the driver wants to know.
    fn queue_used(&self, index: u16) -> Result<(), InterruptError>;

    /// The configuration changed (virtio 1.3, 2.2).
    fn config_changed(&self) -> Result<(), InterruptError>;

    /// An eventfd that raises queue `index`'s interrupt, for a datapath in the kernel (vhost).
    fn queue_call(&self, index: u16) -> Option<EventFd>;

    /// The driver broke queue `index`: the transport counts it, sets DEVICE_NEEDS_RESET and tells the driver
    /// (virtio 1.3, 2.1.2). The caller takes nothing more from the queue.
    fn driver_fault(&self, index: u16, fault: QueueFault) {
        let _ = (index, fault);
    }

    /// The device cannot go on, and the driver is not to blame: the transport counts it, sets DEVICE_NEEDS_RESET and tells the
    /// driver (virtio 1.3, 2.1.1).
    fn device_failed(&self, why: &str) {
        let _ = why;
    }

    /// A request on queue `index` makes no sense, though its chain is as it should be; the device has counted it. Is
    /// told to the host's log, at a limited rate.
    fn request_refused(&self, index: u16, why: &'static str) {
        let _ = (index, why);
    }

    /// What [`config_changed`](Self::config_changed) would send now: to which CPU. `None` while the driver has no
    /// vector for it, or has it masked.
    fn config_message(&self) -> Option<MsiMessage> {
        None
    }
}

/// A queue that the driver set up and enabled.
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// Its rings; validated by the transport.
    pub queue: Queue,
    /// Counts the driver's notifications. Non-blocking; nobody needs to read it.
    pub kick: EventFd,
    /// The driver broke it before the state was saved that is restored here.
    pub broken: bool,
}

impl ActiveQueue {
    /// How far the device has come with it.
    #[must_use]
    pub fn position(&self) -> QueuePosition {
        QueuePosition {
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
            broken: self.broken,
        }
    }

    /// Continues at this position.
    pub fn set_position(&mut self, position: QueuePosition) {
        self.queue.set_next_avail(position.next_available);
        self.queue.set_next_used(position.next_used);
        self.broken = position.broken;
    }
}

/// How far a device has come with a queue. The interrupt of all that was used has been sent, or was not wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePosition {
    /// The available index at which the device goes on.
    pub next_available: u16,
    /// The used index as the device has last written it.
    pub next_used: u16,
    /// The driver broke the queue: nothing is taken from it until the device is reset.
    pub broken: bool,
}

/// What a device gets when the driver says DRIVER_OK (virtio 1.3, 3.1.1).
pub struct Activation<M> {
    /// Guest memory.
    pub memory: M,
    /// Features that both sides agreed on.
    pub features: u64,
    /// The enabled queues, ascending by number.
    pub queues: Vec<ActiveQueue>,
    /// The way to the driver.
    pub interrupt: Arc<dyn VirtioInterrupt>,
}

impl<M> Activation<M> {
    /// Takes queue `index` out of those that the driver enabled.
    ///
    /// # Errors
    /// It did not enable this one.
    pub fn take(&mut self, device: &'static str, index: u16) -> Result<ActiveQueue, ActivationError> {
        let at = self.queues.iter().position(|queue| queue.index == index);
        at.map(|at| self.queues.swap_remove(at)).ok_or(ActivationError::QueueMissing { device, index })
    }
}

/// Why a device cannot start; the transport sets DEVICE_NEEDS_RESET (virtio 1.3, 2.1.1).
#[derive(Debug, Error)]
pub enum ActivationError {
    /// The driver did not enable a queue that the device cannot do without.
    #[error("{device}: queue {index} is not enabled, the device needs it")]
    QueueMissing {
        /// The device's name.
        device: &'static str,
        /// The queue.
        index: u16,
    },
    /// The host refused.
    #[error("{device}: {call}: {source}")]
    Host {
        /// The device's name.
        device: &'static str,
        /// What was asked of the host.
        call: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// A timer for a worker of `device`.
pub(super) fn timer(device: &'static str) -> Result<TimerFd, ActivationError> {
    let refused = |error: vmm_sys_util::errno::Error| ActivationError::Host {
        device,
        call: "timerfd_create",
        source: error.into(),
    };
    TimerFd::new().map_err(refused)
}

/// What a driver knows a device by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind {
    /// The device id (virtio 1.3, chapter 5).
    pub id: u16,
    /// PCI class, subclass and interface, such as 0x01_00_00 for a disk.
    pub pci_class: u32,
}

/// A virtio device as its transport sees it. Called with the transport locked, by vCPU threads.
///
/// The device is at rest or active; between [`activate`](Self::activate) and [`reset`](Self::reset) its
/// [`Worker`] runs elsewhere, and what both need they share behind atomics or a mutex held for moments.
pub trait VirtioDevice<M: GuestMemoryHandle>: Send {
    /// What it is.
    fn kind(&self) -> DeviceKind;

    /// Device-specific features; the transport adds those of queues and its own (`VIRTIO_F_VERSION_1`).
    fn features(&self) -> u64 {
        0
    }

    /// Whether the device can work with `features`, a part of what it offers that the driver chose: false where one that
    /// it depends on is missing. FEATURES_OK stays clear then (virtio 1.3, 2.2.2 and 3.1.1).
    fn accepts(&self, features: u64) -> bool {
        let _ = features;
        true
    }

    /// The greatest size of each queue, a power of two; as many as there are queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// What it counts itself, wherever the device is: the same over all drivers and guests.
    fn figures(&self) -> Option<Arc<dyn Figures>> {
        None
    }

    /// Whether there is one interrupt vector for all queues, and not one for each.
    fn shares_vector(&self) -> bool {
        false
    }

    /// The configuration space as it is now. That it changed is the transport's to see and to show (virtio 1.3, 2.5.1).
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver is about to read configuration from `offset` on.
    fn config_read(&self, offset: u64) {
        let _ = offset;
    }

    /// Writes configuration, none of it past the end; fields that the driver may not write ignore it.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: hands over a worker, which the caller runs in a thread of its own.
    fn activate(&mut self, activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError>;

    /// The message behind [`VirtioInterrupt::config_changed`] is another one, or there is none any more: a driver
    /// that moves the interrupt to another CPU does this. Called with the transport locked, active or not.
    fn config_message_changed(&mut self, message: Option<MsiMessage>) {
        let _ = message;
    }

    /// The device's own state: what its configuration, its worker and it know beyond the transport's registers and the
    /// queues' positions. `worker` is what [`activate`](Self::activate) gave, and stopped.
    ///
    /// # Errors
    /// There is no state: the device was taken away.
    fn save(&self, worker: Option<&dyn Worker>) -> Result<Section, StateError>;

    /// Puts the device into a state of its kind: just made or [reset](Self::reset), or with `worker` just
    /// [activated](Self::activate), which has not started yet.
    ///
    /// # Errors
    /// The state makes no sense, or the host refuses: the caller resets the device.
    fn restore(&mut self, state: Section, worker: Option<&mut dyn Worker>) -> Result<(), StateError>;

    /// The driver resets the device: the worker has been stopped, nothing touches guest memory any more.
    /// `worker` is what `activate` gave, `None` if that failed or never happened.
    fn reset(&mut self, worker: Option<Box<dyn Worker>>) {
        drop(worker);
    }

    /// Whether a [`reset`](Self::reset) is not over yet: the driver reads a status other than 0 until it is (virtio 1.3,
    /// 2.1.2 and 4.1.4.3.1), and what else it asks for is ignored. Must return at once.
    fn is_resetting(&self) -> bool {
        false
    }

    /// The VM is over, and guest memory goes next: as [`reset`](Self::reset), but no guest is there for whom anything
    /// would have to be made ready. May come more than once.
    fn end(&mut self, worker: Option<Box<dyn Worker>>) {
        self.reset(worker);
    }
}

/// What a source becomes ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Reading.
    Readable,
    /// Each write to an eventfd that nobody reads: ready once for it, and once at first if there were any before.
    Kick,
    /// Writing.
    Writable,
    /// Both.
    Both,
}

/// A file descriptor that a worker wants to be called for. The worker keeps it open as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The descriptor.
    pub fd: RawFd,
    /// What it is called with.
    pub token: u32,
    /// What for.
    pub interest: Interest,
}

/// A change of what a worker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChange {
    /// It no longer waits for this source. Its descriptor may be closed, and the number may be another source's by now.
    Removed {
        /// The descriptor.
        fd: RawFd,
        /// The source's token.
        token: u32,
    },
    /// It waits for this source from now on, or for something else than before.
    Set(Source),
}

/// A wait for more from a driver that has not been asked to notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// How long from now.
    pub time: Duration,
    /// Nothing else of the device is in a hurry: sources that become ready meanwhile may wait for the end.
    pub alone: bool,
}

/// The running half of a device: one thread, which its owner pins to a host node, waits for the sources
/// (level-triggered) and calls [`ready`](Self::ready). A worker that was stopped may be started again, in another
/// thread: while the driver holds the bus master bit off, a function must not touch memory.
pub trait Worker: Send + Any {
    /// What to wait for; asked again after each round in which [`ready`](Self::ready) returned true, unless the worker
    /// lists its [`changes`](Self::changes).
    fn sources(&self) -> Vec<Source>;

    /// Appends what of its [`sources`](Self::sources) has changed since this was last called, closed descriptors first, and
    /// returns true; false if the worker does not keep track. Changes that are already in effect may be among them.
    fn changes(&mut self, changes: &mut Vec<SourceChange>) -> bool {
        let _ = changes;
        false
    }

    /// Called in the worker's thread before anything else: looks at the queues for buffers that came before.
    fn start(&mut self) {}

    /// Serves a source. True when the set of sources has changed.
    fn ready(&mut self, token: u32) -> bool;

    /// When the worker wants to [`look`](Self::look), as it is now. A worker gives this while it has not asked a driver
    /// to notify, for more will come.
    fn rest(&self, now: Instant) -> Option<Rest> {
        let _ = now;
        None
    }

    /// Looks for what nobody told of, where the time for it has come. Called after whatever was ready was served, as
    /// long as there is a [`rest`](Self::rest). True when the set of sources has changed.
    fn look(&mut self, now: Instant) -> bool {
        let _ = now;
        false
    }

    /// The worker's thread runs on other CPUs from now on: what works for it elsewhere has to follow.
    fn moved(&mut self) {}

    /// Called in the worker's thread when it is to stop, after everything else: waits for requests in flight, so that nothing
    /// touches guest memory afterwards. `cancelled` becomes true when the machine ends and nobody waits any longer: then
    /// the worker cancels what it can, and returns soon even if some requests do not end. Those keep their memory.
    fn stop(&mut self, cancelled: &AtomicBool) {
        let _ = cancelled;
    }

    /// The queues that it serves and how far it has come with each, once it has [stopped](Self::stop) or before it has
    /// started.
    fn positions(&self) -> Vec<(u16, QueuePosition)>;

    /// For the device to get its own things back.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// The worker as what its device made.
pub(super) fn worker_as<W: Worker>(worker: Option<&dyn Worker>) -> Option<&W> {
    let worker: &dyn Any = worker?;
    worker.downcast_ref()
}

/// The same, to be changed.
pub(super) fn worker_as_mut<W: Worker>(worker: Option<&mut dyn Worker>) -> Option<&mut W> {
    let worker: &mut dyn Any = worker?;
    worker.downcast_mut()
}
