//! The link of a network interface, as the guest sees it.

use super::{RequestError, VmHandle};
use std::sync::{Arc, PoisonError};

impl VmHandle {
    /// Takes the link of an interface up or down, and notifies the guest. While it is down frames are dropped both ways.
    ///
    /// # Errors
    /// The VM does not run, or has no such interface.
    pub fn set_link(&self, index: usize, up: bool) -> Result<(), RequestError> {
        let net = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            let link = link.as_ref().ok_or_else(|| self.not_running())?;
            Arc::clone(link.nets.get(index).ok_or(RequestError::NoSuchNet(index))?)
        };
        net.set_link(up);
        tracing::info!(net = index, up, "link changed");
        Ok(())
    }
}
