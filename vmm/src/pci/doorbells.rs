//! Doorbells: guest writes that KVM turns into eventfd signals.

use crate::sys::GuestVm;
use devices::pci::IoEvents;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// The doorbells of a VM.
pub struct Doorbells {
    vm: Arc<GuestVm>,
}

impl Doorbells {
    /// None registered yet.
    pub fn new(vm: Arc<GuestVm>) -> Self {
        Self { vm }
    }
}

impl IoEvents for Doorbells {
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }

    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.vm
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))
    }
}
