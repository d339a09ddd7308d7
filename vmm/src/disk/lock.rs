//! Locks on disks, so that one that is written has one writer. They belong to the open file (OFD locks) and end with the
//! last reference to it, however the process ends. A disk that is only read has none: whoever may read it could have that
//! lock too, and keep its writer out. What to do about the locks of others is `open`'s decision.

use crate::ofd_lock::{is_write_locked, whole};
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

/// Disks that this process writes.
static OURS: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

fn ours() -> MutexGuard<'static, Vec<Identity>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process writes a disk.
pub fn is_ours(identity: Identity) -> bool {
    ours().contains(&identity)
}

/// Why a file is not locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// An open file, of this process or another, has it locked for writing, for which one must be able to write it.
    Written,
    /// Others have nothing but read locks, for which reading is enough.
    Read,
}

/// A file to read, or one to write that is locked until this is dropped. The kernel's own references, such as those of
/// operations that are just done, may outlive ours for a moment; they do not keep the lock.
#[derive(Debug)]
pub struct LockedFile {
    file: Arc<File>,
    /// Of one that is written.
    written: Option<Identity>,
}

impl LockedFile {
    /// Locks all of `file`, if it is to be written; else only looks whether another writes it.
    pub fn new(file: File, read_only: bool) -> io::Result<Result<Self, Taken>> {
        if read_only {
            let taken = is_write_locked(&file)?;
            let file = Self { file: Arc::new(file), written: None };
            return Ok(if taken { Err(Taken::Written) } else { Ok(file) });
        }
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)?)) {
            Ok(_) => Self::unlocked(file).map(Ok),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                Ok(Err(if is_write_locked(&file)? { Taken::Written } else { Taken::Read }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One to write that has no lock, as others' read locks do not let it have one.
    pub fn unlocked(file: File) -> io::Result<Self> {
        let identity = Identity::of(&file.metadata()?);
        ours().push(identity);
        Ok(Self { file: Arc::new(file), written: Some(identity) })
    }

    /// How [`new`](Self::new) would find a file taken, without taking it.
    pub fn would_find(file: &File, read_only: bool) -> io::Result<Option<Taken>> {
        if is_write_locked(file)? {
            return Ok(Some(Taken::Written));
        }
        if read_only {
            return Ok(None);
        }
        let mut lock = whole(libc::F_WRLCK)?;
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok((libc::c_int::from(lock.l_type) != libc::F_UNLCK).then_some(Taken::Read))
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        let Some(identity) = self.written else { return };
        {
            let mut ours = ours();
            if let Some(at) = ours.iter().position(|ours| *ours == identity) {
                ours.swap_remove(at);
            }
        }
        let unlocked =
            whole(libc::F_UNLCK).and_then(|all| Ok(fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&all))?));
        if let Err(error) = unlocked {
            tracing::warn!(%error, "cannot unlock a disk, it stays locked until closed");
        }
    }
}
