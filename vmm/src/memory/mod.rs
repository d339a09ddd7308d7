//! Guest memory: a mapping or two per vnode, each under its policy before anything touches it.
//! Where a vnode lies was decided in `resources`; the calls themselves are in `sys`.

mod policy;
mod prefault;
mod ram;

pub use prefault::{PrefaultError, Progress, pin_this_thread, prefault};
pub use ram::{GuestRam, RamError, RamRegion};
