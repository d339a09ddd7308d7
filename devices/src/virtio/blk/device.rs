//! The block device at rest: its features, its configuration, what it shares with its worker, and the handle by which
//! the host resizes it. What requests mean is `request`'s.

use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use virtio_bindings::bindings::virtio_blk as bits;

use super::SECTOR_BYTES;
use super::config::{self, WRITEBACK_OFFSET, bit};
use super::counters::BlkCounters;
use super::engine::{Disk, DiskBackend, DiskShape};
use super::request::Rules;
use super::state::BlkState;
use super::worker::BlkWorker;
use crate::log_limit::LogLimit;
use crate::state::{Section, StateError};
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, VirtioDevice, VirtioInterrupt, Worker,
    WorkerQueue,
};
use crate::{Figure, Figures};

/// Entries of each queue.
pub const QUEUE_SIZE: u16 = 256;

/// Most queues of a device: one thread serves them all.
pub const MAX_QUEUES: u16 = 16;

/// Lines per second about requests that fail, and as many at once.
const LOG_LINES_PER_SECOND: u32 = 1;

/// Mass storage, SCSI, as other monitors say.
const KIND: DeviceKind = DeviceKind { id: 2, pci_class: 0x01_00_00 };

/// What the driver gets for `VIRTIO_BLK_T_GET_ID`: up to 20 ASCII characters, the rest zeroes (virtio 1.3, 5.2.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Serial([u8; Self::BYTES]);

impl Serial {
    /// Its length.
    pub const BYTES: usize = 20;

    /// A serial number.
    ///
    /// # Errors
    /// [`BlkError::Serial`] if it is too long, or has characters that are not printable ASCII.
    pub fn new(text: &str) -> Result<Self, BlkError> {
        let mut bytes = [0; Self::BYTES];
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        match bytes.get_mut(..text.len()) {
            Some(start) if printable => start.copy_from_slice(text.as_bytes()),
            _ => return Err(BlkError::Serial(text.to_owned())),
        }
        Ok(Self(bytes))
    }

    /// As the driver gets it.
    #[must_use]
    pub fn bytes(self) -> [u8; Self::BYTES] {
        self.0
    }
}

/// What a block device is made with, besides its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlkOptions {
    /// Queues; more than [`MAX_QUEUES`] are refused.
    pub queues: NonZeroU16,
    /// Whether they share an interrupt vector.
    pub shared_vector: bool,
    /// The serial number.
    pub serial: Serial,
}

impl Default for BlkOptions {
    fn default() -> Self {
        Self { queues: NonZeroU16::MIN, shared_vector: false, serial: Serial::default() }
    }
}

/// Why there is no block device, or no new size.
#[derive(Debug, Error)]
pub enum BlkError {
    /// The serial number cannot be told to the guest.
    #[error("serial number {0:?}: must be at most 20 printable ascii characters")]
    Serial(String),
    /// Too many queues.
    #[error("{0} queues: must be 1 to {MAX_QUEUES}")]
    Queues(u16),
    /// The host would not tell the disk's length.
    #[error("length of {name}: {source}")]
    Length {
        /// The disk.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A new size that the disk cannot have.
    #[error("size {wanted}: {name} has {length} bytes, must be whole sectors and no less")]
    Size {
        /// The disk.
        name: String,
        /// In bytes.
        wanted: u64,
        /// The length it has, in bytes.
        length: u64,
    },
    /// The host would not make the disk longer.
    #[error("resize {name} to {wanted} bytes: {source}")]
    Grow {
        /// The disk.
        name: String,
        /// In bytes.
        wanted: u64,
        /// Why not.
        source: io::Error,
    },
    /// The driver could not be told of the new size.
    #[error("notify the guest of the new size of {name}: {source}")]
    Interrupt {
        /// The disk.
        name: String,
        /// Why not.
        source: crate::interrupt::InterruptError,
    },
}

/// What device, worker and handle share.
pub(super) struct Shared {
    pub name: String,
    pub counters: BlkCounters,
    pub log: Mutex<LogLimit>,
    shape: DiskShape,
    serial: Serial,
    sectors: AtomicU64,
    /// Writes may be complete before they are durable.
    writeback: AtomicBool,
    /// There while the device is active.
    interrupt: Mutex<Option<Arc<dyn VirtioInterrupt>>>,
}

impl Shared {
    pub fn rules(&self, features: u64) -> Rules {
        Rules {
            sectors: self.sectors.load(Ordering::Acquire),
            read_only: self.shape.read_only,
            features,
            durable: !self.writeback.load(Ordering::Acquire),
            serial: self.serial,
        }
    }

