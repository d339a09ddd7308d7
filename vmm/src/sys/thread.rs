//! Signals between threads: how a vCPU thread is got out of KVM_RUN.

use super::errno::HostError;
use nix::sys::pthread::{Pthread, pthread_kill};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signal that gets a vCPU thread out of KVM_RUN. SIGUSR1: real-time signals have no type in `nix`.
pub fn kick_signal() -> Signal {
    Signal::SIGUSR1
}

extern "C" fn ignore(_: libc::c_int) {}

/// Makes the kick signal interrupt system calls and do nothing else. Call once, before the first vCPU thread.
pub fn prepare_kick() -> Result<(), HostError> {
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe in any context.
    unsafe { sigaction(kick_signal(), &action) }.map(drop).map_err(|e| HostError::new("sigaction", e))
}

/// Interrupts one thread; false when it has ended.
pub fn kick(thread: Pthread) -> bool {
    pthread_kill(thread, kick_signal()).is_ok()
}

/// Blocks `signals` in this thread and those it starts.
pub fn block_signals(signals: &SigSet) -> Result<(), HostError> {
    signals.thread_block().map_err(|e| HostError::new("pthread_sigmask", e))
}
