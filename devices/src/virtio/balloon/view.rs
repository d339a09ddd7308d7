//! A balloon as it is now, for the controller and for people. Nothing here changes anything.

use super::stats::GuestStats;

/// Whether the guest will take the pages from the vnode: Linux allocates them on the CPU that the configuration
/// interrupt goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// There is no interrupt yet, or the guest has it masked.
    NoInterrupt,
    /// It goes to a CPU of the vnode.
    OnNode,
    /// It goes to another CPU, whose APIC ID this is: pages would come from there.
    OffNode(u32),
    /// The message names no single APIC ID (logical destination, or remapped).
    Unknown,
}

/// How a balloon stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonView {
    /// Counts the drivers that came: everything below begins anew with each.
    pub epoch: u64,
    /// A driver runs.
    pub active: bool,
    /// It runs and can be interrupted.
    pub ready: bool,
    /// It has read its target since it came. Linux looks once as it starts, on the CPU that loads it, and would take
    /// pages there.
    pub target_read: bool,
    /// Where the guest will take pages from.
    pub steering: Steering,
    /// Signs of life of the driver: arrays, and writes of `actual`, which Linux does after each round of work.
    pub heard: u64,
    /// Pages that the driver is asked to give (`num_pages`).
    pub asked: u32,
    /// Pages that the driver says it gave (`actual`).
    pub actual: u32,
    /// Pages that are out, on this vnode and others.
    pub held: u32,
    /// Those of other vnodes.
    pub off_node: u32,
    /// Those whose memory the host has.
    pub returned: u32,
    /// Those whose memory is being let go.
    pub letting_go: u32,
    /// `exact` turned the driver round at as many pages: the vnode has no more free memory.
    pub dry: Option<u32>,
    /// The driver waits with pages that it takes back: the host has no memory for them now.
    pub owing: bool,
    /// Rounds of hints that came to their end.
    pub hints: u64,
    /// Times that `exact` turned the driver round, since the VM started.
    pub rollbacks: u64,
    /// Pages that moved inside of the guest while they were out, since the VM started.
    pub migrations: u64,
    /// What the guest says of itself; empty unless this device asks it.
    pub guest: GuestStats,
}
