//! The network device as drivers use it, with an interface that misbehaves.

mod bench;
mod control;
mod hostile;
mod receive;
mod restore;
mod transmit;

pub(super) use super::test_tap::{FakeTap, Reply, frame};
pub(super) use bench::Bench;
