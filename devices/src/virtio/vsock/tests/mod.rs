//! The socket device as a guest uses it, with streams that are real socket pairs.

mod bench;
mod flow;
mod hostile;
mod life;

use bench::{Bench, Packet};
