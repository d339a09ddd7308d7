//! QEMU's command line: `words` splits it, `options` parses the value of an option, `read` interprets the options,
//! `numa` those of `-numa`, `backend` memory backends, `memory_device` DIMMs and the like, `smp` the CPUs. Devices
//! other than these and the serial port are ignored.

mod backend;
mod hmat;
mod memory_device;
mod numa;
mod options;
mod read;
mod smp;
#[cfg(test)]
mod tests;
mod words;
mod write;

pub use read::read;
pub use write::{packages, write};
