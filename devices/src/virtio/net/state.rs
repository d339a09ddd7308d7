//! The network device's state: what its driver asked of it on the control queue, and frames that wait for buffers. What
//! adapts to the load (how many frames a round takes, when it rests) begins anew; the link is the host's.

use serde::{Deserialize, Serialize};

use super::features::switchable;
use super::tap::{HEADER_BYTES, MAX_FRAME_BYTES};
use crate::state::{HexBytes, State, StateError, ensure};

/// Most bytes of a frame that waits: what lay in the driver's buffers, and in the worker's own room.
const MAX_WAITING_BYTES: usize = 2 * MAX_FRAME_BYTES;

/// State of a [`Net`](super::Net).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// There while a driver runs the device.
    pub driver: Option<NetDriverState>,
}

/// What a network device does for its driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetDriverState {
    /// Pairs of queues in use.
    pub queue_pairs: u16,
    /// The driver's offloads that are on, as feature bits.
    pub offloads: u64,
    /// The receive queues, in use or not.
    pub receive: Vec<ReceiveState>,
}

/// State of a receive queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveState {
    /// A frame that waits for buffers, with its header; empty if none does.
    pub frame: HexBytes,
    /// Most chains that the driver had ready at once: with more than half of them a frame does not wait.
    pub most_chains: u16,
}

impl State for NetState {
    const NAME: &'static str = "virtio-net";
    const VERSION: u32 = 1;
}

impl NetDriverState {
    /// Whether a worker for these features, with so many pairs, can be so.
    pub(super) fn check(&self, features: u64, pairs: usize) -> Result<(), StateError> {
        let Self { queue_pairs, offloads, receive } = self;
        ensure::<NetState>(
            (1..=pairs).contains(&usize::from(*queue_pairs)),
            "driver.queue_pairs",
            queue_pairs,
            "must be at least 1, and no more than the driver has set up",
        )?;
        ensure::<NetState>(
            offloads & !switchable(features) == 0,
            "driver.offloads",
            format_args!("{offloads:#x}"),
            "must be offloads that the driver has negotiated",
        )?;
        let rule = "must be the queues that the driver has set up";
        ensure::<NetState>(receive.len() == pairs, "driver.receive", receive.len(), rule)?;
        for (number, ReceiveState { frame, .. }) in receive.iter().enumerate() {
            let bytes = frame.0.len();
            ensure::<NetState>(
                bytes == 0 || (HEADER_BYTES..=MAX_WAITING_BYTES).contains(&bytes),
                format!("driver.receive[{number}].frame"),
                format_args!("{bytes} bytes"),
                "must be a frame with its header, or nothing",
            )?;
        }
        Ok(())
    }
}
