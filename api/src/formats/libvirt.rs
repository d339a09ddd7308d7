//! libvirt's domain XML: `xml` reads elements, `read` knows the domain, `numa` its cells, `interconnects` what HMAT tells,
//! `tune` where things lie. Devices other than the first serial port are left out.

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
