//! Why a disk cannot be used, in words for the one who named it. What to do then is the caller's decision.

use crate::diagnosis::{of_call, of_file};
use resources::{Diagnosis, ErrorKind};
use std::io;
use std::path::PathBuf;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The path does not open.
    #[error("open disk {}: {source}{}", path.display(), hint(*.read_only, source))]
    Open {
        /// The path.
        path: PathBuf,
        /// It was to be read only.
        read_only: bool,
        /// Why not.
        source: io::Error,
    },
    /// It is a directory, a terminal, a socket.
    #[error("disk {}: must be a regular file or a block device", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// Somebody has it.
    #[error("disk {}: {}{}", path.display(), holder(*.ours), if *.read_only { " for writing" } else { "; a writable disk has one user, use readonly=on to share it" })]
    Locked {
        /// The path.
        path: PathBuf,
        /// It was to be read only.
        read_only: bool,
        /// It is this process that has it: requests from before a reset or an end have not ended.
        ours: bool,
    },
    /// The VM has it already.
    #[error("disk {}: is the same as disks[{other}]; a writable disk can be given once, use readonly=on to share it", path.display())]
    Twice {
        /// The path.
        path: PathBuf,
        /// The number of the other.
        other: usize,
    },
    /// It cannot be locked at all.
    #[error("lock disk {}: {source}", path.display())]
    Lock {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It looks like an image of another format, and nobody said that it is raw.
    #[error("disk {}: looks like a {format} image, must be raw; if the guest wrote that data, use format=raw, else convert it: qemu-img convert -f {format} -O raw IMAGE disk.raw", path.display())]
    Format {
        /// The path.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// It holds no sector.
    #[error("disk {}: {length} bytes long, must be at least 512", path.display())]
    Short {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// It cannot be read around the page cache.
    #[error("disk {}: the file system does not support direct I/O, use direct=off", path.display())]
    NotDirect {
        /// The path.
        path: PathBuf,
    },
    /// The host would not read it.
    #[error("read disk {}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl DiskError {
    /// What kind of failure it is, and its stable code. Which disk it is, the caller knows.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let invalid = |code| Diagnosis::new(ErrorKind::Invalid, code);
        match self {
            Self::Open { source, .. } => of_file(source),
            Self::Lock { source, .. } | Self::Read { source, .. } => of_call(source),
            Self::Locked { .. } => Diagnosis::new(ErrorKind::InUse, "disk_locked"),
            Self::Kind { .. } => invalid("disk_kind"),
            Self::Twice { .. } => invalid("disk_twice"),
            Self::Format { .. } => invalid("disk_format"),
            Self::Short { .. } => invalid("disk_short"),
            Self::NotDirect { .. } => invalid("disk_not_direct"),
        }
    }
}

fn holder(ours: bool) -> &'static str {
    if ours { "this process has it open, with requests in flight" } else { "another process holds it" }
}

/// What may help where opening fails.
fn hint(read_only: bool, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
            "; readonly=on needs no write permission"
        }
        io::ErrorKind::ResourceBusy => {
            "; it is mounted, part of another device, or open for writing in another process"
        }
        _ => "",
    }
}
