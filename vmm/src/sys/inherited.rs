//! A descriptor that whoever started this process left open for it, such as a socket of systemd's.

use super::errno::HostError;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const FIRST: i32 = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The first inherited descriptor (3), from now on this process's own and closed in its children. Once per process, and
/// before anything else opens descriptors, or it is not the inherited one.
pub fn take_inherited_fd() -> Result<OwnedFd, HostError> {
    let refused = |errno| HostError::new("fcntl", errno).of("inherited descriptor 3");
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(refused(nix::Error::EBADF));
    }
    // SAFETY: the descriptor is only asked for its flags; one that is not open is answered with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(refused)?;
    // SAFETY: it is open, and `TAKEN` sees to it that it is owned once; nothing in this process opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}
