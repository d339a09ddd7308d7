//! A memory barrier in all threads of this process at once, for those that are too busy to make one for each of their
//! steps. Who needs it is not its business.

use super::errno::HostError;
use std::io;
use std::sync::atomic::{Ordering, fence};

/// What any thread wrote before this is seen by this one after it, and what this one wrote before it is seen by any thread
/// after it (`membarrier(2)`, Linux 4.14).
pub fn barrier_of_all_threads() -> Result<(), HostError> {
    fence(Ordering::SeqCst);
    for command in [libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED] {
        // SAFETY: it takes no memory; what it does to other threads is only to order their accesses.
        if unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } != 0 {
            return Err(HostError::new("membarrier", io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_kernel_has_it() {
        super::barrier_of_all_threads().unwrap();
    }
}
