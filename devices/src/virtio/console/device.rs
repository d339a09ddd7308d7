//! The console as its transport sees it.

use std::sync::{Arc, Mutex};

use vmm_sys_util::timerfd::TimerFd;

use super::backlog::Backlog;
use super::counters::ConsoleMeter;
use super::host::ConsoleHost;
use super::worker::{ConsoleWorker, Port};
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
    meter: Arc<ConsoleMeter>,
}

impl Console {
    /// A console without a driver. A client stays attached over resets of the guest.
    #[must_use]
    pub fn new(host: Box<dyn ConsoleHost>) -> Self {
        let port = Port { host, backlog: Backlog::default(), stalled: false, silent: false, visit: 0 };
        Self { port: Arc::new(Mutex::new(port)), meter: Arc::default() }
    }

    /// Its counters, to keep when the device is handed to its transport.
    #[must_use]
    pub fn meter(&self) -> Arc<ConsoleMeter> {
        Arc::clone(&self.meter)
    }
}

impl<M: GuestMemoryHandle> VirtioDevice<M> for Console {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// Each field belongs to a feature that is not offered (virtio 1.3, 5.3.4).
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let mut queue = |index| WorkerQueue::of(&mut activation, NAME, index);
        let (receive, transmit) = (queue(0)?, queue(1)?);
        let timer = TimerFd::new().map_err(|error| ActivationError::Host {
            device: NAME,
            call: "timerfd_create",
            source: error.into(),
        })?;
        let (port, meter) = (Arc::clone(&self.port), Arc::clone(&self.meter));
        Ok(Box::new(ConsoleWorker::new(receive, transmit, timer, port, meter)))
    }

    fn reset(&mut self, _: Option<Box<dyn Worker>>) {}
}
