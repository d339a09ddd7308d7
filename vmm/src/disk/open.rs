//! Opens a disk: the right kind of file, locked, raw. Moving its bytes is the engine's part.

use super::engine::{Engine, NoEngine};
use super::error::DiskError;
use super::format::{SNIFF_BYTES, foreign_format};
use super::full::{FullReports, Reporting};
use super::helpers::{Files, Helpers};
use super::lock::{Identity, LockedFile, Taken, is_ours};
use super::shape::{DirectAlignment, shape};
use super::transfer::IoContext;
use super::write_order::WriteOrder;
use crate::memory::FilledByKernel;
use crate::sys::{IoVec, Ring, is_open_for_writing};
use devices::LogLimit;
use devices::virtio::blk::{Disk, DiskBackend, DiskEngine, DiskShape, SECTOR_BYTES};
use std::cell::RefCell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Depth of the ring that only finds out whether there may be one.
const TRIAL_DEPTH: u16 = 1;

/// How long the kernel may keep a file open that was closed, for a ring that is gone.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks at whether it is.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How to open a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOptions {
    /// A regular file or a block device.
    pub path: PathBuf,
    /// Never write it; others may read it too then.
    pub read_only: bool,
    /// Go around the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Use io_uring where the kernel lets us; else plain system calls, in helper threads.
    pub io_uring: bool,
    /// Whoever named it says that it is raw, whatever it begins with.
    pub known_raw: bool,
}

impl DiskOptions {
    /// A disk to read and write through the page cache.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false, direct: false, io_uring: true, known_raw: false }
    }
}

/// An open raw disk, locked if it is written. The lock ends with the last engine of it.
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
    helpers: Arc<Helpers>,
    /// As it was last looked at.
    length: Arc<AtomicU64>,
    /// Where direct I/O takes no single sectors.
    order: Option<Arc<WriteOrder>>,
    log: Mutex<LogLimit>,
    full: Option<Arc<FullReports>>,
}

impl RawDisk {
    /// Opens a disk, and locks one that is to be written.
    ///
    /// # Errors
    /// [`DiskError`], with the path.
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        Self::open_on(options, Path::new("/sys"))
    }

    /// Why [`open`](Self::open) would refuse now. Nothing is locked, and nothing is kept open.
    ///
    /// # Errors
    /// The same.
    pub fn check(options: &DiskOptions) -> Result<(), DiskError> {
        let (file, metadata, is_device) = open_disk(options)?;
        let lock = |source| DiskError::Lock { path: options.path.clone(), source };
        let taken = LockedFile::would_find(&file, options.read_only).map_err(lock)?;
        inspect(options, &file, is_device)?;
        // It may be open for writing itself.
        drop(file);
        let is_taken = match taken {
            None => false,
            Some(Taken::Written) => true,
            Some(Taken::Read) => has_writer(options, &metadata).map_err(lock)?,
        };
        if is_taken { Err(is_locked(options, &metadata)) } else { Ok(()) }
    }

    pub(super) fn open_on(options: &DiskOptions, sysfs: &Path) -> Result<Self, DiskError> {
        let path = || options.path.clone();
        let read_only = options.read_only;
        let failed = |source| DiskError::Open { path: path(), read_only, source };
        let (file, metadata, is_device) = open_disk(options)?;
        let lock = |source| DiskError::Lock { path: path(), source };
        let locked = match LockedFile::new(file, read_only).map_err(lock)? {
            Ok(locked) => locked,
            Err(Taken::Written) => return Err(is_locked(options, &metadata)),
            Err(Taken::Read) => {
                let file = despite_readers(options, &metadata).map_err(lock)?;
                LockedFile::unlocked(file.ok_or_else(|| is_locked(options, &metadata))?).map_err(lock)?
            }
        };
        let file = locked.file();
        let (length, direct) = inspect(options, file, is_device)?;
        warn_of_rest(&options.path, length);
        let shape = shape(file, &metadata, read_only, direct, sysfs);
        let trial = options.io_uring.then(|| Ring::new(file, TRIAL_DEPTH).map(drop));
        let rings = matches!(trial, Some(Ok(())));
        let no_ring = trial.and_then(Result::err).map(|error| error.to_string());
        let coarse = direct.is_some_and(|direct| u64::from(direct.offset) > SECTOR_BYTES);
        let buffered = match coarse && !is_device {
            true => Some(reopen(options, &metadata).map_err(failed)?),
            false => None,
        };
        let locked = Arc::new(locked);
        let helpers = Arc::new(Helpers::new(Files { locked: Arc::clone(&locked), buffered }));
        Ok(Self {
            path: path(),
            locked,
            is_device,
            direct,
            shape,
            no_ring,
            rings,
            helpers,
            length: Arc::new(AtomicU64::new(length)),
            order: coarse.then(Arc::default),
            log: Mutex::new(LogLimit::per_second(1)),
            full: None,
        })
    }

    /// Calls `report` when requests fail because the host's storage is full, with the number of those since the last
    /// report, at a limited rate.
    #[must_use]
    pub fn reporting_full(self, report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { full: Some(Arc::new(FullReports::new(report))), ..self }
    }

    /// How requests are carried out: `io_uring` or `plain`.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        if self.rings { "io_uring" } else { "plain" }
    }

    /// At a limited rate: a guest that resets in a loop hears it each time.
    fn warn(&self, error: &io::Error, what: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.admit(Instant::now()) {
            tracing::warn!(disk = %self.path.display(), %error, suppressed, "{what}");
        }
    }

    /// Why it is plain although io_uring was wanted.
    #[must_use]
    pub fn no_ring(&self) -> Option<&str> {
        self.no_ring.as_deref()
    }
}

