//! What can be asked of a running VM, what it answers, and why it refuses.

use crate::balloon::{BalloonError, ReclaimOrder};
use crate::claims::ClaimsError;
use crate::jobs::JobId;
use crate::memory::Manner;
use crate::sys::HostError;
use resources::replacement::ReplacementError;
use resources::{Bytes, CpuSet, VcpuId, VnodeId, VnodePlacement};
use std::sync::mpsc;

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
    /// Tell the guest the length that a disk has now.
    ResizeDisk {
        /// Its number.
        disk: usize,
        /// Make it so long first; never shorter.
        size: Option<Bytes>,
    },
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
        manner: Manner,
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
    /// The disk has that many bytes for the guest.
    Resized(Bytes),
}

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not in this state.
    #[error("the VM is {state:?}, {needs}")]
    State {
        /// How it stands.
        state: VmState,
        /// How it should.
        needs: &'static str,
    },
    /// Another job is at it.
    #[error("vnode {vnode} is being moved by job {}", .job.0)]
    Busy {
        /// Which vnode.
        vnode: VnodeId,
        /// Which job.
        job: JobId,
    },
    /// One at a time.
    #[error("reclaim {0} is at it")]
    Reclaiming(u64),
    /// Nothing was asked for.
    #[error("bytes: 0 is nothing, must be 1 or more")]
    NothingAsked,
    /// No such disk.
    #[error("disk {0}: does not exist")]
    NoSuchDisk(usize),
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
    /// The host cannot be looked at.
    #[error("{0}")]
    Look(String),
    /// So many vCPUs did not stop in time; all run on.
    #[error("{0} vCPUs did not stop in time, the VM runs on")]
    NotStopped(usize),
    /// The loop did not answer.
    #[error("the VM did not answer in time")]
    NoAnswer,
}

pub(crate) type Reply = mpsc::SyncSender<Result<Answer, RequestError>>;
