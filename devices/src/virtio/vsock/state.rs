//! The socket device's state: there is none beyond its queues, since connections do not survive a restore.

use serde::{Deserialize, Serialize};

use crate::state::State;

/// State of a [`Socket`](super::Socket). The context id is the host's choice. A device that a driver used before tells it
/// after a restore that all connections are gone, with `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {}

impl State for VsockState {
    const NAME: &'static str = "virtio-vsock";
    const VERSION: u32 = 1;
}
