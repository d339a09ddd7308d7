//! The file of one VM's claim: how it is written, and how all are read. Nothing in the directory is trusted to be what
//! its name says: reads are bounded, links are not followed, and what cannot be read is ignored with a warning.

use crate::claims::error::failed;
use crate::claims::{ClaimsError, Living};
use crate::lock_file::{is_at, plain};
use crate::ofd_lock::is_write_locked;
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
/// How often a directory, or a file in it, is read again that changes while it is read. Without the directory's lock it may.
const READS: usize = 8;

/// What is in a file. Fields may be added; `version` changes if one changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1.
    pub version: u32,
    /// The process that has it locked.
    pub pid: u32,
    /// When it started, in clock ticks since the host did: so that another process with its number is not taken for it.
    pub started: u64,
    /// By pnode what it was promised.
    pub claim: Claim,
    /// What it was promised once more than that and released, for others to have.
    #[serde(default, skip_serializing_if = "Claim::is_empty")]
    pub released: Claim,
}

/// What is done with files that are no living VM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are passed over: whoever reads twice warns once.
    Ignore,
    /// There is a warning.
    Warn,
    /// There is a warning, and those that are left behind are removed: for those who have locked the directory.
    Remove,
}

impl Others {
    fn warn(self, path: &Path, why: &str) {
        match self {
            Self::Ignore => {}
            Self::Warn | Self::Remove => tracing::warn!("claims: {}: ignored, {why}", path.display()),
        }
    }

    fn remove(self, path: &Path) {
        match self {
            Self::Ignore | Self::Warn => {}
            // If it stays it is ignored again.
            Self::Remove => drop(fs::remove_file(path)),
        }
    }
}

/// All running VMs, by the names of their files.
pub fn read_all(root: &Path, others: Others) -> Result<Vec<Living>, ClaimsError> {
    let names = match others {
        Others::Remove => names(root),
        Others::Ignore | Others::Warn => settled_names(root),
    };
    let mut living = Vec::new();
    for name in names.map_err(failed(root, "opendir"))? {
        let path = root.join(&name);
        if name.ends_with(SUFFIX) {
            match read(&path) {
                Found::Alive(Record { pid, started, claim, released, .. }) => {
                    living.push(Living { name, pid, started, claim, released, touched: None });
                }
                Found::Dead => {
                    others.warn(&path, "its process is gone");
                    others.remove(&path);
                }
                // Somebody lives there, and nothing may be given away twice.
                Found::Closed(error) if others == Others::Remove => return Err(failed(path, "open")(error)),
                Found::Closed(error) => others.warn(&path, &error.to_string()),
                Found::Unreadable(why) => others.warn(&path, &why),
                Found::Gone => {}
            }
        } else if name.ends_with(UNFINISHED) {
            // Whoever wrote it did not live to finish it, for while the directory is locked nobody else writes.
            others.remove(&path);
        }
    }
    Ok(living)
}

fn names(root: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(root)?.take(MAX_FILES).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// The names while others may write: a file that is replaced just now can be missing from one listing, so two have to agree.
fn settled_names(root: &Path) -> io::Result<Vec<String>> {
    let mut before = names(root)?;
    for _ in 1..READS {
        let now = names(root)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(before)
}

enum Found {
    Alive(Record),
    Dead,
    Unreadable(String),
    /// It is another user's who lets nobody read it.
    Closed(io::Error),
    Gone,
}

fn read(path: &Path) -> Found {
    for _ in 0..READS {
        let file = match plain().read(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Found::Gone,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Found::Closed(error),
            Err(error) => return Found::Unreadable(error.to_string()),
        };
        match file.metadata() {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Found::Unreadable("not a regular file".to_owned()),
            Err(error) => return Found::Unreadable(error.to_string()),
        }
        match is_write_locked(&file) {
            Ok(true) => {
                let parsed = parse(file);
                return parsed.map_or_else(|error| Found::Unreadable(error.to_string()), Found::Alive);
            }
            // Its owner unlocks a file only once another has its name.
            Ok(false) if is_at(&file, path) => return Found::Dead,
            Ok(false) => {}
            Err(error) => return Found::Unreadable(error.to_string()),
        }
    }
    Found::Unreadable("it keeps changing".to_owned())
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
