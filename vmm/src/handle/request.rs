//! What can be asked of a running VM, what it answers, and why it refuses.

use crate::balloon::{BalloonError, ReclaimOrder};
use crate::claims::ClaimsError;
use crate::diagnosis::of_call;
use crate::jobs::JobId;
use crate::memory::MigrationMode;
use crate::sys::HostError;
use devices::virtio::blk::BlkError;
use resources::replacement::ReplacementError;
use resources::{Bytes, CpuSet, Diagnosis, ErrorKind, VcpuId, VnodeId, VnodePlacement};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::VmState;

/// What can be asked of the control loop.
#[derive(Debug)]
pub enum Request {
    /// Stop the vCPUs until further notice.
    Pause,
    /// Let them run again.
    Resume,
    /// Press the power button.
    PowerButton,
    /// End the VM now, also while it starts.
    Stop,
    /// Reset the guest.
    Reset,
    /// Change where a vCPU may run.
    Affinity(VcpuId, CpuSet),
    /// Send a vnode's threads to the CPUs of a place made for the placement of now; its memory stays.
    Rehome(Box<VnodePlacement>),
    /// Change how much memory a vnode keeps. How that goes on is in `VmHandle::memory`.
    MemoryTarget {
        /// Which vnode.
        vnode: VnodeId,
        /// What it keeps.
        keep: Bytes,
        /// Not a page may leave another vnode.
        exact: bool,
    },
    /// Get memory of a pnode back, or give it again. How that goes on is in `VmHandle::reclaim`.
    Reclaim(ReclaimOrder),
    /// Move vnodes.
    Move {
        /// Where to; made for the placement of now.
        to: Vec<VnodePlacement>,
        /// In which way, if they are several.
        mode: MigrationMode,
        /// Bytes per second.
        bandwidth: Option<Bytes>,
    },
}

/// What the control loop answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// A job does it; where several do, the first of them: their numbers follow each other.
    Started(JobId),
}

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not in this state.
    #[error("the VM is {state:?}, {needs}")]
    State {
        /// The current state.
        state: VmState,
        /// How it should.
        needs: &'static str,
    },
    /// Another job moves it.
    #[error("vnode {vnode} is being moved by job {}", .job.0)]
    Busy {
        /// Which vnode.
        vnode: VnodeId,
        /// Which job.
        job: JobId,
    },
    /// Another request changes where vnodes are.
    #[error("another request is changing the placement of this VM, try again")]
    PlacementBusy,
    /// One at a time.
    #[error("the dirty rate is being measured, try again")]
    DirtyLogBusy,
    /// One at a time.
    #[error("reclaim {0} is in progress")]
    Reclaiming(u64),
    /// Nothing was asked for.
    #[error("bytes: 0 is too small, must be at least 1")]
    NothingAsked,
    /// No such disk.
    #[error("disk {0}: does not exist")]
    NoSuchDisk(usize),
    /// No such network interface.
    #[error("network interface {0}: does not exist")]
    NoSuchNet(usize),
    /// The disk's new length cannot be told.
    #[error(transparent)]
    Disk(#[from] devices::virtio::blk::BlkError),
    /// No such vCPU.
    #[error("vCPU {0}: does not exist")]
    NoSuchVcpu(VcpuId),
    /// The vnode cannot have that target.
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// The vnode cannot go there.
    #[error(transparent)]
    Replacement(#[from] ReplacementError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What other VMs were promised cannot be known, or changed.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The host cannot be looked at: why, as whoever looks says it.
    #[error("{0}")]
    Look(String, Diagnosis),
    /// So many vCPUs did not stop in time; all run on.
    #[error("{0} vCPUs did not stop in time, the VM keeps running")]
    NotStopped(usize),
    /// So many threads of devices still had requests in flight; all run on.
    #[error("the requests of {0} devices did not complete in time, the VM keeps running")]
    DevicesNotHeld(usize),
    /// It was not taken up in time, and will not be.
    #[error("the VM did not respond in time, nothing was done")]
    NoAnswer,
    /// The disk is being resized already.
    #[error("disk {0}: a resize is in progress")]
    Resizing(usize),
    /// The host's storage takes its time.
    #[error("disk {0}: the storage does not respond, the resize may still take effect")]
    StorageHangs(usize),
}

impl RequestError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::State { .. } => Diagnosis::new(ErrorKind::Conflict, "vm_not_running"),
            Self::Busy { .. } => Diagnosis::new(ErrorKind::Conflict, "vnode_busy"),
            Self::PlacementBusy => Diagnosis::new(ErrorKind::Transient, "placement_busy"),
            Self::DirtyLogBusy => Diagnosis::new(ErrorKind::Transient, "dirty_log_busy"),
            Self::Reclaiming(_) => Diagnosis::new(ErrorKind::Conflict, "reclaim_busy"),
            Self::NothingAsked => Diagnosis::new(ErrorKind::Invalid, "nothing_asked").at("bytes"),
            Self::NoSuchDisk(_) => Diagnosis::new(ErrorKind::NotFound, "no_such_disk"),
            Self::NoSuchNet(_) => Diagnosis::new(ErrorKind::NotFound, "no_such_net"),
            Self::Disk(error) => match error {
                BlkError::Size { .. } => Diagnosis::new(ErrorKind::Invalid, "disk_size").at("size"),
                BlkError::Serial(_) | BlkError::Queues(_) => Diagnosis::new(ErrorKind::Invalid, "device"),
                BlkError::Length { source, .. } => of_call(source),
                BlkError::Grow { source, .. } => of_call(source).at("size"),
                BlkError::Interrupt { .. } => Diagnosis::new(ErrorKind::Host, "host_refused"),
            },
            Self::NoSuchVcpu(_) => Diagnosis::new(ErrorKind::NotFound, "no_such_vcpu"),
            Self::Balloon(error) => error.diagnosis(),
            Self::Replacement(error) => error.diagnosis(),
            Self::Host(error) => error.diagnosis(),
            Self::Claims(error) => error.diagnosis(),
            Self::Look(_, diagnosis) => diagnosis.clone(),
            Self::NotStopped(_) | Self::DevicesNotHeld(_) => {
                Diagnosis::new(ErrorKind::Transient, "not_stopped")
            }
            Self::NoAnswer => Diagnosis::new(ErrorKind::Transient, "no_answer"),
            Self::Resizing(_) => Diagnosis::new(ErrorKind::Conflict, "disk_busy"),
            Self::StorageHangs(_) => Diagnosis::new(ErrorKind::Transient, "storage_hangs"),
        }
    }
}

