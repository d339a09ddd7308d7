//! Write locks on whole files that belong to the open file (OFD locks, fcntl(2)): the kernel drops them with its last
//! descriptor, however the process ends. Taking one needs a descriptor that may write, so whoever may only read a file
//! can neither take this lock nor seem to have it. What the locks mean is their users' business.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::ops::Deref;

/// A file that is locked for writing until this is dropped, whatever else still has its descriptor: a child that has not
/// called execve(2) yet, or an operation that is just done.
#[derive(Debug)]
pub struct WriteLock(File);

impl WriteLock {
    /// Locks all of `file`, without waiting; gives it back if another open file has any lock on it.
    pub fn attempt(file: File) -> io::Result<Result<Self, File>> {
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)?)) {
            Ok(_) => Ok(Ok(Self(file))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(Err(file)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Deref for WriteLock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        let unlocked = whole(libc::F_UNLCK).and_then(|all| Ok(fcntl(&self.0, FcntlArg::F_OFD_SETLK(&all))?));
        if let Err(error) = unlocked {
            tracing::warn!(%error, "cannot unlock a file, it stays locked until closed");
        }
    }
}

/// Whether another open file has `file` locked for writing. Takes no lock, and read locks count for nothing.
pub fn is_write_locked(file: &File) -> io::Result<bool> {
    let mut found = whole(libc::F_RDLCK)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(libc::c_int::from(found.l_type) != libc::F_UNLCK)
}

/// A lock on everything, wherever the end comes to be.
pub fn whole(kind: libc::c_int) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: 0,
        l_len: 0,
        // OFD locks have no owner process, and the kernel insists on 0.
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::{WriteLock, is_write_locked, whole};
    use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
    use std::fs::File;

    #[test]
    fn readers_can_neither_lock_nor_look_like_the_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let owner = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let read_lock = |kind| fcntl(&reader, FcntlArg::F_OFD_SETLK(&whole(kind).unwrap()));
        let _flock = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(WriteLock::attempt(File::open(&path).unwrap()).is_err(), "a descriptor that cannot write");
        read_lock(libc::F_RDLCK).unwrap();
        assert!(!is_write_locked(&owner).unwrap(), "a read lock or flock(2) looks like the owner's lock");
        read_lock(libc::F_UNLCK).unwrap();
        let lock = WriteLock::attempt(owner).unwrap().unwrap();
        assert!(is_write_locked(&reader).unwrap());
        assert!(read_lock(libc::F_RDLCK).is_err());
        assert!(WriteLock::attempt(File::create(&path).unwrap()).unwrap().is_err());
        drop(lock);
        assert!(!is_write_locked(&reader).unwrap());
    }
}
