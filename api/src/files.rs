//! Files that a command itself reads and writes: bounded reads, and text on standard output.

use crate::exit::{Failure, Status};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// The text of a file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    read_from(File::open(path)?, most)
}

/// The text of at most `most` bytes that is left to read.
pub fn read_from(from: impl Read, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("must not be larger than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "must be UTF-8 text"))
}

/// Writes a text to standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Status::Done.into()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Status::Done.into()),
        Err(error) => Err(Failure::new(Status::Internal, format_args!("standard output: {error}"))),
    }
}

/// Writes a text to a file, or to standard output where there is none.
pub fn put(path: Option<&Path>, text: &str) -> Result<ExitCode, Failure> {
    let Some(path) = path else { return print(text) };
    match std::fs::write(path, text) {
        Ok(()) => Ok(Status::Done.into()),
        Err(error) => Err(Failure::input(format_args!("--out: {}: {error}", path.display()))),
    }
}
