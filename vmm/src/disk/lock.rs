//! Locks on disks, so that one that is written has one user. They belong to the open file (OFD locks) and end with the
//! last reference to it, however the process ends.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// A file that is locked until this is dropped. The kernel's own references, such as those of operations that are just
/// done, may outlive ours for a moment; they do not keep the lock.
#[derive(Debug)]
pub struct LockedFile(Arc<File>);

impl LockedFile {
    /// Locks all of `file`: shared if `read_only`, else alone. `None` if another open file, of this process or another,
    /// has a lock that conflicts.
    pub fn new(file: File, read_only: bool) -> io::Result<Option<Self>> {
        let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(kind)?)) {
            Ok(_) => Ok(Some(Self(Arc::new(file)))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        let unlocked = whole(libc::F_UNLCK).and_then(|all| Ok(fcntl(&*self.0, FcntlArg::F_OFD_SETLK(&all))?));
        if let Err(error) = unlocked {
            tracing::warn!(%error, "a disk stays locked until the kernel closes it");
        }
    }
}

/// A lock on everything, wherever the end comes to be.
fn whole(kind: libc::c_int) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: 0,
        l_len: 0,
        // OFD locks have no owner process, and the kernel insists on 0.
        l_pid: 0,
    })
}
