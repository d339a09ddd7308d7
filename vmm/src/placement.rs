//! Where a VM's vnodes are, for its whole life, in one place: the pnodes of their policies, the CPUs of their threads, and
//! what they claim. What others see of it is derived. Every change is a transaction: its steps are undone if one fails, and
//! what cannot be undone is read back from the kernel. Deciding on a place is done in `resources`, moving pages in `memory`.
//!
//! Who wants a change takes a [`Turn`], claims room and asks the control loop; the control loop, which alone has the threads,
//! moves them and notes where they are; then the claim goes down. So the control loop never waits for a file.

mod claim;
#[cfg(test)]
mod claim_tests;
mod moved;
mod owner;
#[cfg(test)]
mod simulation;
mod threads;

pub use claim::{Made, Seen, Turn, bytes_of, memory_of};
pub use moved::MoveEnd;
pub use owner::PlacementOwner;
pub use threads::{HostThreads, ThreadsLeftBehind};