    fn interrupt(&self) -> MutexGuard<'_, Option<Arc<dyn VirtioInterrupt>>> {
        self.interrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block device.
pub struct Blk<M> {
    backend: Arc<dyn DiskBackend<M>>,
    shared: Arc<Shared>,
    queues: u16,
    /// What the driver last wrote to `writeback`.
    chosen: Option<bool>,
    /// What was negotiated, while the device is active.
    negotiated: Option<u64>,
    shared_vector: bool,
}

/// The handle of a block device, wherever the device is.
#[derive(Clone)]
pub struct BlkHandle {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
}

impl<M: GuestMemoryHandle> Blk<M> {
    /// A device for a disk.
    ///
    /// # Errors
    /// [`BlkError::Queues`], [`BlkError::Length`].
    pub fn new(backend: Arc<dyn DiskBackend<M>>, options: BlkOptions) -> Result<Self, BlkError> {
        let queues = options.queues.get();
        if queues > MAX_QUEUES {
            return Err(BlkError::Queues(queues));
        }
        let name = backend.name();
        let length = backend.length().map_err(|source| BlkError::Length { name: name.clone(), source })?;
        let shared = Shared {
            name,
            counters: BlkCounters::default(),
            log: Mutex::new(LogLimit::per_second(LOG_LINES_PER_SECOND)),
            shape: backend.shape(),
            serial: options.serial,
            sectors: AtomicU64::new(length / SECTOR_BYTES),
            writeback: AtomicBool::new(true),
            interrupt: Mutex::new(None),
        };
        Ok(Self {
            backend,
            shared: Arc::new(shared),
            queues,
            shared_vector: options.shared_vector,
            chosen: None,
            negotiated: None,
        })
    }

    /// Whether writes may be complete before they are durable: as the driver chose, if it may. Without VIRTIO_BLK_F_FLUSH it
    /// cannot ask for durability, so every write has it (virtio 1.3, 5.2.5.2).
    fn set_writeback(&self) {
        let has = |features: u64, number| features & bit(number) != 0;
        let writeback = match self.negotiated {
            None => self.chosen.unwrap_or(true),
            Some(features) => {
                let chosen = self.chosen.filter(|_| has(features, bits::VIRTIO_BLK_F_CONFIG_WCE));
                chosen.unwrap_or(has(features, bits::VIRTIO_BLK_F_FLUSH))
            }
        };
        self.shared.writeback.store(writeback, Ordering::Release);
    }

    /// Its handle, which works while a transport has the device.
    #[must_use]
    pub fn handle(&self) -> BlkHandle {
        BlkHandle { disk: Arc::clone(&self.backend) as Arc<dyn Disk>, shared: Arc::clone(&self.shared) }
    }
}

impl BlkHandle {
    /// Reads the disk's length again and tells the driver if it has changed (virtio 1.3, 5.2.4 and 2.5); with `wanted` it is
    /// made so many bytes long first, unless it is already. Gives the length that the guest sees: whole sectors, in bytes.
    /// Not to be called with the device's transport locked, nor twice at once.
    ///
    /// `go_on` is asked once, when the disk's storage has answered and before anything is changed; `None` if it says no.
    ///
    /// # Errors
    /// [`BlkError::Length`], [`BlkError::Size`] for a size below the disk's or one with a part of a sector, and
    /// [`BlkError::Grow`] if the host refuses: nothing has changed. [`BlkError::Interrupt`]: the size has, but the driver
    /// was not told.
    pub fn resize(&self, wanted: Option<u64>, go_on: impl FnOnce() -> bool) -> Result<Option<u64>, BlkError> {
        let mut length = self.length()?;
        if !go_on() {
            return Ok(None);
        }
        if let Some(wanted) = wanted {
            self.grow(length, wanted)?;
            length = self.length()?;
        }
        self.tell(length).map(Some)
    }

