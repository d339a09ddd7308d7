//! Guest memory: a mapping or two per vnode, each under its policy before anything touches it.
//! Where a vnode lies was decided in `resources`; the calls themselves are in `sys`.

mod dirty;
mod dirty_log;
mod moves;
mod parts;
mod policy;
mod prefault;
mod ram;
mod residency;
mod shift;

pub use dirty::FilledByKernel;
pub use dirty_log::{DirtyLog, Written};
pub use moves::{MemoryMove, MigrationMode, MoveOutcome, MoveProgress, Moved, move_memory};
#[cfg(test)]
pub use moves::{Pages, move_regions};
pub use prefault::{PrefaultError, Progress, prefault};
pub use ram::{GuestRam, RamError, RamRegion};
pub use residency::Residency;
pub use shift::{bring_home, shift};
