//! The socket device as a guest uses it, with streams that are real socket pairs.

mod bench;
mod flow;
mod hostile;
mod life;
mod restore;

use bench::{Bench, Packet};
