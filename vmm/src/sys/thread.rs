//! Signal masks of threads. Which signals, and who takes them, is decided elsewhere.

use super::errno::HostError;
use nix::sys::signal::SigSet;

/// Blocks `signals` in this thread and those it starts.
pub fn block_signals(signals: &SigSet) -> Result<(), HostError> {
    signals.thread_block().map_err(|e| HostError::new("pthread_sigmask", e))
}
