//! The host side of PCI functions: their vectors, their doorbells and the threads that run them.
//! What a function does is modelled in `devices`.

mod doorbells;
mod vectors;
mod worker;

pub use doorbells::Doorbells;
pub use vectors::Vectors;
pub use worker::NodeSpawner;
