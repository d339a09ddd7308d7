//! Whether files could be made or appended to, asked of the kernel without opening anything. What they are for is the
//! caller's business.

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use std::io;
use std::path::Path;

/// Whether this process may make a file in a directory.
pub fn can_create(directory: &Path) -> io::Result<()> {
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
}

/// Whether this process may append to a file, which is made if it is not there.
pub fn can_append(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(_) => access(path, AccessFlags::W_OK),
        // A link to nothing is left to the start: what it leads to may be anywhere.
        Err(_) if std::fs::symlink_metadata(path).is_ok() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(error) };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            can_create(parent)
        }
        Err(error) => Err(error),
    }
}

/// By the rights that opening it would have.
fn access(path: &Path, how: AccessFlags) -> io::Result<()> {
    Ok(faccessat(AT_FDCWD, path, how, AtFlags::AT_EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::can_append;

    #[test]
    fn a_file_can_be_appended_to_if_opening_it_does() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        for name in ["file", "", "new", "no/such", "file/x"] {
            let path = directory.path().join(name);
            let said = can_append(&path).map_err(|error| error.raw_os_error());
            assert_eq!(path.exists(), ["file", ""].contains(&name), "{name} was made");
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(&path);
            assert_eq!(said, opened.map(drop).map_err(|error| error.raw_os_error()), "{name}");
        }
    }
}
