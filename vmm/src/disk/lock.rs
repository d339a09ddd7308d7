//! Locks on disks, so that one that is written has one user. They belong to the open file (OFD locks) and end with the
//! last reference to it, however the process ends.

use crate::ofd_lock::whole;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// What a disk is, whatever it is called: where a file is, or which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A file: its file system and its number there.
    File(u64, u64),
    /// A block device's number.
    Device(u64),
}

impl Identity {
    /// That of an open file, or one that was looked at.
    pub fn of(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::Device(metadata.rdev()),
            false => Self::File(metadata.dev(), metadata.ino()),
        }
    }
}

/// Disks that this process has locked.
static OURS: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

fn ours() -> MutexGuard<'static, Vec<Identity>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process has a disk locked.
pub fn is_ours(identity: Identity) -> bool {
    ours().contains(&identity)
}

/// A file that is locked until this is dropped. The kernel's own references, such as those of operations that are just
/// done, may outlive ours for a moment; they do not keep the lock.
#[derive(Debug)]
pub struct LockedFile {
    file: Arc<File>,
    identity: Identity,
}

impl LockedFile {
    /// Locks all of `file`: shared if `read_only`, else alone. `None` if another open file, of this process or another,
    /// has a lock that conflicts.
    pub fn new(file: File, read_only: bool) -> io::Result<Option<Self>> {
        let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
        let identity = Identity::of(&file.metadata()?);
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(kind)?)) {
            Ok(_) => {
                ours().push(identity);
                Ok(Some(Self { file: Arc::new(file), identity }))
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        {
            let mut ours = ours();
            if let Some(at) = ours.iter().position(|ours| *ours == self.identity) {
                ours.swap_remove(at);
            }
        }
        let unlocked =
            whole(libc::F_UNLCK).and_then(|all| Ok(fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&all))?));
        if let Err(error) = unlocked {
            tracing::warn!(%error, "a disk stays locked until the kernel closes it");
        }
    }
}
