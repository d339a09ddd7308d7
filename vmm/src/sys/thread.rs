//! Signals: what threads block and what the process ignores. Which signals, and who takes them, is decided elsewhere.

use super::errno::HostError;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::io;

/// Blocks `signals` in this thread and those it starts.
pub fn block_signals(signals: &SigSet) -> Result<(), HostError> {
    signals.thread_block().map_err(|e| HostError::new("pthread_sigmask", e))
}

/// Starts a thread that takes no signals but those of its own faults: all others are for those who answer them.
pub fn spawn_without_signals(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    let mut signals = SigSet::all();
    let faults =
        [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGSYS];
    faults.into_iter().for_each(|fault| signals.remove(fault));
    // Before there is a thread that could take one.
    let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    before.thread_set_mask()?;
    thread
}

/// Whether the process ignores a signal, as `nohup` has it do, and shells what they start in the background of a script.
pub fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and what is there is written to a place that is large enough.
    let result = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are a valid action, and the call replaced them or failed.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
