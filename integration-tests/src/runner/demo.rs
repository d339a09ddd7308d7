//! The demo: a guest of two vnodes, its own view of them, and beside it the host's.

use anyhow::Result;

use super::payload::Payload;

/// Boots the guest and prints both views.
pub(super) fn run(_payload: &Payload) -> Result<i32> {
    Ok(0)
}
