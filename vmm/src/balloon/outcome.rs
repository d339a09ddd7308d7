//! How a request for memory stands and how it ended, in words that do not change between versions.

use std::time::Duration;

/// What a vnode's balloon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Where it should be.
    Idle,
    /// The guest gives pages.
    Inflating,
    /// The guest takes pages back.
    Deflating,
    /// The guest had fewer than were wanted, or needed them back.
    Exhausted,
    /// The guest's driver does nothing.
    Unresponsive,
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is as asked.
    Reached,
    /// `exact`, and the vnode has no more free memory: the guest began to take pages of another vnode.
    Dry,
    /// The guest has no more free memory anywhere.
    Exhausted,
    /// The guest took pages back because it was out of memory; it is asked again later.
    Drained,
    /// Another request took its place.
    Replaced,
    /// The driver shows no sign of life.
    Unresponsive,
    /// The guest takes pages back and waits: the pool that they are of has none free on the vnode's pnodes. It goes on
    /// when there are some.
    HostShort,
    /// Taking by pnode: pages of a pool go as a whole, and nobody can give all of one.
    WholePages,
    /// No driver runs. The target holds for one that comes.
    NoDriver,
    /// The guest would take the pages from the CPU with this APIC ID, which is not of the vnode. So it always is for a
    /// vnode without vCPUs.
    OffNode(u32),
}

impl Stop {
    /// A name that does not change between versions.
    pub fn code(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Dry => "dry",
            Self::Exhausted => "exhausted",
            Self::Drained => "drained",
            Self::Replaced => "replaced",
            Self::Unresponsive => "unresponsive",
            Self::HostShort => "host_short",
            Self::WholePages => "whole_pages",
            Self::NoDriver => "no_driver",
            Self::OffNode(_) => "off_node",
        }
    }
}

/// How a request ended. Pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Pages that were out when it began.
    pub from: u32,
    /// Pages that were to be out.
    pub wanted: u32,
    /// Without a page of another vnode.
    pub exact: bool,
    /// Pages that are out.
    pub reached: u32,
    /// Those of other vnodes.
    pub off_node: u32,
    /// Why it ended.
    pub stop: Stop,
    /// How long it took.
    pub took: Duration,
}
