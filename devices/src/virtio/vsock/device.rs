//! A socket device as its transport sees it (virtio 1.3, 5.10). Packets are its worker's business.

use std::sync::Arc;

use super::counters::VsockCounters;
use super::events::Events;
use super::host::HostSockets;
use super::state::VsockState;
use super::worker::VsockWorker;
use crate::Figures;
use crate::state::{Section, StateError};
use crate::virtio::device::worker_as_mut;
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, VirtioDevice, Worker, WorkerQueue,
};

pub(super) const NAME: &str = "vsock";
/// Communication controller, other.
const KIND: DeviceKind = DeviceKind { id: 19, pci_class: 0x07_80_00 };
/// As Linux's host has it; receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];
/// Streams, and that a driver need not take them for granted (virtio 1.3, 5.10.3).
const FEATURES: u64 = 1 << VIRTIO_VSOCK_F_STREAM | 1 << VIRTIO_VSOCK_F_NO_IMPLIED_STREAM;
const VIRTIO_VSOCK_F_STREAM: u32 = 0;
const VIRTIO_VSOCK_F_NO_IMPLIED_STREAM: u32 = 2;

/// A context id that a guest can have: 0 to 2 mean something else, so does the last (virtio 1.3, 5.10.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestCid(u32);

impl GuestCid {
    /// `None` if no guest can have it.
    #[must_use]
    pub fn new(cid: u64) -> Option<Self> {
        u32::try_from(cid).ok().filter(|cid| (3..u32::MAX).contains(cid)).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Who serves the connections of a socket device.
pub trait Server<M>: Send {
    /// As [`VirtioDevice::activate`].
    fn begin(&mut self, cid: GuestCid, activation: Activation<M>)
    -> Result<Box<dyn Worker>, ActivationError>;

    /// The driver that this worker is for has lost its connections in a restore.
    fn transport_reset(&mut self, worker: &mut dyn Worker);

    /// As [`VirtioDevice::reset`].
    fn end(&mut self, worker: Option<Box<dyn Worker>>);

    /// As [`VirtioDevice::figures`].
    fn figures(&self) -> Option<Arc<dyn Figures>> {
        None
    }
}

/// A socket device, whoever serves its connections: to a driver it is the same.
pub struct Socket<S> {
    pub(super) cid: GuestCid,
    pub(super) server: S,
}

impl<M: GuestMemoryHandle, S: Server<M>> VirtioDevice<M> for Socket<S> {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    /// A driver that takes streams for granted no more, and does not take them, wants nothing that there is.
    fn accepts(&self, features: u64) -> bool {
        features & 1 << VIRTIO_VSOCK_F_NO_IMPLIED_STREAM == 0 || features & 1 << VIRTIO_VSOCK_F_STREAM != 0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    /// The upper half of the context id is reserved (virtio 1.3, 5.10.4).
    fn config(&self) -> Vec<u8> {
        u64::from(self.cid.get()).to_le_bytes().to_vec()
    }

    fn activate(&mut self, activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        self.server.begin(self.cid, activation)
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        Section::of(&VsockState {})
    }

    fn restore(&mut self, state: Section, worker: Option<&mut dyn Worker>) -> Result<(), StateError> {
        let VsockState {} = state.decode()?;
        if let Some(worker) = worker {
            self.server.transport_reset(worker);
        }
        Ok(())
    }

    fn reset(&mut self, worker: Option<Box<dyn Worker>>) {
        self.server.end(worker);
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        self.server.figures()
    }
}

/// A socket device that serves its connections itself.
pub type Vsock<H> = Socket<Process<H>>;

/// This process, as a server of connections.
pub struct Process<H> {
    sockets: Arc<H>,
    counters: Arc<VsockCounters>,
}

impl<H: HostSockets> Vsock<H> {
    /// A device of a guest with this context id, whose connections end in `sockets`.
    #[must_use]
    pub fn new(cid: GuestCid, sockets: Arc<H>) -> Self {
        Self { cid, server: Process { sockets, counters: Arc::default() } }
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<VsockCounters> {
        Arc::clone(&self.server.counters)
    }
}

impl<M: GuestMemoryHandle, H: HostSockets> Server<M> for Process<H> {
    fn begin(
        &mut self,
        cid: GuestCid,
        mut activation: Activation<M>,
    ) -> Result<Box<dyn Worker>, ActivationError> {
        let mut queue = |index| WorkerQueue::of(&mut activation, NAME, index);
        let (receive, transmit) = (queue(0)?, queue(1)?);
        Ok(Box::new(VsockWorker::new(
            receive,
            transmit,
            Events::of(&mut activation),
            activation.memory,
            Arc::clone(&self.sockets),
            cid.get().into(),
            Arc::clone(&self.counters),
        )))
    }

    fn transport_reset(&mut self, worker: &mut dyn Worker) {
        let worker: Option<&mut VsockWorker<M, H>> = worker_as_mut(Some(worker));
        if let Some(events) = worker.and_then(|worker| worker.events.as_mut()) {
            events.transport_reset();
        }
    }

    /// With the worker, its streams are closed.
    fn end(&mut self, worker: Option<Box<dyn Worker>>) {
        drop(worker);
        self.counters.connections.set(0);
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(Arc::clone(&self.counters) as _)
    }
}
