//! The file of one VM's claim: how it is written, and how all are read. Nothing in the directory is trusted to be what
//! its name says: reads are bounded, links are not followed, and what cannot be read is ignored with a warning.

use crate::claims::directory::{Wanted, plain};
use crate::claims::error::failed;
use crate::claims::{ClaimsError, Living};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use resources::Claim;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// How names of claims end.
pub const SUFFIX: &str = ".claim";
/// How names end of claims that are being written, by somebody who has the directory to himself.
pub const UNFINISHED: &str = ".claim.new";
/// Most bytes of a claim: 1,024 pnodes with everything need less.
const MAX_RECORD: u64 = 1 << 20;
/// Most files that are looked at: no host has as many VMs.
const MAX_FILES: usize = 1 << 16;

/// What is in a file. Fields may be added; `version` changes if one changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1.
    pub version: u32,
    /// The process that has the lock.
    pub pid: u32,
    /// When it started, in clock ticks since the host did: so that another process with its number is not taken for it.
    pub started: u64,
    /// By pnode what it was promised.
    pub claim: Claim,
}

/// Whether what is ignored is told: whoever looks twice tells once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// With a warning.
    Yes,
    /// Silently.
    No,
}

impl Tell {
    fn warn(self, path: &Path, why: &str) {
        match self {
            Self::Yes => tracing::warn!("claims: {}: ignored, {why}", path.display()),
            Self::No => {}
        }
    }
}

/// All living VMs, by the names of their files. Removes the files of the others if the directory is locked for that.
pub fn read_all(root: &Path, wanted: Wanted, tell: Tell) -> Result<Vec<Living>, ClaimsError> {
    let entries = fs::read_dir(root).map_err(failed(root, "opendir"))?;
    let names = entries.take(MAX_FILES).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let mut living = Vec::new();
    for name in names {
        let path = root.join(&name);
        if name.ends_with(SUFFIX) {
            match read(&path) {
                Found::Alive(Record { pid, started, claim, .. }) => {
                    living.push(Living { name, pid, started, claim, touched: None });
                }
                Found::Dead => {
                    tell.warn(&path, "its process is gone");
                    remove(&path, wanted);
                }
                Found::Unreadable(why) => tell.warn(&path, &why),
                Found::Gone => {}
            }
        } else if name.ends_with(UNFINISHED) {
            // Whoever wrote it did not live to finish it, for here nobody else writes.
            remove(&path, wanted);
        }
    }
    Ok(living)
}

fn remove(path: &Path, wanted: Wanted) {
    match wanted {
        Wanted::Shared => {}
        // If it stays it is ignored again.
        Wanted::Alone => drop(fs::remove_file(path)),
    }
}

enum Found {
    Alive(Record),
    Dead,
    Unreadable(String),
    Gone,
}

fn read(path: &Path) -> Found {
    let file = match plain().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Found::Gone,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    match file.metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Found::Unreadable("not a regular file".to_owned()),
        Err(error) => return Found::Unreadable(error.to_string()),
    }
    // Shared, so that others who look meanwhile do not take this for the owner's lock.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Found::Dead,
        Err((file, Errno::EWOULDBLOCK)) => match parse(file) {
            Ok(record) => Found::Alive(record),
            Err(error) => Found::Unreadable(error.to_string()),
        },
        Err((_, error)) => Found::Unreadable(error.to_string()),
    }
}

fn parse(file: File) -> io::Result<Record> {
    let mut bytes = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut bytes)?;
    let wrong = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    if bytes.len() as u64 > MAX_RECORD {
        return Err(wrong(format!("larger than {MAX_RECORD} bytes")));
    }
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    match record.version {
        1 => Ok(record),
        version => Err(wrong(format!("version {version}, must be 1"))),
    }
}
