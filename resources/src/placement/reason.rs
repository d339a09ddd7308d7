//! Why a vnode is placed where it is, and what differs from the request. The choice among sets of pnodes is explained
//! in `explain`.

use crate::ids::PnodeId;
use crate::set::{NodeSet, VcpuSet};
use crate::spec::PlacementPolicy;
use crate::units::Bytes;
use serde::Serialize;
use std::fmt;

/// Why a vnode lies where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// The user named the pnodes.
    Asked,
    /// Chosen for it.
    Chosen {
        /// By this rule.
        policy: PlacementPolicy,
        /// What was left there of what it takes, after the vnodes placed before.
        free: Free,
    },
    /// Its vCPUs are pinned to CPUs there.
    Pinned {
        /// What was left there of what it takes.
        free: Free,
    },
    /// No pnode has room for it, but several together have.
    Spread {
        /// Which were chosen by this rule.
        policy: PlacementPolicy,
    },
}

/// Room of the kind that a vnode takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Free {
    /// Ordinary memory.
    Memory(Bytes),
    /// Pages from a pool.
    HugePages(u64),
    /// CPUs that no vCPU has claimed, for a vnode without memory.
    Cpus(u64),
}

impl Free {
    /// The number, whatever its unit.
    pub fn amount(self) -> u64 {
        match self {
            Self::Memory(free) => free.get(),
            Self::HugePages(free) | Self::Cpus(free) => free,
        }
    }
}

impl fmt::Display for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(free) => write!(f, "{} free", free.human()),
            Self::HugePages(free) => write!(f, "{free} pages free"),
            Self::Cpus(free) => write!(f, "{free} CPUs free"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::Chosen { policy, free } => write!(f, "{policy} ({free})"),
            Self::Pinned { free } => write!(f, "its pins ({free})"),
            Self::Spread { policy } => write!(f, "{policy}, spread"),
        }
    }
}

/// A difference from the request that does not keep the VM from starting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "shortfall", rename_all = "kebab-case")]
pub enum Shortfall {
    /// `affinity=hard`, but there are not enough CPUs left for one each: the vCPUs share all CPUs of their pnodes.
    SharedCpus {
        /// vCPUs of the vnode.
        vcpus: usize,
        /// CPUs that no vCPU is pinned to.
        left: usize,
    },
    /// A vnode that named no pnode has more vCPUs than its pnodes have unclaimed CPUs.
    ClaimedCpus {
        /// vCPUs of the vnode.
        vcpus: usize,
        /// CPUs that no vCPU has claimed.
        left: u64,
    },
    /// No pnode has room for the whole vnode.
    Spread {
        /// Where it lies instead.
        pnodes: NodeSet,
    },
    /// vCPUs that were pinned have no CPU left of those: they run where the others of their vnode do.
    PinsLost {
        /// Which.
        vcpus: VcpuSet,
    },
    /// No pnode has room for its memory and its vCPUs.
    Apart {
        /// Where its memory lies.
        memory: NodeSet,
        /// Where its vCPUs run.
        cpus: NodeSet,
    },
    /// None of the pnodes has CPUs: the vCPUs run on the nearest that has.
    CpusElsewhere {
        /// Without CPUs.
        pnodes: NodeSet,
        /// Where they run.
        nearest: PnodeId,
    },
    /// `policy=preferred` and none of the pnodes has memory: the nearest that has holds it.
    MemoryElsewhere {
        /// Without memory.
        pnodes: NodeSet,
        /// Where it lies.
        nearest: PnodeId,
    },
    /// `policy=preferred` and the pnodes have less than was asked: the rest lies elsewhere.
    MemorySpills {
        /// The vnode's memory.
        memory: Bytes,
        /// What its pnodes have.
        available: Bytes,
    },
}

/// So many vCPUs that share.
fn sharing(vcpus: usize) -> (String, &'static str) {
    if vcpus == 1 { ("1 vCPU shares".to_owned(), "its") } else { (format!("{vcpus} vCPUs share"), "their") }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedCpus { vcpus, left } => {
                let (share, their) = sharing(*vcpus);
                write!(f, "its {share} the CPUs of {their} pnodes, which have only {left} unpinned CPUs")
            }
            Self::ClaimedCpus { vcpus, left } => {
                let (share, their) = sharing(*vcpus);
                write!(f, "its {share} CPUs, as {their} pnodes have only {left} unclaimed CPUs")
            }
            Self::Spread { pnodes } => {
                write!(f, "no pnode has room for all of it, so it is spread over pnode {pnodes}")
            }
            Self::PinsLost { vcpus } => write!(
                f,
                "vCPUs {vcpus} were pinned to CPUs that are no longer available, and use the affinity of their vnode"
            ),
            Self::Apart { memory, cpus } => {
                write!(
                    f,
                    "its memory is on pnode {memory} and its vCPUs run on pnode {cpus}, as no pnode has room for both"
                )
            }
            Self::CpusElsewhere { pnodes, nearest } => {
                write!(
                    f,
                    "its vCPUs run on pnode {nearest}, the nearest with CPUs, as pnode {pnodes} has none"
                )
            }
            Self::MemoryElsewhere { pnodes, nearest } => {
                write!(
                    f,
                    "its memory is on pnode {nearest}, the nearest with memory, as pnode {pnodes} has none"
                )
            }
            Self::MemorySpills { memory, available } => {
                let (memory, available) = (memory.human(), available.human());
                write!(f, "only {available} of {memory} fit on its pnodes, the rest goes to other pnodes")
            }
        }
    }
}
