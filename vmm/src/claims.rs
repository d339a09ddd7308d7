//! What running VMs were promised of this host, kept in a directory that they share: a file for each, locked for the
//! life of its process. The lock is the truth and not the file: the kernel drops it however the process ends, and a
//! file that nobody has locked is nobody's. What a new VM gets beside them is decided in `resources`.
//!
//! Nothing here can be locked by whoever may not write it: locks are write locks of open files (`ofd_lock`), the
//! directory's own is a file that nobody else may open, and those who only look take none.
//!
//! A start goes through [`Claims::reserve`]: it is planned beside what others claim, and the plan is checked again once
//! the directory is locked. What running VMs have touched is measured before the host is looked at, so that memory that
//! is taken meanwhile counts twice and never not at all.

mod book;
mod directory;
mod error;
mod lock;
mod record;
mod reserve;
#[cfg(test)]
mod tests;
mod touched;

pub use book::{Book, Held, Living};
pub use error::ClaimsError;
pub use reserve::Planner;
pub use touched::{NumaStat, Touched};

use directory::Modes;
use lock::{Lock, PATIENCE};
use record::Others;
use resources::{Claim, Ledger};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory of a host's claims.
#[derive(Debug, Clone)]
pub struct Claims {
    root: PathBuf,
    procfs: PathBuf,
    modes: Modes,
}

/// The running VMs as they were, with what each had touched by then.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// By the names of their files.
    pub living: Vec<Living>,
}

impl Survey {
    /// What all of them were promised and have not touched.
    pub fn ledger(&self) -> Ledger {
        Living::ledger(&self.living)
    }
}

impl Claims {
    /// Where claims are when nothing else is said: `/run/numavisor` for root, else `numavisor` in the directory that
    /// `XDG_RUNTIME_DIR` names or in `/run/user/UID`, else `/tmp/numavisor-UID`.
    pub fn default_path() -> PathBuf {
        directory::default_path()
    }

    /// Opens the default directory, and makes it if it is not there. It must be this user's own, and nobody else may
    /// write there; `group` may read it.
    pub fn open_default(group: Option<u32>) -> Result<Self, ClaimsError> {
        let root = directory::default_path();
        let modes = directory::open_own(&root, group)?;
        Ok(Self { modes, ..Self::look(&root) })
    }

    /// Opens a directory that was named, and makes it if it is not there. Whoever may write there is trusted; `group` may
    /// read it.
    pub fn open(root: &Path, group: Option<u32>) -> Result<Self, ClaimsError> {
        let modes = directory::open_given(root, group)?;
        Ok(Self { modes, ..Self::look(root) })
    }

    /// The directory at a path, to look at what is claimed: nothing is made, and if it is not there nobody lives.
    pub fn look(root: &Path) -> Self {
        Self { root: root.to_owned(), procfs: touched::PROCFS.into(), modes: Modes::PRIVATE }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The running VMs, with what each has touched by now. Changes nothing and waits for nobody.
    pub fn survey(&self) -> Result<Survey, ClaimsError> {
        self.seen(Others::Ignore).map(|living| Survey { living })
    }

    /// The same, with a warning for each file that is no running VM's.
    pub fn living(&self) -> Result<Vec<Living>, ClaimsError> {
        self.seen(Others::Warn)
    }

    /// Locks the directory until the book is closed: nobody else claims meanwhile. Files of VMs that are gone are removed.
    pub fn lock(&self, survey: &Survey) -> Result<Book, ClaimsError> {
        self.lock_within(survey, PATIENCE)
    }

    /// The same, for those who would rather give up than wait for long.
    pub(crate) fn lock_within(&self, survey: &Survey, patience: Duration) -> Result<Book, ClaimsError> {
        let lock = Lock::wait(&self.root, self.modes.lock, patience)?;
        let living = record::read_all(&self.root, Others::Remove)?;
        Ok(Book::new(self.clone(), lock, living, survey))
    }

    /// What of its memory this process has touched by now.
    pub(crate) fn touched_here() -> Claim {
        touched::own(Path::new(touched::PROCFS)).has
    }

    /// Which reads what others have touched there.
    #[cfg(test)]
    pub(crate) fn with_procfs(self, procfs: PathBuf) -> Self {
        Self { procfs, ..self }
    }

    fn seen(&self, others: Others) -> Result<Vec<Living>, ClaimsError> {
        let mut living = match record::read_all(&self.root, others) {
            Err(ClaimsError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        living.iter_mut().for_each(|vm| vm.touched = touched::of(&self.procfs, vm.pid, vm.started));
        Ok(living)
    }
}
