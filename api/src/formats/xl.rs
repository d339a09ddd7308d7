//! Xen's xl.cfg(5): `syntax` reads settings, `read` knows their meaning, `vnuma` that of the virtual nodes. Devices are
//! left out.

mod read;
mod syntax;
#[cfg(test)]
mod tests;
mod vnuma;
mod write;

pub use read::read;
pub use write::write;
