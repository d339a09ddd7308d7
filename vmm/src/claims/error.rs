//! Why there are no claims: always with the path.

use crate::diagnosis::of_call;
use resources::{Diagnosis, ErrorKind};
use std::io;
use std::path::PathBuf;

/// Why claims cannot be read or made. None of these is about what is in a single VM's file: those are ignored.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// A call on the directory or on a file of ours.
    #[error("claims: {}: {call}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The call.
        call: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A directory that others could have made, or could write to.
    #[error("claims: {}: {why}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody keeps the directory locked.
    #[error("claims: {}: still locked by {} after {seconds} s", path.display(), who(*holder))]
    Busy {
        /// The lock.
        path: PathBuf,
        /// The process that has it, where that is known.
        holder: Option<u32>,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl ClaimsError {
    /// What kind of failure it is, and its stable code.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Io { source, .. } => match of_call(source).kind {
                ErrorKind::Forbidden => Diagnosis::new(ErrorKind::Forbidden, "claims_forbidden"),
                ErrorKind::NoRoom => Diagnosis::new(ErrorKind::NoRoom, "claims_no_room"),
                _ => Diagnosis::new(ErrorKind::Host, "claims_unusable"),
            },
            Self::Unsafe { .. } => Diagnosis::new(ErrorKind::Host, "claims_unsafe"),
            Self::Busy { .. } => Diagnosis::new(ErrorKind::Transient, "claims_busy"),
        }
    }
}

/// The process that has a lock, in words.
pub fn who(holder: Option<u32>) -> String {
    holder.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

/// An error with its path and call.
pub fn failed(path: impl Into<PathBuf>, call: &'static str) -> impl FnOnce(io::Error) -> ClaimsError {
    let path = path.into();
    move |source| ClaimsError::Io { path, call, source }
}
