//! Opens a disk: the right kind of file, locked, raw. Moving its bytes is the engine's part.

use super::engine::Engine;
use super::error::DiskError;
use super::format::{SNIFF_BYTES, foreign_format};
use super::lock::LockedFile;
use super::shape::{DirectAlignment, shape};
use super::transfer::Ground;
use crate::sys::{IoVec, Ring};
use devices::virtio::GuestMemoryHandle;
use devices::virtio::blk::{Disk, DiskBackend, DiskEngine, DiskShape, SECTOR_BYTES};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm_memory::{GuestAddressSpace, GuestMemory};

/// Depth of the ring that only finds out whether there may be one.
const TRIAL_DEPTH: u16 = 1;

/// How to open a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOptions {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Never write it; it may be shared then.
    pub read_only: bool,
    /// Go around the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Use io_uring where the kernel lets us; else plain system calls, in the device's thread.
    pub io_uring: bool,
}

impl DiskOptions {
    /// A disk to read and write through the page cache.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false, direct: false, io_uring: true }
    }
}

/// An open, locked, raw disk. The lock ends with the last engine of it.
#[derive(Debug)]
pub struct RawDisk {
    path: PathBuf,
    locked: Arc<LockedFile>,
    is_device: bool,
    direct: Option<DirectAlignment>,
    shape: DiskShape,
    /// Why there is no ring, where one was wanted.
    no_ring: Option<String>,
    rings: bool,
}

impl RawDisk {
    /// Opens and locks a disk.
    ///
    /// # Errors
    /// [`DiskError`], with the path.
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        Self::open_on(options, Path::new("/sys"))
    }

    pub(super) fn open_on(options: &DiskOptions, sysfs: &Path) -> Result<Self, DiskError> {
        let path = || options.path.clone();
        let read_only = options.read_only;
        let failed = |source| DiskError::Open { path: path(), read_only, source };
        // Looked at first: opening a FIFO would wait for somebody at its other end.
        let kind = std::fs::metadata(&options.path).map_err(failed)?;
        let is_device = kind.file_type().is_block_device();
        if !is_device && !kind.is_file() {
            return Err(DiskError::Kind { path: path() });
        }
        let file = open_file(options, is_device).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) if options.direct => DiskError::NotDirect { path: path() },
            _ => failed(source),
        })?;
        let metadata =
            same_kind(&file, is_device).map_err(failed)?.ok_or(DiskError::Kind { path: path() })?;
        let locked = match LockedFile::new(file, read_only) {
            Ok(Some(locked)) => locked,
            Ok(None) => return Err(DiskError::Locked { path: path(), read_only }),
            Err(source) => return Err(DiskError::Lock { path: path(), source }),
        };
        let file = locked.file();
        let read = |source| DiskError::Read { path: path(), source };
        let length = length(file, is_device).map_err(read)?;
        if length < SECTOR_BYTES {
            return Err(DiskError::Short { path: path(), length });
        }
        let direct = if options.direct {
            Some(DirectAlignment::of(file, is_device).ok_or(DiskError::NotDirect { path: path() })?)
        } else {
            None
        };
        let mut beginning = IoVec::bounce(direct.map_or(SNIFF_BYTES, |direct| direct.offset as usize));
        let count = beginning.read(file, 0).map_err(read)?;
        if let Some(format) = beginning.bounce_bytes().get(..count).and_then(foreign_format) {
            return Err(DiskError::Format { path: path(), format });
        }
        let shape = shape(file, &metadata, read_only, direct, sysfs);
        let trial = options.io_uring.then(|| Ring::new(file, TRIAL_DEPTH).map(drop));
        let rings = matches!(trial, Some(Ok(())));
        let no_ring = trial.and_then(Result::err).map(|error| error.to_string());
        Ok(Self { path: path(), locked: Arc::new(locked), is_device, direct, shape, no_ring, rings })
    }

    /// How requests are carried out: `io_uring` or `plain`.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        if self.rings { "io_uring" } else { "plain" }
    }

    /// Why it is plain although io_uring was wanted.
    #[must_use]
    pub fn no_ring(&self) -> Option<&str> {
        self.no_ring.as_deref()
    }
}

/// Writable devices are opened exclusively, which excludes file systems mounted from them too: locks are on the node
/// that was opened, and a device may have several.
fn open_file(options: &DiskOptions, is_device: bool) -> io::Result<File> {
    let mut flags = 0;
    if options.direct {
        flags |= libc::O_DIRECT;
    }
    if is_device && !options.read_only {
        flags |= libc::O_EXCL;
    }
    OpenOptions::new().read(true).write(!options.read_only).custom_flags(flags).open(&options.path)
}

/// What was opened may not be what was looked at.
fn same_kind(file: &File, is_device: bool) -> io::Result<Option<Metadata>> {
    let metadata = file.metadata()?;
    let same = if is_device { metadata.file_type().is_block_device() } else { metadata.is_file() };
    Ok(same.then_some(metadata))
}

fn length(file: &File, is_device: bool) -> io::Result<u64> {
    let mut file = file;
    if is_device { file.seek(SeekFrom::End(0)) } else { Ok(file.metadata()?.len()) }
}

impl Disk for RawDisk {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn length(&self) -> io::Result<u64> {
        length(self.locked.file(), self.is_device)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn grow(&self, length: u64) -> io::Result<()> {
        if self.is_device {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a block device has the size it has"));
        }
        if self.shape.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.locked.file().set_len(length)
    }
}

impl<M, G> DiskBackend<M> for RawDisk
where
    M: GuestMemoryHandle + GuestAddressSpace<M = G, T = Arc<G>>,
    G: GuestMemory<Bitmap = ()> + Send + Sync + 'static,
{
    fn engine(&self, memory: &M, depth: u16) -> Box<dyn DiskEngine> {
        let ground = Ground {
            memory: memory.memory(),
            align: self.direct.map(|direct| direct.memory as usize),
            is_device: self.is_device,
        };
        let ring = if self.rings {
            Ring::new(self.locked.file(), depth)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        let ring = match ring {
            Ok(ring) => Some(ring),
            Err(error) => {
                if self.rings {
                    tracing::warn!(disk = %self.path.display(), %error, "no io_uring, plain system calls instead");
                }
                None
            }
        };
        Box::new(Engine::new(self.name(), Arc::clone(&self.locked), ground, ring, depth))
    }
}
