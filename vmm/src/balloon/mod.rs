//! Memory back from a guest, vnode by vnode: a balloon device behind each vnode's host bridge, a controller for each,
//! and the host's side of what they give. What a driver may do to a balloon is modelled in `devices`.

mod attach;
mod blocks;
mod board;
mod claimer;
#[cfg(test)]
mod claimer_tests;
mod clock;
mod controller;
mod host;
#[cfg(test)]
mod host_tests;
mod keeper;
mod leases;
mod outcome;
mod reclaim;
#[cfg(test)]
mod reclaim_tests;
mod reclaimer;
mod returns;
#[cfg(test)]
mod simulation;
mod target;
mod watch;

pub(crate) use attach::{AllCounters, attach};
pub(crate) use board::{Entry, Held, Tell, free_memory};
pub(crate) use claimer::{
    Before, Claimer, Context as ClaimerContext, NotClaimed, advise, claim_back, look, release,
};
pub(crate) use controller::Ask;
pub(crate) use keeper::Keeper;
pub(crate) use leases::Leases;
pub(crate) use reclaimer::{Home, Reclaimer, Release};
pub(crate) use target::pages_out;

pub use board::VnodeMemory;
pub use claimer::HostShort;
pub use outcome::{Outcome, Phase, Stop};
pub use reclaim::{ReclaimKind, ReclaimOrder, ReclaimPart, ReclaimStop, ReclaimTally};
pub use reclaimer::{ReclaimState, ReclaimView};
pub use target::{BalloonError, HintError};
