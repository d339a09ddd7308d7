//! Everything that drives the `numavisor` binary from outside: the lab, the guest images, the boot tests and `xtask`.
//!
//! Three thin binaries share this library: `xtask` (runs where the developer is), `lab-runner` (runs the boot tests
//! on a NUMA host, which may be an emulated L1) and `guest-init` (process 1 of a test guest). What the boot tests
//! check is in `boot_tests`; how a NUMA host with KVM is come by is in `lab`; neither knows the other.

mod boot_tests;
mod guest;
mod image;
mod lab;
mod qmp;
mod rangelist;
mod runner;
mod sys;
mod xtask;

pub use guest::guest_init_main;
pub use runner::lab_runner_main;
pub use xtask::xtask_main;
