//! How other threads look at a running VM and ask it for things. The control loop decides; nothing here changes a VM
//! by itself.

mod dirty;
mod moves;
mod net_link;
mod request;
mod resize;
mod shared;
mod view;

pub use moves::Look;
pub(crate) use request::Reply;
pub use request::{Answer, Request, RequestError};
pub(crate) use resize::DiskSize;
pub(crate) use shared::{Link, Shared};
pub use view::{DeviceView, DiskFull, Observer, VcpuView, VmState, VmView};

use crate::balloon::{self, HintError, ReclaimView, VnodeMemory};
use crate::board::BoardCounters;
use crate::cpu::ExitCounters;
use crate::inbox::Event;
use crate::jobs::{JobId, JobView, MoveCounts};
use crate::memory::Residency;
use crate::pci::DeviceHandle;
use crate::sys::HostError;
use request::Outcome;
use resources::{Bytes, Plan, VcpuId, VnodeId};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The control loop answers within microseconds; past this it is stuck and the caller should know.
const ANSWER: Duration = Duration::from_secs(5);
/// A VM from outside. Cheap to clone; outlives the VM.
#[derive(Clone)]
pub struct VmHandle {
    shared: Arc<Shared>,
    patience: Duration,
}

impl VmHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, patience: ANSWER }
    }

    /// Which waits so long for others to take up what it asks.
    #[cfg(test)]
    pub(crate) fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// What was decided before the start. Where vnodes are since is in [`view`](Self::view).
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// The state of the VM and where its memory and vCPUs are. Does not wait for the control loop.
    pub fn view(&self) -> VmView {
        self.shared.view()
    }

    /// Where the pages of a vnode lie, asked from the kernel now; `None` unless the VM runs. Takes about a second for
    /// 40 GiB.
    pub fn residency(&self, vnode: VnodeId) -> Option<Result<Residency, HostError>> {
        let ram = {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            link.as_ref()?.ram.upgrade()?
        };
        Some(Residency::measure(&ram, vnode))
    }

    /// The virtio devices and what they count; none unless the VM runs.
    pub fn devices(&self) -> Vec<DeviceView> {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = link.as_ref() else { return Vec::new() };
        link.devices.iter().map(DeviceHandle::view).collect()
    }

    /// What went wrong on the board since the VM started; `None` unless it runs.
    pub fn board(&self) -> Option<Arc<BoardCounters>> {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map(|link| Arc::clone(&link.board))
    }

    /// Why each vCPU left the guest how often, since the VM started; nothing unless it runs.
    pub fn exits(&self) -> Vec<(VcpuId, Arc<ExitCounters>)> {
        let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().map(|link| link.exits.clone()).unwrap_or_default()
    }

    /// The memory of each vnode that has a balloon, how its last target stands, and what its device counts; none unless
    /// the VM runs.
    pub fn memory(&self) -> Vec<VnodeMemory> {
        let balloons = Arc::clone(&self.shared.balloons.lock().unwrap_or_else(PoisonError::into_inner));
        balloons.iter().inspect(|entry| entry.refresh()).map(balloon::Entry::view).collect()
    }

    /// What the guest has free of each vnode, as it says when asked; takes as long as the guest does.
    ///
    /// # Errors
    /// The VM is paused, there is no driver that says it, or it takes too long.
    pub fn free_memory(&self) -> Result<Vec<(VnodeId, Bytes)>, HintError> {
        if self.shared.state() == VmState::Paused {
            return Err(HintError::Paused);
        }
        let balloons = Arc::clone(&self.shared.balloons.lock().unwrap_or_else(PoisonError::into_inner));
        balloon::free_memory(&balloons)
    }

    /// The order by pnode that is under way, or the last that was.
    pub fn reclaim(&self) -> Option<ReclaimView> {
        self.shared.reclaimer.view()
    }

    /// Asks it to end; what was had is kept. False when none runs.
    pub fn cancel_reclaim(&self) -> bool {
        self.shared.reclaimer.cancel()
    }

    /// Asks the control loop and waits for its answer, which is a matter of microseconds but for a pause.
    ///
    /// # Errors
    /// [`RequestError::NoAnswer`] for a request that was not taken up in time, and will not be.
    pub fn ask(&self, request: Request) -> Result<Answer, RequestError> {
        let (reply, waiter) = request::request();
        {
            let link = self.shared.link.lock().unwrap_or_else(PoisonError::into_inner);
            let state = self.shared.state();
            match (&*link, &request) {
                (Some(link), _) => link.notifier.send(Event::Request(request, reply)),
                (None, Request::Stop) if state == VmState::Starting => {
                    self.shared.abandoned.store(true, Ordering::Release);
                    return Ok(Answer::Done);
                }
                (None, _) => return Err(self.not_running()),
            }
        }
        match waiter.wait(self.patience) {
            Outcome::Answered(answer) => answer,
            Outcome::GivenUp => Err(RequestError::NoAnswer),
            // The loop has taken it, and waits for nothing.
            Outcome::Taken(answer) => answer.recv().unwrap_or_else(|_| Err(self.not_running())),
            Outcome::Gone => Err(self.not_running()),
        }
    }

    fn not_running(&self) -> RequestError {
        RequestError::State { state: self.shared.state(), needs: "it must run" }
    }

    /// What moves of a vnode have done so far.
    pub fn move_counts(&self, vnode: VnodeId) -> MoveCounts {
        self.shared.jobs.counts(vnode)
    }

    /// All jobs that are remembered, oldest first.
    pub fn jobs(&self) -> Vec<JobView> {
        self.shared.jobs.views()
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<JobView> {
        self.shared.jobs.view(id)
    }

    /// Asks a job to end after the chunk it is at; false when it is not running.
    pub fn cancel(&self, id: JobId) -> bool {
        self.shared.jobs.cancel(id)
    }
}