/// Where a request stands: each is carried out by whoever takes it, or given up by whoever waits, and never both.
const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// For who carries a request out.
#[derive(Debug)]
pub(crate) struct Reply<T = Answer> {
    state: Arc<AtomicU8>,
    sender: mpsc::SyncSender<Result<T, RequestError>>,
}

/// For who waits for the answer.
pub(crate) struct Waiter<T = Answer> {
    state: Arc<AtomicU8>,
    answer: mpsc::Receiver<Result<T, RequestError>>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome<T = Answer> {
    /// It was answered.
    Answered(Result<T, RequestError>),
    /// It was given up, and never will be carried out.
    GivenUp,
    /// It was taken, and is not answered yet.
    Taken(mpsc::Receiver<Result<T, RequestError>>),
    /// Who should have taken it is gone.
    Gone,
}

/// Both ends of a request.
pub(crate) fn request<T>() -> (Reply<T>, Waiter<T>) {
    let (sender, answer) = mpsc::sync_channel(1);
    let state = Arc::new(AtomicU8::new(WAITING));
    (Reply { state: Arc::clone(&state), sender }, Waiter { state, answer })
}

fn becomes(state: &AtomicU8, then: u8) -> bool {
    state.compare_exchange(WAITING, then, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl<T> Reply<T> {
    /// Whether the request is to be carried out: not if it was given up. Asked once, just before.
    pub fn take(&self) -> bool {
        becomes(&self.state, TAKEN)
    }

    /// Who asked may have gone away.
    pub fn send(&self, answer: Result<T, RequestError>) {
        let _ = self.sender.try_send(answer);
    }
}

impl<T> Waiter<T> {
    /// Waits for the answer, and gives the request up if nobody took it for so long.
    pub fn wait(self, within: Duration) -> Outcome<T> {
        match self.answer.recv_timeout(within) {
            Ok(answer) => Outcome::Answered(answer),
            Err(mpsc::RecvTimeoutError::Disconnected) => Outcome::Gone,
            Err(mpsc::RecvTimeoutError::Timeout) if becomes(&self.state, GIVEN_UP) => Outcome::GivenUp,
            Err(mpsc::RecvTimeoutError::Timeout) => Outcome::Taken(self.answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Outcome, request};
    use std::time::Duration;

    #[test]
    fn a_request_is_taken_or_given_up_and_never_both() {
        let (reply, waiter) = request::<Answer>();
        assert!(matches!(waiter.wait(Duration::ZERO), Outcome::GivenUp));
        assert!(!reply.take());

        let (reply, waiter) = request();
        assert!(reply.take());
        let Outcome::Taken(answer) = waiter.wait(Duration::ZERO) else { panic!("it was taken") };
        reply.send(Ok(Answer::Done));
        assert!(matches!(answer.recv(), Ok(Ok(Answer::Done))));

        let (reply, waiter) = request();
        assert!(reply.take());
        reply.send(Ok(Answer::Done));
        assert!(matches!(waiter.wait(Duration::ZERO), Outcome::Answered(Ok(Answer::Done))));

        let (reply, waiter) = request::<Answer>();
        drop(reply);
        assert!(matches!(waiter.wait(Duration::from_secs(60)), Outcome::Gone));
    }
}
