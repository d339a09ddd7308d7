//! PCI Express functions behind a host bridge of their own per segment, with MSI-X as their only interrupts.
//! Where segments and their windows lie is `resources`' arithmetic; announcing them is `acpi`'s work.

mod host;

pub use host::{IoEvents, MsixVectors, WorkerHandle, WorkerSpawner};
