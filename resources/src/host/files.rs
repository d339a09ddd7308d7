//! Paths of a host's files, and bounded reads of untrusted files; errors name path, value and rule. `host::read`
//! knows which files there are.

use crate::host::HostError;
use crate::set::{IdSet, MAX_ID};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most bytes of one file: the longest list that 8,192 CPUs (Linux's largest `NR_CPUS`) can need is 41 KiB, and a
/// row of distances of 1,024 nodes 4 KiB.
pub const MAX_FILE: u64 = 64 << 10;
/// Most bytes of `/proc/zoneinfo`, which is not kept: some 160 for each CPU in each zone, so that 8,192 CPUs and 100
/// zones need half of it.
pub const MAX_ZONEINFO: u64 = 256 << 20;
/// Most bytes of a line of it: the longest lists one number per zone.
const MAX_LINE: u64 = 4 << 10;
/// Most entries of a directory: the CPUs of the largest kernels, their nodes, and some files.
pub const MAX_ENTRIES: usize = 10_000;

/// Where the files of a host are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoot {
    sysfs: PathBuf,
    procfs: PathBuf,
}

impl HostRoot {
    /// The host that this process runs on.
    pub fn this() -> Self {
        Self::of("/sys")
    }

    /// The host whose `/sys` is at `sysfs`. Its `/proc` is `proc` beside a directory called `sys`, as on the host itself,
    /// and `proc` in one of any other name. Files that are not there are made up for where they can be.
    pub fn of(sysfs: impl Into<PathBuf>) -> Self {
        let sysfs = sysfs.into();
        let procfs = match sysfs.file_name() {
            Some(name) if name == "sys" => sysfs.with_file_name("proc"),
            Some(_) | None => sysfs.join("proc"),
        };
        Self { sysfs, procfs }
    }

    /// The same with its `/proc` elsewhere.
    #[must_use]
    pub fn with_procfs(self, procfs: impl Into<PathBuf>) -> Self {
        Self { procfs: procfs.into(), ..self }
    }

    /// What is `/sys` on the host.
    pub fn sysfs(&self) -> &Path {
        &self.sysfs
    }

    /// What is `/proc` on the host.
    pub fn procfs(&self) -> &Path {
        &self.procfs
    }

    pub(super) fn nodes(&self) -> PathBuf {
        self.sysfs.join("devices/system/node")
    }

    pub(super) fn cpus(&self) -> PathBuf {
        self.sysfs.join("devices/system/cpu")
    }
}

fn io_error(path: &Path, error: &std::io::Error) -> HostError {
    HostError::Io { path: path.to_owned(), error: error.to_string() }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Opens a regular file, or `None` if there is no such file. A pipe would block, and opening a device can do anything:
/// these are not opened, and a pipe that took the file's place meanwhile does not block.
fn open(path: &Path) -> Result<Option<File>, HostError> {
    let no_file = || refused(path, "something else", "must be a regular file");
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(no_file()),
        Ok(_) => {}
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(io_error(path, &error)),
    }
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = opened.map_err(|error| io_error(path, &error))?;
    match file.metadata().map_err(|error| io_error(path, &error))?.is_file() {
        true => Ok(Some(file)),
        false => Err(no_file()),
    }
}

/// The text of a file without the blanks around it, or `None` if there is no such file. Copies of sysfs may be padded to
/// the 4,096 bytes that the kernel says its files have; these NUL bytes are blanks as well.
pub fn text(path: &Path) -> Result<Option<String>, HostError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| io_error(path, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refused(path, "the file", "must not be larger than 64K"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refused(path, "the file", "must be text"))?;
    Ok(Some(trimmed(text).to_owned()))
}

/// Gives each line of a file that may be large, without the blanks around it; whether there is such a file.
pub fn each_line(
    path: &Path,
    most: u64,
    mut line: impl FnMut(&str) -> Result<(), HostError>,
) -> Result<bool, HostError> {
    let Some(file) = open(path)? else { return Ok(false) };
    let mut left = BufReader::new(file.take(most));
    let mut bytes = Vec::new();
    let mut seen = 0;
    loop {
        bytes.clear();
        let mut bounded = Read::take(&mut left, MAX_LINE);
        let length = bounded.read_until(b'\n', &mut bytes).map_err(|error| io_error(path, &error))? as u64;
        seen += length;
        if length == 0 {
            return Ok(true);
        }
        if seen == most {
            return Err(refused(path, "the file", "must be smaller than 256M"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refused(path, "the file", "must be text"))?;
        // Padding has no end of line.
        if length == MAX_LINE && !trimmed(text).is_empty() {
            return Err(refused(path, trimmed(text), "must not be longer than 4K"));
        }
        line(trimmed(text))?;
    }
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
}

/// The text of a file that has to be there.
pub fn required(path: &Path) -> Result<String, HostError> {
    text(path)?.ok_or_else(|| HostError::Missing { path: path.to_owned() })
}

/// A file with one value in it, or `None` if there is no such file.
pub fn value<T: FromStr>(path: &Path, rule: &'static str) -> Result<Option<T>, HostError> {
    text(path)?.map(|text| parse(path, &text, rule)).transpose()
}

/// One value out of a file.
pub fn parse<T: FromStr>(path: &Path, text: &str, rule: &'static str) -> Result<T, HostError> {
    text.parse().map_err(|_| refused(path, text, rule))
}

/// The names in a directory, sorted; empty if there is no such directory.
pub fn names(path: &Path) -> Result<Vec<String>, HostError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => return Ok(vec![]),
        Err(error) => return Err(io_error(path, &error)),
    };
    let mut names = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count == MAX_ENTRIES {
            return Err(refused(path, "the directory", "must not have more than 10000 entries"));
        }
        let entry = entry.map_err(|error| io_error(path, &error))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// The numbers in the names of a directory that are `prefix` and a number, as `cpu0` and `cpu1` are.
pub fn numbered<T: Copy + From<u32> + Into<u32>>(path: &Path, prefix: &str) -> Result<IdSet<T>, HostError> {
    let number = |name: &String| {
        let digits = name.strip_prefix(prefix)?;
        let number = digits.parse::<u32>().ok().filter(|number| *number <= MAX_ID)?;
        (number.to_string() == digits).then(|| T::from(number))
    };
    Ok(names(path)?.iter().filter_map(number).collect())
}

/// A value that breaks a rule, shortened.
pub fn refused(path: &Path, value: &str, rule: &'static str) -> HostError {
    let shown: String = value.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    HostError::Value { path: path.to_owned(), value: shown, rule }
}
