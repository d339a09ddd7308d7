//! The console as its transport sees it.

use std::sync::{Arc, Mutex, PoisonError};

use super::backlog::Backlog;
use super::counters::ConsoleCounters;
use super::host::ConsoleHost;
use super::state::ConsoleState;
use super::worker::{ConsoleWorker, Port};
use crate::Figures;
use crate::state::{Section, StateError};
use crate::virtio::device::timer;
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, VirtioDevice, Worker, WorkerQueue,
};

const NAME: &str = "console";
/// A communication controller of another kind, as QEMU has it.
const KIND: DeviceKind = DeviceKind { id: 3, pci_class: 0x07_80_00 };
const QUEUE_SIZE: u16 = 64;

/// A console with one port.
pub struct Console {
    port: Arc<Mutex<Port>>,
    counters: Arc<ConsoleCounters>,
}

impl Console {
    /// A console without a driver. A client stays attached over resets of the guest.
    #[must_use]
    pub fn new(host: Box<dyn ConsoleHost>) -> Self {
        let port = Port { host, backlog: Backlog::default(), stalled: false, silent: false, visit: 0 };
        Self { port: Arc::new(Mutex::new(port)), counters: Arc::default() }
    }

    /// What it counts, to keep when the device is handed to its transport.
    #[must_use]
    pub fn counters(&self) -> Arc<ConsoleCounters> {
        Arc::clone(&self.counters)
    }
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Console {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    /// Receive and transmit. Each field of a configuration belongs to a feature that is not offered (virtio 1.3, 5.3.4).
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(self.counters())
    }

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let mut queue = |index| WorkerQueue::of(&mut activation, NAME, index);
        let (receive, transmit) = (queue(0)?, queue(1)?);
        let timer = timer(NAME)?;
        let (port, counters) = (Arc::clone(&self.port), Arc::clone(&self.counters));
        Ok(Box::new(ConsoleWorker::new(receive, transmit, timer, port, counters)))
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        let port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        Section::of(&ConsoleState::of(&port.backlog))
    }

    fn restore(&mut self, state: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
        let backlog = state.decode::<ConsoleState>()?.backlog()?;
        self.port.lock().unwrap_or_else(PoisonError::into_inner).backlog = backlog;
        Ok(())
    }
}
