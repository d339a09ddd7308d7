//! From bytes that a vnode should keep to pages that should be out, with the guards that keep a wrong number from
//! killing the guest.

use devices::virtio::balloon::PAGE_BYTES;
use resources::{Bytes, Diagnosis, ErrorKind, Vnode, VnodeId};
use std::time::Duration;

/// Least floor: what a Linux kernel and its init need on a node.
const FLOOR_LEAST: Bytes = Bytes::mib(64);
/// A larger vnode keeps this part of its memory; Linux's own watermarks leave it about a 25th.
const FLOOR_PART: u64 = 16;

/// Why a vnode cannot have a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BalloonError {
    /// No such vnode.
    #[error("vnode {0}: does not exist")]
    NoSuchVnode(VnodeId),
    /// It has none.
    #[error("vnode {0}: has no memory")]
    NoMemory(VnodeId),
    /// More than it has.
    #[error("vnode {vnode}: {bytes} is more than its memory of {memory}")]
    AboveMemory {
        /// Which vnode.
        vnode: VnodeId,
        /// As asked.
        bytes: Bytes,
        /// All it has.
        memory: Bytes,
    },
    /// Less than it needs.
    #[error("vnode {vnode}: {bytes} is below its floor of {floor}")]
    BelowFloor {
        /// Which vnode.
        vnode: VnodeId,
        /// As asked.
        bytes: Bytes,
        /// The least.
        floor: Bytes,
    },
}

impl BalloonError {
    /// What kind of failure it is, its stable code, and the field that is to blame.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::NoSuchVnode(_) => Diagnosis::new(ErrorKind::NotFound, self.code()),
            Self::NoMemory(_) | Self::AboveMemory { .. } | Self::BelowFloor { .. } => {
                Diagnosis::new(ErrorKind::Invalid, self.code()).at("target")
            }
        }
    }

    /// A name that does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchVnode(_) => "no_such_vnode",
            Self::NoMemory(_) => "vnode_without_memory",
            Self::AboveMemory { .. } => "above_memory",
            Self::BelowFloor { .. } => "below_floor",
        }
    }
}

/// Why it is not known what a guest has free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// The VM is paused.
    #[error("the guest must be running to report its free memory")]
    Paused,
    /// Nobody hints.
    #[error("the guest has no balloon driver with free page hinting")]
    NoDriver,
    /// It began, perhaps.
    #[error("the guest did not report its free memory within {0:?}")]
    Late(Duration),
}

impl HintError {
    /// What kind of failure it is, and its stable code.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Paused | Self::NoDriver | Self::Late(_) => Diagnosis::new(ErrorKind::Conflict, self.code()),
        }
    }

    /// A name that does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Paused => "vm_not_running",
            Self::NoDriver => "no_driver",
            Self::Late(_) => "unresponsive",
        }
    }
}

/// The least that a vnode of `memory` is left with: a 16th of it, at least 64 MiB, but no more than half of it.
pub fn floor(memory: Bytes) -> Bytes {
    Bytes(memory.get() / FLOOR_PART).max(FLOOR_LEAST).min(Bytes(memory.get() / 2))
}

/// Pages that have to be out for `vnode` to keep `keep`.
pub fn pages_out(vnode: &Vnode, keep: Bytes) -> Result<u32, BalloonError> {
    let (id, memory) = (vnode.id, vnode.memory);
    if memory == Bytes::ZERO {
        return Err(BalloonError::NoMemory(id));
    }
    if keep > memory {
        return Err(BalloonError::AboveMemory { vnode: id, bytes: keep, memory });
    }
    let floor = floor(memory);
    if keep < floor {
        return Err(BalloonError::BelowFloor { vnode: id, bytes: keep, floor });
    }
    // All memory lies below 16 TiB, so the number of its pages fits.
    Ok(u32::try_from((memory.get() - keep.get()) / PAGE_BYTES).unwrap_or(u32::MAX))
}

/// Bytes of pages.
pub fn bytes(pages: u32) -> Bytes {
    Bytes(u64::from(pages) * PAGE_BYTES)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{BalloonError, floor, pages_out};
    use resources::{Bytes, VmSpec, VmTopology, Vnode, VnodeSpec};

    pub(in crate::balloon) fn vnode() -> Vnode {
        let vcpus = "0".parse().ok();
        let vnode = VnodeSpec { memory: Some(Bytes::gib(1)), vcpus, ..VnodeSpec::new(0) };
        let spec = VmSpec { numa: vec![vnode], ..VmSpec::default() };
        VmTopology::try_from(&spec).unwrap().vnodes()[0].clone()
    }

    #[test]
    fn the_floor_is_a_16th_but_at_least_64_mib_and_at_most_half() {
        let floors = [Bytes::mib(64), Bytes::mib(512), Bytes::gib(1), Bytes::gib(64)].map(floor);
        assert_eq!(floors, [Bytes::mib(32), Bytes::mib(64), Bytes::mib(64), Bytes::gib(4)]);
    }

    #[test]
    fn a_target_lies_between_floor_and_memory() {
        let vnode = &vnode();
        assert_eq!(pages_out(vnode, Bytes::gib(1)), Ok(0));
        assert_eq!(pages_out(vnode, Bytes::mib(768)), Ok(65_536));
        // What is kept is never less than asked.
        assert_eq!(pages_out(vnode, Bytes(Bytes::gib(1).get() - 4097)), Ok(1));
        assert_eq!(
            pages_out(vnode, Bytes::mib(63)).unwrap_err().to_string(),
            "vnode 0: 63M is below its floor of 64M"
        );
        assert!(matches!(pages_out(vnode, Bytes::gib(2)), Err(BalloonError::AboveMemory { .. })));
    }
}
