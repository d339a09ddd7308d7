//! The MSI-X vectors of one function: an eventfd each, which KVM turns into the message that the guest wrote.

use crate::interrupts::{Gsi, Routes};
use crate::sys::HostError;
use devices::pci::MsixVectors;
use devices::{InterruptError, MsiMessage};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Vectors of one function.
pub struct Vectors {
    routes: Arc<Routes>,
    gsis: Vec<Mutex<Gsi>>,
}

impl Vectors {
    /// Takes `count` interrupts of the VM.
    pub fn new(routes: &Arc<Routes>, count: u16) -> Result<Self, HostError> {
        let gsis = (0..count).map(|_| routes.allocate().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { routes: Arc::clone(routes), gsis })
    }

    fn with<T>(&self, vector: u16, act: impl FnOnce(&mut Gsi) -> T) -> Option<T> {
        let gsi = self.gsis.get(usize::from(vector))?;
        Some(act(&mut gsi.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl MsixVectors for Vectors {
    /// A vector that is masked keeps its route, as changing it is slow and guests mask and unmask without end. Its
    /// eventfd is taken off KVM instead, if it was given away.
    fn set(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError> {
        self.with(vector, |gsi| match message {
            Some(message) => self.routes.connect(gsi, message),
            None => self.routes.disconnect(gsi),
        })
        .unwrap_or(Ok(()))
    }

    fn trigger(&self, vector: u16) -> Result<(), InterruptError> {
        self.with(vector, |gsi| self.routes.trigger(gsi)).unwrap_or(Ok(()))
    }

    fn eventfd(&self, vector: u16) -> Option<EventFd> {
        self.with(vector, |gsi| self.routes.share(gsi)).flatten()
    }
}