/// The file, what it is, and whether that is a block device.
fn open_disk(options: &DiskOptions) -> Result<(File, Metadata, bool), DiskError> {
    let path = || options.path.clone();
    let failed = |source| DiskError::Open { path: path(), read_only: options.read_only, source };
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
    let metadata = same_kind(&file, is_device).map_err(failed)?.ok_or(DiskError::Kind { path: path() })?;
    Ok((file, metadata, is_device))
}

fn is_locked(options: &DiskOptions, metadata: &Metadata) -> DiskError {
    let ours = is_ours(Identity::of(metadata));
    DiskError::Locked { path: options.path.clone(), read_only: options.read_only, ours }
}

/// The length of a disk and how it can be read around the page cache; refused if it is too short or not raw.
fn inspect(
    options: &DiskOptions,
    file: &File,
    is_device: bool,
) -> Result<(u64, Option<DirectAlignment>), DiskError> {
    let path = || options.path.clone();
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
    let format = beginning.bounce_bytes().get(..count).and_then(foreign_format);
    match format.filter(|_| !options.known_raw) {
        Some(format) => Err(DiskError::Format { path: path(), format }),
        None => Ok((length, direct)),
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

/// The same file through the page cache: for the block in which it ends, of which direct I/O takes only all.
fn reopen(options: &DiskOptions, metadata: &Metadata) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(!options.read_only).open(&options.path)?;
    same_file(file, metadata)
}

fn same_file(file: File, metadata: &Metadata) -> io::Result<File> {
    match Identity::of(&file.metadata()?) == Identity::of(metadata) {
        true => Ok(file),
        false => Err(io::Error::other("it was replaced while it was being opened")),
    }
}

/// Opens a disk for writing that others have read locks on, unless somebody writes it: `None`.
fn despite_readers(options: &DiskOptions, metadata: &Metadata) -> io::Result<Option<File>> {
    if has_writer(options, metadata)? {
        return Ok(None);
    }
    tracing::warn!(
        disk = %options.path.display(),
        "other processes hold read locks; opening it for writing without a lock"
    );
    same_file(open_file(options, metadata.file_type().is_block_device())?, metadata).map(Some)
}

/// Whether somebody writes a disk that others have read locks on. Everybody who may read it can have those, so they keep
/// nobody out by themselves; but writers of other programs have no others either (QEMU). So the kernel is asked whether
/// anybody has it open for writing. A device is opened exclusively, which says the same.
fn has_writer(options: &DiskOptions, metadata: &Metadata) -> io::Result<bool> {
    if metadata.file_type().is_block_device() {
        return Ok(false);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let reader = OpenOptions::new().read(true).custom_flags(flags).open(&options.path)?;
    let reader = same_file(reader, metadata)?;
    let until = Instant::now() + CLOSED_WITHIN;
    while is_open_for_writing(&reader).map_err(|error| {
        let why = "other processes hold read locks, and it is unknown whether they write to it";
        io::Error::new(error.kind(), format!("{why}: {error}"))
    })? {
        if Instant::now() >= until {
            return Ok(true);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(false)
}

/// A guest sees whole sectors.
fn warn_of_rest(path: &Path, length: u64) {
    let rest = length % SECTOR_BYTES;
    if rest > 0 {
        let shown = length - rest;
        tracing::warn!(
            disk = %path.display(),
            "its length of {length} bytes is not a multiple of {SECTOR_BYTES}: the guest sees {shown}, the last {rest} are not accessible"
        );
    }
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
        let length = length(self.locked.file(), self.is_device)?;
        self.length.store(length, Ordering::Release);
        Ok(length)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn grow(&self, length: u64) -> io::Result<()> {
        if self.is_device {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a block device cannot be resized"));
        }
        if self.shape.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.locked.file().set_len(length)
    }
}

impl<G> DiskBackend<Arc<G>> for RawDisk
where
    G: FilledByKernel + Send + Sync + 'static,
{
    fn engine(&self, memory: &Arc<G>, depth: u16) -> Box<dyn DiskEngine> {
        let context = IoContext {
            memory: Arc::clone(memory),
            direct: self.direct,
            device_block: self.is_device.then_some(self.shape.logical_block),
            length: Arc::clone(&self.length),
            order: self.order.clone(),
            spare: RefCell::default(),
        };
        let ring = self.rings.then(|| Ring::new(self.locked.file(), depth)).transpose();
        let ring = ring.unwrap_or_else(|error| {
            self.warn(&error, "io_uring is not available, using helper threads");
            None
        });
        match Engine::new(self.name(), context, ring, Arc::clone(&self.helpers), depth) {
            Ok(engine) => match &self.full {
                Some(reports) => {
                    Box::new(Reporting { engine: Box::new(engine), reports: Arc::clone(reports) })
                }
                None => Box::new(engine),
            },
            Err(error) => {
                self.warn(&error, "no I/O engine, all requests fail");
                Box::new(NoEngine::default())
            }
        }
    }
}
