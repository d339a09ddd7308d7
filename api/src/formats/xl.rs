//! Xen's xl.cfg(5): `syntax` reads settings, `read` interprets them, `vnuma` the virtual nodes. Devices are ignored.

mod read;
mod syntax;
#[cfg(test)]
mod tests;
mod vnuma;
mod write;

pub use read::read;
pub use write::write;
