//! Locks on disks, so that one that is written has one user. They belong to the open file (OFD locks) and end with the
//! last descriptor of it, however the process ends.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Locks all of `file` for as long as it is open: shared if `read_only`, else alone. False if another open file, of this
/// process or another, has a lock that conflicts.
pub fn lock(file: &File, read_only: bool) -> io::Result<bool> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    let all = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: 0,
        // To the end, wherever that comes to be.
        l_len: 0,
        // OFD locks have no owner process, and the kernel insists on 0.
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&all)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
