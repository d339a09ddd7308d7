//! Writes cpio archives in the `newc` format, which is what Linux unpacks as its initramfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;

/// An archive in memory. Directories must come before what is in them; `directory` is told of each once.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: Vec<String>,
}

impl Archive {
    /// Adds a directory and those above it, unless they are there.
    pub(crate) fn directory(&mut self, path: &str) {
        let mut whole = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !whole.is_empty() {
                whole.push('/');
            }
            whole.push_str(part);
            if !self.directories.contains(&whole) {
                self.directories.push(whole.clone());
                self.entry(&whole, DIRECTORY, (0, 0), &[]);
            }
        }
    }

    /// Adds a file with these bytes and permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.parent(path);
        self.entry(path, REGULAR | (permissions & 0o777), (0, 0), data);
    }

    /// Adds a copy of a file of this machine, with its permissions.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode();
        self.file(path, mode, &data);
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parent(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let path = path.trim_start_matches('/');
        let links = 1;
        let fields = [
            self.entries as usize, // inode
            mode as usize,
            0, // uid
            0, // gid
            links,
            0, // mtime
            data.len(),
            0, // major and minor of the file system
            0,
            device.0 as usize,
            device.1 as usize,
            path.len() + 1,
            0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn parents_come_first_and_once_and_entries_are_aligned() {
        let mut archive = Archive::default();
        archive.file("bin/tool", 0o755, b"abc");
        archive.symlink("/bin/sh", "tool");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.find("bin\0").unwrap() < text.find("bin/tool\0").unwrap());
        assert_eq!(bytes.len() % 4, 0);
    }
}
