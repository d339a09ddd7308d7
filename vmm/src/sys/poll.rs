//! Waiting for descriptors, for so long and no longer. What they say is others' knowledge.

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

/// Waits until one of `fds` is readable; returns earlier when a signal or other work for this thread comes.
pub fn wait_readable(fds: &[RawFd], most: Duration) {
    let poll_fd = |fd: &RawFd| {
        // SAFETY: borrowed for the call below only, and callers keep what they wait for open.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        PollFd::new(fd, PollFlags::POLLIN)
    };
    let mut fds: Vec<PollFd> = fds.iter().map(poll_fd).collect();
    // Whatever it says, callers look for themselves.
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None);
}
