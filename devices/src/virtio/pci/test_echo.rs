//! A device that answers with what it was told, every bit turned.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::interrupt::MsiMessage;
use crate::state::{Section, State, StateError};
use crate::virtio::{
    Activation, ActivationError, DeviceKind, GuestMemoryHandle, QueuePosition, Source, VirtioDevice,
    VirtioInterrupt, Worker, WorkerQueue,
};

pub(in crate::virtio) const QUEUES: u16 = 2;
pub(in crate::virtio) const QUEUE_SIZE: u16 = 16;
/// Bits 5 and 6 are the device's own, 6 depends on 5; bit 36 (of the transport's) must not get through.
pub(in crate::virtio) const FEATURES: u64 = 1 << 5 | 1 << 6 | 1 << 36;

/// What the device did, and what it is to do, for the test to see and say.
#[derive(Default)]
pub(in crate::virtio) struct EchoState {
    pub config: Mutex<[u8; 8]>,
    /// The configuration interrupt, each time it went elsewhere.
    pub messages: Mutex<Vec<Option<MsiMessage>>>,
    pub active: AtomicBool,
    pub refuse: AtomicBool,
    /// Came to rest as the machine ended, and not by its driver.
    pub ended: AtomicBool,
    /// A reset takes its time.
    pub resetting: AtomicBool,
    pub interrupt: Mutex<Option<Arc<dyn VirtioInterrupt>>>,
}

/// What outlives the device.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EchoSection {
    config: [u8; 8],
}

impl State for EchoSection {
    const NAME: &'static str = "echo";
    const VERSION: u32 = 1;
}

pub(in crate::virtio) struct Echo(pub Arc<EchoState>);

impl<M: GuestMemoryHandle> VirtioDevice<M> for Echo {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 42, pci_class: 0xFF_00_00 }
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn accepts(&self, features: u64) -> bool {
        features & 1 << 6 == 0 || features & 1 << 5 != 0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(QUEUES)]
    }

    fn config(&self) -> Vec<u8> {
        self.0.config.lock().unwrap().to_vec()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut config = self.0.config.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        for (value, byte) in config.iter_mut().skip(offset).zip(data) {
            *value = *byte;
        }
    }

    fn activate(&mut self, activation: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        if self.0.refuse.load(Ordering::Relaxed) {
            return Err(ActivationError::QueueMissing { device: "echo", index: 0 });
        }
        assert!(!self.0.active.swap(true, Ordering::Relaxed), "activated twice");
        *self.0.interrupt.lock().unwrap() = Some(Arc::clone(&activation.interrupt));
        Ok(Box::new(EchoWorker { queues: WorkerQueue::all(activation) }))
    }

    fn config_message_changed(&mut self, message: Option<MsiMessage>) {
        self.0.messages.lock().unwrap().push(message);
    }

    fn end(&mut self, _: Option<Box<dyn Worker>>) {
        self.0.active.store(false, Ordering::Relaxed);
        self.0.ended.store(true, Ordering::Relaxed);
    }

    fn save(&self, worker: Option<&dyn Worker>) -> Result<Section, StateError> {
        assert_eq!(worker.is_some(), self.0.active.load(Ordering::Relaxed));
        Section::of(&EchoSection { config: *self.0.config.lock().unwrap() })
    }

    fn restore(&mut self, state: Section, worker: Option<&mut dyn Worker>) -> Result<(), StateError> {
        assert_eq!(worker.is_some(), self.0.active.load(Ordering::Relaxed));
        *self.0.config.lock().unwrap() = state.decode::<EchoSection>()?.config;
        Ok(())
    }

    fn reset(&mut self, _: Option<Box<dyn Worker>>) {
        self.0.active.store(false, Ordering::Relaxed);
    }

    fn is_resetting(&self) -> bool {
        self.0.resetting.load(Ordering::Relaxed)
    }
}

struct EchoWorker<M> {
    queues: Vec<WorkerQueue<M>>,
}

impl<M: GuestMemoryHandle> EchoWorker<M> {
    fn serve(&mut self, position: usize) {
        let queue = &mut self.queues[position];
        queue.begin();
        while let Some(chain) = queue.pop() {
            let memory = queue.memory();
            // Of an absurd request, so much.
            let length = chain.readable_bytes().min(1 << 20);
            let mut data = vec![0; usize::try_from(length).unwrap()];
            assert_eq!(chain.read(memory, 0, &mut data), data.len());
            data.iter_mut().for_each(|byte| *byte = !*byte);
            let written = chain.write(memory, 0, &data);
            queue.used(chain, u32::try_from(written).unwrap());
        }
        queue.signal();
    }
}

impl<M: GuestMemoryHandle> Worker for EchoWorker<M> {
    fn sources(&self) -> Vec<Source> {
        (0..).zip(&self.queues).map(|(token, queue)| queue.source(token)).collect()
    }

    fn start(&mut self) {
        (0..self.queues.len()).for_each(|position| self.serve(position));
    }

    fn ready(&mut self, token: u32) -> bool {
        self.serve(usize::try_from(token).unwrap());
        false
    }

    fn positions(&self) -> Vec<(u16, QueuePosition)> {
        self.queues.iter().map(WorkerQueue::position).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
