//! A descriptor that whoever started this process left open for it, such as a socket of systemd's.

use super::errno::HostError;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const FIRST: i32 = 3;

/// A duplicate of the first inherited descriptor (3); neither is left to children. Whether it is what was expected is for
/// the caller to see: if none was passed, 3 may be one that this process opened, whose owner keeps it.
pub fn inherited_fd() -> Result<OwnedFd, HostError> {
    let refused = |errno| HostError::new("fcntl", errno).of("inherited descriptor 3");
    // SAFETY: it is only asked for a duplicate and told to close in children; one that is not open is EBADF.
    let inherited = unsafe { BorrowedFd::borrow_raw(FIRST) };
    let duplicate = fcntl(inherited, FcntlArg::F_DUPFD_CLOEXEC(FIRST)).map_err(refused)?;
    // SAFETY: the kernel has just made it for this call.
    let duplicate = unsafe { OwnedFd::from_raw_fd(duplicate) };
    fcntl(inherited, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(refused)?;
    Ok(duplicate)
}
