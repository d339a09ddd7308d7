//! What the balloon asks of the host: whose a page is, and to take or give its memory. How the host does that is left
//! to `vmm`.

use super::pages::PageRun;

/// Where a page of the guest lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagePlace {
    /// On the vnode of this balloon.
    OnNode,
    /// On another vnode.
    OffNode,
    /// Not memory.
    Outside,
}

/// How far a [sweep](BalloonHost::sweep) came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Through all that is out.
    Whole,
    /// Through some of it, since arrays wait for it.
    Part,
}

/// Host effects of one balloon. Called from the device's worker thread; what vCPU threads call too, with the device
/// locked, says so and returns at once.
pub trait BalloonHost: Send + Sync {
    /// A driver came. With `tells_first` (MUST_TELL_HOST) no page that is out is touched before its buffer on the deflate
    /// queue is used; without, the driver may use any of them again at any time after its inflate buffer was used, so
    /// nothing may become of them afterwards (virtio 1.3, 5.5.6.1). Called by a vCPU thread, before all else.
    fn begin(&self, tells_first: bool) {
        let _ = tells_first;
    }

    /// Where page `pfn` lies. The same for the whole life of a VM. Called by vCPU threads too.
    fn place(&self, pfn: u32) -> PagePlace;

    /// The guest gave these pages up: their memory may go. Runs are ascending and apart. Comes before the driver
    /// learns that its buffer was used, so nobody writes there.
    fn take(&self, runs: &[PageRun]);

    /// All that was asked for is taken; more may be asked for later.
    fn settled(&self) {}

    /// Whether the host may get back by itself what is out and was [taken](Self::take), so that a sweep would help.
    fn is_torn(&self) -> bool {
        false
    }

    /// Some time has passed: what was [taken](Self::take) and the host has again for other reasons may go once more.
    fn sweep(&self) -> Sweep {
        Sweep::Whole
    }

    /// The guest wants these pages again; they were [taken](Self::take) before. Comes before the driver learns that its
    /// buffer was used. False if there is no memory for all of them now: the driver is kept waiting, and the same
    /// runs come again soon.
    fn give(&self, runs: &[PageRun]) -> bool;

    /// The guest says that these pages are free for now (free page reporting); it may use them at any time after the
    /// call. Those that are `poisoned` are to keep their content, others may become zeros (virtio 1.3, 5.5.6.7).
    fn reported(&self, runs: &[PageRun], poisoned: bool);

    /// A round of hints begins: what was hinted before counts no more.
    fn hinting(&self) {}

    /// The guest says that these pages were free when it looked (free page hinting). It may have them in use again before
    /// this call, so nothing may become of their content.
    fn hinted(&self, _runs: &[PageRun]) {}

    /// The driver is gone: every page is the guest's again, and it may touch any at once. Called by a vCPU thread.
    fn forget(&self);

    /// Whether the host has memory for all that was [forgotten](Self::forget). As long as it has not, the device is being
    /// reset and no driver can start it.
    fn is_ready(&self) -> bool {
        true
    }

    /// The VM is over: nothing is the guest's any more, and nothing has to be made ready.
    fn end(&self) {}
}
