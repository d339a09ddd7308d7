//! How much memory is written in a time: what a live copy of it would have to copy again.

use super::{RequestError, VmHandle};
use crate::memory::{DirtyLog, Written};
use resources::VnodeId;
use std::collections::BTreeMap;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

impl VmHandle {
    /// What is written of each vnode's memory in so much time from now on, which this waits for. Pages count once, however
    /// often they are written; the guest has a page fault for each.
    ///
    /// # Errors
    /// [`RequestError::DirtyLogBusy`] while somebody else measures; the VM does not run, or the host refuses.
    pub fn dirty(&self, time: Duration) -> Result<BTreeMap<VnodeId, Written>, RequestError> {
        let _turn = match self.shared.dirty_log.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(RequestError::DirtyLogBusy),
        };
        let log = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            let found = link.as_ref().and_then(|link| link.vm.upgrade().zip(link.ram.upgrade()));
            drop(link);
            let (vm, ram) = found.ok_or_else(|| self.not_running())?;
            DirtyLog::start(&vm, &ram)?
        };
        std::thread::sleep(time);
        Ok(log.take().ok_or_else(|| self.not_running())??)
    }
}