    fn length(&self) -> Result<u64, BlkError> {
        self.disk.length().map_err(|source| BlkError::Length { name: self.shared.name.clone(), source })
    }

    fn grow(&self, length: u64, wanted: u64) -> Result<(), BlkError> {
        let name = || self.shared.name.clone();
        if wanted < length || !wanted.is_multiple_of(SECTOR_BYTES) {
            return Err(BlkError::Size { name: name(), wanted, length });
        }
        if wanted > length {
            let refused = |source| BlkError::Grow { name: name(), wanted, source };
            self.disk.grow(wanted).map_err(refused)?;
        }
        Ok(())
    }

    fn tell(&self, length: u64) -> Result<u64, BlkError> {
        let sectors = length / SECTOR_BYTES;
        if self.shared.sectors.swap(sectors, Ordering::AcqRel) != sectors {
            let interrupt = self.shared.interrupt().clone();
            if let Some(interrupt) = interrupt {
                let name = || self.shared.name.clone();
                interrupt.config_changed().map_err(|source| BlkError::Interrupt { name: name(), source })?;
            }
        }
        Ok(sectors * SECTOR_BYTES)
    }

    /// What the device has counted.
    #[must_use]
    pub fn counters(&self) -> &BlkCounters {
        &self.shared.counters
    }

    /// The disk's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }
}

impl Figures for BlkHandle {
    fn figures(&self) -> Vec<Figure> {
        self.counters().figures()
    }
}

impl fmt::Debug for BlkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkHandle").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Blk<M> {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        config::features(&self.shared.shape, self.queues)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(Arc::new(self.handle()))
    }

    fn shares_vector(&self) -> bool {
        self.shared_vector
    }

    fn config(&self) -> Vec<u8> {
        let rules = self.shared.rules(0);
        config::bytes(&self.shared.shape, rules.sectors, self.queues, !rules.durable).to_vec()
    }

    /// Only `writeback` may be written, and only by a driver that took the feature (virtio 1.3, 5.2.5). Before it has
    /// started, what it wrote counts if it turns out to have.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let value = WRITEBACK_OFFSET.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        let writeback = match value.and_then(|at| data.get(at)) {
            Some(0) => false,
            Some(1) => true,
            Some(_) | None => return,
        };
        let features = self.negotiated.unwrap_or_else(|| VirtioDevice::<M>::features(self));
        if features & bit(bits::VIRTIO_BLK_F_CONFIG_WCE) != 0 {
            self.chosen = Some(writeback);
            self.set_writeback();
        }
    }

    fn activate(&mut self, activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        if activation.queues.is_empty() {
            return Err(ActivationError::QueueMissing { device: "blk", index: 0 });
        }
        let (features, memory) = (activation.features, activation.memory.clone());
        self.negotiated = Some(features);
        self.set_writeback();
        *self.shared.interrupt() = Some(Arc::clone(&activation.interrupt));
        let queues = WorkerQueue::all(activation);
        let (backend, shared) = (Arc::clone(&self.backend), Arc::clone(&self.shared));
        Ok(Box::new(BlkWorker::new(backend, shared, memory, features, queues)))
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        Section::of(&BlkState { writeback: self.chosen })
    }

    fn restore(&mut self, state: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
        self.chosen = state.decode::<BlkState>()?.writeback;
        self.set_writeback();
        Ok(())
    }

    fn reset(&mut self, worker: Option<Box<dyn Worker>>) {
        drop(worker);
        (self.chosen, self.negotiated) = (None, None);
        self.set_writeback();
        *self.shared.interrupt() = None;
    }
}
