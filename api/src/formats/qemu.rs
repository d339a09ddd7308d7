//! QEMU's command line: `words` cuts it up, `options` reads what stands after an option, `read` knows the options, `numa`
//! those of `-numa`, `backend` memory backends, `memory_device` DIMMs and their like, `smp` the CPUs. Other devices than
//! these and the serial port are left out.

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
