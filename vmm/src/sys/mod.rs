//! The only unsafe code: one system call or one KVM call each, behind safe types.
//! What to call them for is decided elsewhere.
#![expect(
    unsafe_code,
    reason = "system calls that no crate wraps, and guest memory that the guest writes too"
)]

mod affinity;
mod aligned;
mod barrier;
mod crash;
mod errno;
mod guest_vm;
mod inherited;
mod kick;
mod lease;
mod mapping;
mod nodes;
mod pio;
mod poll;
mod pvec;
mod pvec_device;
mod tap;
mod thread;
mod uring;

pub use affinity::{affinity, kernel_cpus, pin_this_thread, set_affinity};
pub use barrier::barrier_of_all_threads;
pub use crash::restore_terminal_at_a_crash;
pub use errno::HostError;
pub use guest_vm::{GuestVcpu, GuestVm};
pub use inherited::inherited_fd;
pub use kick::{ImmediateExit, accept_kicks, interrupt, prepare_kicks};
pub use lease::is_open_for_writing;
pub use mapping::{Advice, Backing, Mapping, PageStatus};
pub use nodes::{Mode, NodeMask};
pub use pio::{Pio, pio_exit};
pub use poll::wait_readable;
pub use pvec::IoVec;
pub use pvec_device::{BlockFigure, block_figure, direct_alignment, discard_blocks};
pub use tap::{Link, TapQueue, read_pieces};
pub use thread::{block_signals, is_ignored, spawn_without_signals};
pub use uring::{Landed, Ring, RingOperation};
