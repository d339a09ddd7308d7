//! The console's state: output that nobody has taken yet.

use serde::{Deserialize, Serialize};

use super::backlog::{BACKLOG_BYTES, Backlog};
use crate::state::{HexBytes, State, StateError, ensure};

/// State of a [`Console`](super::Console). Who is attached, and what was typed and not read, is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleState {
    /// Output that nobody has taken, at most [`BACKLOG_BYTES`].
    pub backlog: HexBytes,
}

impl State for ConsoleState {
    const NAME: &'static str = "virtio-console";
    const VERSION: u32 = 1;
}

impl ConsoleState {
    pub(super) fn of(backlog: &Backlog) -> Self {
        Self { backlog: HexBytes(backlog.to_vec()) }
    }

    /// The backlog, if there can be so much.
    pub(super) fn backlog(&self) -> Result<Backlog, StateError> {
        let bytes = self.backlog.0.len();
        let rule = "must be at most 262144 bytes";
        ensure::<Self>(bytes <= BACKLOG_BYTES, "backlog", format_args!("{bytes} bytes"), rule)?;
        let mut backlog = Backlog::default();
        backlog.push(&self.backlog.0);
        Ok(backlog)
    }
}
