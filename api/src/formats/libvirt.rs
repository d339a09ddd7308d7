//! libvirt's domain XML: `xml` reads elements, `read` the domain, `numa` its cells, `interconnects` the HMAT values,
//! `tune` placement. Devices other than the first serial port are ignored.

mod interconnects;
mod numa;
mod read;
#[cfg(test)]
mod tests;
mod tune;
mod write;
mod xml;

pub use read::read;
pub use write::{allocation, write};
