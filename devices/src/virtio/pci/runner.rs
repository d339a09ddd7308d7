//! A device and its worker: at rest, running, or held while the function may not touch memory. When it has to change
//! is the function's knowledge.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::doorbells::Doorbells;
use super::queues::SetupError;
use crate::interrupt::MsiMessage;
use crate::pci::{WorkerHandle, WorkerSpawner};
use crate::virtio::{
    Activation, ActivationError, ActiveQueue, GuestMemoryHandle, VirtioDevice, VirtioInterrupt, Worker,
};

/// Why a device does not run although its driver wants it to.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Device(#[from] ActivationError),
    #[error("start the worker's thread: {0}")]
    Spawn(#[source] io::Error),
    #[error("queue {index}: duplicate the eventfd: {source}")]
    Kick { index: u16, source: io::Error },
    #[error("DRIVER_OK without FEATURES_OK")]
    Order,
    #[error("its worker died")]
    Dead,
}

enum State {
    Rest,
    Running(Box<dyn WorkerHandle>),
    /// The bus master bit is off.
    Held(Box<dyn Worker>),
}

pub(super) struct Runner<M: GuestMemoryHandle> {
    name: String,
    pub device: Box<dyn VirtioDevice<M>>,
    pub memory: M,
    spawner: Arc<dyn WorkerSpawner>,
    pub doorbells: Doorbells,
    state: State,
    bus_master: bool,
    /// What the device knows of its configuration interrupt.
    config_message: Option<MsiMessage>,
}

impl<M: GuestMemoryHandle> Runner<M> {
    pub fn new(
        name: &str,
        device: Box<dyn VirtioDevice<M>>,
        memory: M,
        spawner: Arc<dyn WorkerSpawner>,
        doorbells: Doorbells,
    ) -> Self {
        Self {
            name: name.to_owned(),
            device,
            memory,
            spawner,
            doorbells,
            state: State::Rest,
            bus_master: false,
            config_message: None,
        }
    }

    /// Gives the device its queues, and its worker a thread unless the bus master bit is off.
    pub fn start(
        &mut self,
        features: u64,
        queues: Vec<ActiveQueue>,
        interrupt: Arc<dyn VirtioInterrupt>,
    ) -> Result<(), StartError> {
        let served = queues.iter().map(|queue| queue.index).collect();
        let activation = Activation { memory: self.memory.clone(), features, queues, interrupt };
        let worker = self.device.activate(activation)?;
        self.doorbells.serve(served);
        self.run(worker)
    }

    fn run(&mut self, worker: Box<dyn Worker>) -> Result<(), StartError> {
        if !self.bus_master {
            self.state = State::Held(worker);
            return Ok(());
        }
        self.state = State::Running(self.spawner.spawn(&self.name, worker).map_err(StartError::Spawn)?);
        Ok(())
    }

    /// Stops or continues the worker as the bus master bit says.
    pub fn set_bus_master(&mut self, on: bool) -> Result<(), StartError> {
        self.bus_master = on;
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Held(worker) => self.run(worker),
            State::Running(handle) if !on => {
                self.state = State::Held(handle.stop().ok_or(StartError::Dead)?);
                Ok(())
            }
            state @ (State::Running(_) | State::Rest) => {
                self.state = state;
                Ok(())
            }
        }
    }

    /// Stops the worker and brings the device back to rest.
    pub fn reset(&mut self) {
        let worker = match std::mem::replace(&mut self.state, State::Rest) {
            State::Rest => None,
            State::Running(handle) => handle.stop(),
            State::Held(worker) => Some(worker),
        };
        self.doorbells.rest();
        self.device.reset(worker);
    }

    /// Tells the device if its configuration interrupt goes elsewhere than before.
    pub fn note_config_message(&mut self, message: Option<MsiMessage>) {
        if message != self.config_message {
            self.config_message = message;
            self.device.config_message_changed(message);
        }
    }
}

/// Whoever drops the function may unmap guest memory next.
impl<M: GuestMemoryHandle> Drop for Runner<M> {
    fn drop(&mut self) {
        self.reset();
    }
}
