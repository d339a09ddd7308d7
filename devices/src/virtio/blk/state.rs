//! The block device's state. Its requests in flight have ended before it is saved.

use serde::{Deserialize, Serialize};

use crate::state::State;

/// State of a [`Blk`](super::Blk). The disk's length is the disk's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlkState {
    /// What the driver has written to `writeback`, if it has.
    pub writeback: Option<bool>,
}

impl State for BlkState {
    const NAME: &'static str = "virtio-blk";
    const VERSION: u32 = 1;
}
