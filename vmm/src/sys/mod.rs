//! The only unsafe code: one system call or one KVM call each, behind safe types.
//! What to call them for is decided elsewhere.
#![expect(
    unsafe_code,
    reason = "system calls that no crate wraps, and guest memory that the guest writes too"
)]

mod errno;
mod mapping;
mod memslot;
mod pio;
mod thread;

pub use errno::HostError;
pub use mapping::{Advice, Backing, Mapping, Mode, NodeMask, PageStatus};
pub use memslot::{internal_suberror, set_memslot};
pub use pio::{Pio, pio_exit};
pub use thread::{block_signals, kick, prepare_kick};
