//! A network device as its transport sees it (virtio 1.3, 5.1). Frames are its worker's business.

use std::sync::Arc;
use std::time::Instant;

use super::config::{MAX_QUEUE_PAIRS, NetConfig, space};
use super::counters::NetHandle;
use super::features::{Offloads, bits, is_consistent, of_offloads, to_offloads};
use super::pair::{Common, Pair};
use super::state::NetState;
use super::tap::Tap;
use super::worker::NetWorker;
use crate::state::{Section, StateError, ensure};
use crate::virtio::device::{worker_as, worker_as_mut};
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, KernelDatapath, VirtioDevice, Worker,
    WorkerQueue,
};
use crate::{Figures, LogLimit};

const NAME: &str = "net";
/// Network controller, Ethernet.
const KIND: DeviceKind = DeviceKind { id: 1, pci_class: 0x02_00_00 };
/// As QEMU has it. A segment of 64 KiB in buffers of 1,536 bytes takes 43, and Linux fills up at half.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// What stands behind a pair of queues.
pub struct NetQueues<M, T> {
    /// A queue of the host interface.
    pub tap: Arc<T>,
    /// Serves the pair, if it can: it must be given the same queue of the interface.
    pub kernel: Option<Box<dyn KernelDatapath<M>>>,
}

/// A network device.
pub struct Net<M, T> {
    config: NetConfig,
    /// At rest; with the worker while that runs.
    queues: Vec<NetQueues<M, T>>,
    /// As many, always here.
    taps: Vec<Arc<T>>,
    handle: Arc<NetHandle>,
    log: LogLimit,
}

impl<M: GuestMemoryHandle, T: Tap> Net<M, T> {
    /// A device with a pair of queues for each of `queues`; at least one, more than [`MAX_QUEUE_PAIRS`] are left out.
    /// `None` without any.
    #[must_use]
    pub fn new(config: NetConfig, mut queues: Vec<NetQueues<M, T>>) -> Option<Self> {
        queues.truncate(usize::from(MAX_QUEUE_PAIRS));
        let taps: Vec<_> = queues.iter().map(|queue| Arc::clone(&queue.tap)).collect();
        (!taps.is_empty()).then(|| Self {
            config,
            queues,
            taps,
            handle: NetHandle::new(),
            log: LogLimit::per_second(1),
        })
    }

    /// Its handle, to keep when the device is handed to its transport.
    #[must_use]
    pub fn handle(&self) -> Arc<NetHandle> {
        Arc::clone(&self.handle)
    }

    fn pairs(&self) -> u16 {
        u16::try_from(self.taps.len()).unwrap_or(MAX_QUEUE_PAIRS)
    }

    fn supported(&self) -> Offloads {
        self.taps.first().map_or(Offloads::NONE, |tap| tap.supported())
    }

    /// Tells the interface what its driver takes, and that it serves the first queue.
    fn prepare(&self, offloads: Offloads) -> Result<(), ActivationError> {
        let host = |call| move |source| ActivationError::Host { device: NAME, call, source };
        for (number, tap) in self.taps.iter().enumerate() {
            tap.set_enabled(number == 0).map_err(host("enable a queue of the interface"))?;
        }
        let Some(first) = self.taps.first() else { return Ok(()) };
        first.set_offloads(offloads).map_err(host("set the interface's offloads"))
    }
}

impl<M: GuestMemoryHandle, T: Tap> VirtioDevice<M> for Net<M, T> {
    fn kind(&self) -> DeviceKind {
        KIND
    }

    fn features(&self) -> u64 {
        let mut features =
            of_offloads(self.supported()) | bits::MAC | bits::STATUS | bits::MRG_RXBUF | bits::CTRL_VQ;
        if self.supported().has(Offloads::CHECKSUM) {
            features |= bits::CTRL_GUEST_OFFLOADS;
        }
        if self.config.mtu.is_some() {
            features |= bits::MTU;
        }
        if self.pairs() > 1 {
            features |= bits::MQ;
        }
        features
    }

    fn accepts(&self, features: u64) -> bool {
        is_consistent(features)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; self.taps.len() * 2];
        sizes.push(CONTROL_QUEUE_SIZE);
        sizes
    }

    fn config(&self) -> Vec<u8> {
        space(&self.config, self.handle.is_link_up(), self.pairs()).to_vec()
    }

    fn figures(&self) -> Option<Arc<dyn Figures>> {
        Some(self.handle())
    }

    fn activate(&mut self, mut activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        let features = activation.features;
        let usable = if features & bits::MQ != 0 { self.pairs() } else { 1 };
        // The control queue comes after all pairs that the driver knows of (virtio 1.3, 5.1.2).
        let control = match features & bits::CTRL_VQ {
            0 => None,
            _ => WorkerQueue::of(&mut activation, NAME, usable * 2).ok(),
        };
        let mut rings = Vec::with_capacity(usable.into());
        for pair in 0..usable {
            let mut take = |index| activation.take(NAME, index);
            let both = take(pair * 2).and_then(|receive| Ok((receive, take(pair * 2 + 1)?)));
            match both {
                Ok(both) => rings.push(both),
                // A driver may leave pairs out that it does not use.
                Err(_) if pair > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.prepare(to_offloads(features))?;
        let Activation { memory, interrupt, .. } = activation;
        let common = Common { memory, features, interrupt, handle: Arc::clone(&self.handle) };
        self.handle.attach(Some(Arc::clone(&common.interrupt)));
        let unused = self.queues.split_off(rings.len().min(self.queues.len()));
        let used = std::mem::replace(&mut self.queues, unused);
        let pairs = used.into_iter().zip(rings).map(|(queues, (rx, tx))| Pair::new(queues, rx, tx)).collect();
        Ok(Box::new(NetWorker::new(common, pairs, control)))
    }

    fn save(&self, worker: Option<&dyn Worker>) -> Result<Section, StateError> {
        let worker: Option<&NetWorker<M, T>> = worker_as(worker);
        Section::of(&NetState { driver: worker.map(NetWorker::save) })
    }

    fn restore(&mut self, state: Section, worker: Option<&mut dyn Worker>) -> Result<(), StateError> {
        let worker: Option<&mut NetWorker<M, T>> = worker_as_mut(worker);
        match (worker, state.decode::<NetState>()?.driver) {
            (Some(worker), Some(state)) => worker.restore(state),
            (worker, state) => {
                let rule = "must be there if the device is active, and only then";
                ensure::<NetState>(worker.is_none() && state.is_none(), "driver", state.is_some(), rule)
            }
        }
    }

    fn reset(&mut self, worker: Option<Box<dyn Worker>>) {
        self.handle.attach(None);
        let worker = worker.and_then(|worker| worker.into_any().downcast::<NetWorker<M, T>>().ok());
        let mut back = worker.map(|worker| worker.into_queues()).unwrap_or_default();
        back.append(&mut self.queues);
        // Of pairs that did not come back, only the interface's queue is left.
        for tap in &self.taps {
            let found = back.iter().position(|queues| Arc::ptr_eq(&queues.tap, tap));
            let queues = found.map(|position| back.swap_remove(position));
            self.queues.push(queues.unwrap_or(NetQueues { tap: Arc::clone(tap), kernel: None }));
        }
        if let Err(error) = self.prepare(Offloads::NONE)
            && let Some(suppressed) = self.log.admit(Instant::now())
        {
            tracing::warn!(%error, suppressed, "net: reset");
        }
    }
}
