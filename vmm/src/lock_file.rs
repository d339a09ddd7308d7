//! A file that exists to be locked: made if it is missing, never open to more than its mode says, and only a lock while
//! it still has its name. How long to wait for it, and for what it stands, is its users' business.

use crate::ofd_lock::WriteLock;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Who may open the file: for a lock that must be so for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAccess {
    /// The mode.
    pub mode: u32,
    /// The group, if not the process's.
    pub group: Option<u32>,
}

/// A locked file, until this is dropped.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: WriteLock,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Attempt {
    /// It is locked now.
    Locked(LockFile),
    /// Somebody else has it locked.
    Busy(File),
    /// Somebody removed it meanwhile: to be tried again.
    Gone,
}

/// A plain file that is not followed through a link and that does not block, whatever it is.
pub fn plain() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).mode(0o600);
    options
}

impl FileAccess {
    /// Sets group and mode of a file that was just made; nothing where that is what [`plain`] makes.
    pub fn apply(self, file: &File) -> io::Result<()> {
        if let Some(group) = self.group {
            fchown(file, None, Some(group))?;
        }
        // Not before the group is right.
        if self.mode != 0o600 { file.set_permissions(Permissions::from_mode(self.mode)) } else { Ok(()) }
    }
}

impl LockFile {
    /// Locks the file at `path` if nobody else has it, without waiting.
    ///
    /// # Errors
    /// It cannot be opened for writing, or it is no plain file.
    pub fn attempt(path: &Path, access: FileAccess) -> io::Result<Attempt> {
        let file = match plain().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => match make(path, access) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Attempt::Gone),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        match WriteLock::attempt(file)? {
            Err(file) => Ok(Attempt::Busy(file)),
            // A lock on a file that somebody has removed meanwhile excludes nobody.
            Ok(file) if is_at(&file, path) => Ok(Attempt::Locked(Self { path: path.to_owned(), file })),
            Ok(_) => Ok(Attempt::Gone),
        }
    }

    /// The file, to leave word in it for those who wait.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes the file while it is still locked: whoever waits for it sees that it has gone, and makes another. One that has
    /// something in it was somebody else's, and stays.
    pub fn remove(self) {
        if self.file.metadata().is_ok_and(|found| found.len() == 0) {
            // If it stays, the next one uses it.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn make(path: &Path, access: FileAccess) -> io::Result<File> {
    let file = plain().read(true).write(true).create_new(true).open(path)?;
    access.apply(&file)?;
    Ok(file)
}

/// Whether an open file still has the name that it was opened by.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(found)) => open.ino() == found.ino() && open.dev() == found.dev(),
        _ => false,
    }
}
