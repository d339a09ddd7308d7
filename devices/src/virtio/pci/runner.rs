//! A device and its worker: at rest, running, held while the function may not touch memory, or on its way there while
//! requests are in flight. When it has to change is the function's knowledge.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::doorbells::Doorbells;
use super::queues::SetupError;
use crate::interrupt::MsiMessage;
use crate::pci::{WorkerHandle, WorkerSpawner};
use crate::state::{Section, StateError};
use crate::virtio::{
    Activation, ActivationError, ActiveQueue, DeviceKind, GuestMemoryHandle, VirtioDevice, VirtioInterrupt,
    Worker,
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
    /// Asked to stop; requests are in flight.
    Stopping(Box<dyn WorkerHandle>, Next),
    /// The bus master bit is off, or the function is held.
    Held(Box<dyn Worker>),
}

/// What becomes of a worker once it has stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Hold,
    Reset,
}

pub(super) struct Runner<M: GuestMemoryHandle> {
    name: String,
    pub device: Box<dyn VirtioDevice<M>>,
    pub memory: M,
    spawner: Arc<dyn WorkerSpawner>,
    pub doorbells: Doorbells,
    state: State,
    bus_master: bool,
    /// The machine is paused, saved or restored.
    held: bool,
    /// The way to the driver that has started the device.
    interrupt: Option<Arc<dyn VirtioInterrupt>>,
    /// No guest comes any more for whom the device would have to be made ready.
    vm_ends: bool,
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
            held: false,
            interrupt: None,
            vm_ends: false,
            config_message: None,
        }
    }

    /// Gives the device its queues, and its worker a thread unless it is held.
    pub fn start(
        &mut self,
        features: u64,
        queues: Vec<ActiveQueue>,
        interrupt: Arc<dyn VirtioInterrupt>,
    ) -> Result<(), StartError> {
        self.interrupt = Some(Arc::clone(&interrupt));
        let served = queues.iter().map(|queue| queue.index).collect();
        let activation = Activation { memory: self.memory.clone(), features, queues, interrupt };
        let worker = self.device.activate(activation)?;
        self.doorbells.serve(served);
        self.run(worker)
    }

    fn run(&mut self, worker: Box<dyn Worker>) -> Result<(), StartError> {
        if !self.may_run() {
            self.state = State::Held(worker);
            return Ok(());
        }
        let interrupt = self.interrupt.clone();
        let on_failure = Box::new(move |why: &str| {
            if let Some(interrupt) = interrupt {
                interrupt.device_failed(why);
            }
        });
        let handle = self.spawner.spawn(&self.name, worker, on_failure).map_err(StartError::Spawn)?;
        self.state = State::Running(handle);
        Ok(())
    }

    /// Stops or continues the worker as the bus master bit says. Does not wait for requests in flight.
    pub fn set_bus_master(&mut self, on: bool) -> Result<(), StartError> {
        self.bus_master = on;
        self.follow()
    }

    /// Stops the worker until [`resume`](Self::resume). Does not wait for requests in flight.
    pub fn hold(&mut self) -> Result<(), StartError> {
        self.held = true;
        self.follow()
    }

    /// Continues the worker, unless the bus master bit is off.
    pub fn resume(&mut self) -> Result<(), StartError> {
        self.held = false;
        self.follow()
    }

    /// The worker while the function is held and nothing of it runs, if the device is active; `None` while it is not held.
    pub fn held_worker(&self) -> Option<Option<&dyn Worker>> {
        match &self.state {
            State::Rest if self.held => Some(None),
            State::Held(worker) if self.held => Some(Some(&**worker)),
            State::Rest | State::Held(_) | State::Running(_) | State::Stopping(..) => None,
        }
    }

    /// Nothing of the function runs.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Rest | State::Held(_))
    }

    /// Puts the device, which has been started or is at rest, into a state.
    pub fn restore_device(&mut self, state: Section) -> Result<(), StateError> {
        match &mut self.state {
            State::Held(worker) => self.device.restore(state, Some(&mut **worker)),
            State::Rest | State::Running(_) | State::Stopping(..) => self.device.restore(state, None),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn may_run(&self) -> bool {
        self.bus_master && !self.held
    }

    fn follow(&mut self) -> Result<(), StartError> {
        let on = self.may_run();
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Held(worker) => self.run(worker),
            State::Stopping(handle, Next::Hold) if on => {
                if handle.resume() {
                    self.state = State::Running(handle);
                    return Ok(());
                }
                self.run(handle.stop().ok_or(StartError::Dead)?)
            }
            State::Running(handle) if !on => {
                handle.request_stop();
                self.state = State::Stopping(handle, Next::Hold);
                self.settle().map(drop)
            }
            state @ (State::Running(_) | State::Stopping(..) | State::Rest) => {
                self.state = state;
                Ok(())
            }
        }
    }

    /// Stops the worker and brings the device back to rest, once requests in flight have ended:
    /// [`settle`](Self::settle) says when.
    pub fn reset(&mut self) {
        self.vm_ends = false;
        self.bring_to_rest();
    }

    /// The same at the end of the VM.
    pub fn end(&mut self) {
        self.vm_ends = true;
        self.bring_to_rest();
    }

    /// The device, if it is at rest; nothing is behind the function from then on.
    pub fn take_device(&mut self) -> Option<Box<dyn VirtioDevice<M>>> {
        let rests = matches!(self.state, State::Rest) && !self.device.is_resetting();
        rests.then(|| std::mem::replace(&mut self.device, Box::new(Gone)))
    }

    fn bring_to_rest(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Rest) {
            State::Rest => return self.rest(None),
            State::Held(worker) => return self.rest(Some(worker)),
            State::Running(handle) => {
                handle.request_stop();
                State::Stopping(handle, Next::Reset)
            }
            State::Stopping(handle, _) => State::Stopping(handle, Next::Reset),
        };
        self.doorbells.rest();
    }

    fn rest(&mut self, worker: Option<Box<dyn Worker>>) {
        self.doorbells.rest();
        self.interrupt = None;
        match self.vm_ends {
            true => self.device.end(worker),
            false => self.device.reset(worker),
        }
    }

    /// Goes on with a stop or a reset if the worker has stopped meanwhile; true if a reset is complete with this.
    pub fn settle(&mut self) -> Result<bool, StartError> {
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Stopping(handle, next) if handle.has_stopped() => match (next, handle.stop()) {
                (Next::Reset, worker) => {
                    self.rest(worker);
                    Ok(true)
                }
                (Next::Hold, Some(worker)) => {
                    self.state = State::Held(worker);
                    Ok(false)
                }
                (Next::Hold, None) => Err(StartError::Dead),
            },
            state => {
                self.state = state;
                Ok(false)
            }
        }
    }

    /// No stop or reset waits for requests in flight.
    pub fn is_settled(&self) -> bool {
        !matches!(self.state, State::Stopping(..))
    }

    /// A reset waits for requests in flight.
    pub fn is_resetting(&self) -> bool {
        matches!(self.state, State::Stopping(_, Next::Reset))
    }

    /// Nobody waits for requests in flight any longer.
    pub fn cancel(&self) {
        if let State::Stopping(handle, _) = &self.state {
            handle.cancel();
        }
    }

    /// Leaves a worker that does not stop to itself.
    pub fn abandon(&mut self) {
        if let State::Stopping(handle, _) = std::mem::replace(&mut self.state, State::Rest) {
            drop(handle);
        }
        self.rest(None);
    }

    /// Tells the device if its configuration interrupt goes elsewhere than before.
    pub fn note_config_message(&mut self, message: Option<MsiMessage>) {
        if message != self.config_message {
            self.config_message = message;
            self.device.config_message_changed(message);
        }
    }
}

/// What is left of a device that was taken.
struct Gone;

impl<M: GuestMemoryHandle> VirtioDevice<M> for Gone {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 0, pci_class: 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        Vec::new()
    }

    fn activate(&mut self, _: Activation<M>) -> Result<Box<dyn Worker>, ActivationError> {
        Err(ActivationError::QueueMissing { device: "gone", index: 0 })
    }

    fn save(&self, _: Option<&dyn Worker>) -> Result<Section, StateError> {
        Err(StateError::Missing { section: "device".to_owned() })
    }

    fn restore(&mut self, state: Section, _: Option<&mut dyn Worker>) -> Result<(), StateError> {
        Err(StateError::Unknown { section: state.name })
    }
}

/// Whoever drops the function may unmap guest memory next.
impl<M: GuestMemoryHandle> Drop for Runner<M> {
    fn drop(&mut self) {
        self.end();
        if let State::Stopping(handle, _) = std::mem::replace(&mut self.state, State::Rest) {
            let worker = handle.stop();
            self.rest(worker);
        }
    }
}
