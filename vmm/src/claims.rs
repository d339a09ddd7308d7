//! What living VMs were promised of this host, kept in a directory that they share: a file for each, locked for the
//! life of its process. The lock is the truth and not the file: the kernel drops it however the process ends, and a
//! file that nobody locks is nobody's. What a new VM gets beside them is decided in `resources`.
//!
//! A start goes [`Claims::survey`], [`Claims::lock`], a look at the host, a plan beside [`Book::ledger`],
//! [`Book::claim`]: from the lock to the claim no other start decides anything. What living VMs have touched is
//! measured before the lock is taken and before the host is looked at, so that memory that is taken meanwhile counts
//! twice and never not at all; and measuring takes time that nobody should wait for.

mod book;
mod directory;
mod error;
pub(crate) mod own;
mod record;
#[cfg(test)]
mod tests;
mod touched;

pub use book::{Book, Held, Living};
pub use error::ClaimsError;
pub use touched::{NumaStat, Touched};

use directory::Wanted;
use record::Tell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory of a host's claims.
#[derive(Debug, Clone)]
pub struct Claims {
    root: PathBuf,
}

/// What each living VM had touched when it was asked; by the name of its file.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    touched: BTreeMap<String, Touched>,
}

impl Claims {
    /// Where claims are when nothing else is said: `/run/numavisor` for root, else `numavisor` in the directory that
    /// `XDG_RUNTIME_DIR` names, else `/tmp/numavisor-UID`.
    pub fn default_path() -> PathBuf {
        directory::default_path()
    }

    /// Opens the default directory, and makes it if it is not there. It must be this user's own, and nobody else may
    /// write there.
    pub fn open_default() -> Result<Self, ClaimsError> {
        directory::open_own(directory::default_path()).map(|root| Self { root })
    }

    /// Opens a directory that was named, and makes it if it is not there. Whoever may write there is trusted.
    pub fn open(root: &Path) -> Result<Self, ClaimsError> {
        directory::open_given(root).map(|root| Self { root })
    }

    /// The directory at a path, to look at what is claimed: nothing is made, and if it is not there nobody lives.
    pub fn look(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Asks what each living VM has touched by now.
    pub fn survey(&self) -> Result<Survey, ClaimsError> {
        let living = self.list(Wanted::Shared, Tell::No)?.living;
        let touched = |vm: &Living| Some((vm.name.clone(), touched::of(vm.pid, vm.started)?));
        Ok(Survey { touched: living.iter().filter_map(touched).collect() })
    }

    /// The living VMs, with what they have touched. Changes nothing.
    pub fn living(&self) -> Result<Vec<Living>, ClaimsError> {
        let survey = self.survey()?;
        let mut living = self.list(Wanted::Shared, Tell::Yes)?.living;
        living.iter_mut().for_each(|vm| vm.touched = survey.touched.get(&vm.name).cloned());
        Ok(living)
    }

    /// Locks the directory until the book is closed: nobody else decides meanwhile. Files of VMs that are gone are
    /// removed.
    pub fn lock(&self, survey: Survey) -> Result<Book, ClaimsError> {
        let mut book = self.list(Wanted::Alone, Tell::Yes)?;
        book.living.iter_mut().for_each(|vm| vm.touched = survey.touched.get(&vm.name).cloned());
        Ok(book)
    }

    fn list(&self, wanted: Wanted, tell: Tell) -> Result<Book, ClaimsError> {
        let lock = directory::lock(&self.root, wanted)?;
        let living = if lock.is_some() { record::read_all(&self.root, wanted, tell)? } else { Vec::new() };
        Ok(Book::new(self.root.clone(), lock, living))
    }
}
