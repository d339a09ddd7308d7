//! Small files of a sysfs tree that may be anything: bounded reads, and an error that names path, value and rule.
//! Which files there are is `host::read`'s knowledge.

use crate::host::HostError;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::str::FromStr;

/// Most bytes of one file: the longest list that 8,192 CPUs (Linux's largest `NR_CPUS`) can need is 41 KiB, and a
/// row of distances of 1,024 nodes 4 KiB.
pub const MAX_FILE: u64 = 64 << 10;
/// Most entries of a directory that are looked at: architectures have at most a handful of huge page sizes.
pub const MAX_ENTRIES: usize = 64;

/// The text of a file, or `None` if there is no such file.
pub fn text(path: &Path) -> Result<Option<String>, HostError> {
    let failed = |source: std::io::Error| HostError::Io { path: path.to_owned(), error: source.to_string() };
    match std::fs::metadata(path) {
        // A pipe would block, and a device could do anything.
        Ok(metadata) if !metadata.is_file() => {
            return Err(refused(path, "something else", "must be a regular file"));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refused(path, "the file", "must not be larger than 64K"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(refused(path, "the file", "must be text")),
    }
}

/// The text of a file that has to be there.
pub fn required(path: &Path) -> Result<String, HostError> {
    text(path)?.ok_or_else(|| HostError::Missing { path: path.to_owned() })
}

/// A file with one value in it, or `None` if there is no such file.
pub fn value<T: FromStr>(path: &Path, rule: &'static str) -> Result<Option<T>, HostError> {
    text(path)?.map(|text| parse(path, text.trim(), rule)).transpose()
}

/// One value out of a file.
pub fn parse<T: FromStr>(path: &Path, text: &str, rule: &'static str) -> Result<T, HostError> {
    text.parse().map_err(|_| refused(path, text, rule))
}

/// The names in a directory, sorted; empty if there is no such directory.
pub fn names(path: &Path) -> Result<Vec<String>, HostError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(HostError::Io { path: path.to_owned(), error: error.to_string() }),
    };
    let mut names: Vec<String> = entries
        .take(MAX_ENTRIES)
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// A value that breaks a rule, shortened.
pub fn refused(path: &Path, value: &str, rule: &'static str) -> HostError {
    let shown: String = value.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    HostError::Value { path: path.to_owned(), value: shown, rule }
}
