//! Raw files and block devices as disks: opened, locked, and read and written for a guest through io_uring, or by helper
//! threads where the kernel forbids that. What a guest may ask of a disk is `devices`' model.

mod engine;
mod error;
mod format;
mod full;
mod helpers;
mod lock;
mod open;
mod shape;
mod transfer;
mod write_order;

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod hang_tests;
#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod transfer_tests;

pub use error::DiskError;
pub use lock::Identity;
pub use open::{DiskOptions, RawDisk};
