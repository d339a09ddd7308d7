//! The directory itself: where it is, whose it must be, and the short lock on it. Its files are `record`'s.

use crate::claims::ClaimsError;
use crate::claims::error::failed;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file whose lock is the directory's.
const LOCK: &str = "lock";
/// How long one may hold the lock before others give up. A start holds it while it reads sysfs and plans: some 10 ms.
/// However many stand in line, each of them that gets it starts the time anew.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked for: at first, and after a while, lest those who wait keep the CPUs from the one who holds it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(32));

/// How the directory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// To look.
    Shared,
    /// To change something.
    Alone,
}

/// The lock, as long as it is kept.
pub type Lock = Flock<File>;

pub fn default_path() -> PathBuf {
    let user = geteuid();
    if user.is_root() {
        return PathBuf::from("/run/numavisor");
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    match runtime {
        Some(runtime) => runtime.join("numavisor"),
        None => PathBuf::from(format!("/tmp/numavisor-{user}")),
    }
}

/// Makes the last part of the path if it is missing; nobody but this user may have made it or may write to it.
pub fn open_own(path: PathBuf) -> Result<PathBuf, ClaimsError> {
    let mode = if geteuid().is_root() { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path, "mkdir")(error)),
    }
    // Not through a symbolic link: in /tmp anyone can make one.
    let found = fs::symlink_metadata(&path).map_err(failed(&path, "lstat"))?;
    let why = if !found.is_dir() {
        "is not a directory"
    } else if found.uid() != geteuid().as_raw() {
        "belongs to another user"
    } else if found.mode() & 0o022 != 0 {
        "can be written by others"
    } else {
        return Ok(path);
    };
    Err(ClaimsError::Unsafe { path, why })
}

/// Makes the path if it is missing.
pub fn open_given(path: &Path) -> Result<PathBuf, ClaimsError> {
    fs::create_dir_all(path).map_err(failed(path, "mkdir"))?;
    Ok(path.to_owned())
}

/// A plain file that is not followed through a link and that does not block, whatever it is.
pub fn plain() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).mode(0o644);
    options
}

/// Locks the directory, or gives up when the same process has held it for [`PATIENCE`]. Who only looks makes nothing,
/// and finds no lock where nobody has ever claimed.
pub fn lock(root: &Path, wanted: Wanted) -> Result<Option<Lock>, ClaimsError> {
    lock_within(root, wanted, PATIENCE)
}

fn lock_within(root: &Path, wanted: Wanted, patience: Duration) -> Result<Option<Lock>, ClaimsError> {
    let path = root.join(LOCK);
    let argument = match wanted {
        Wanted::Shared => FlockArg::LockSharedNonblock,
        Wanted::Alone => FlockArg::LockExclusiveNonblock,
    };
    let (mut since, mut seen, mut pause) = (Instant::now(), None, PAUSE.0);
    while since.elapsed() < patience {
        let file = match open_lock(&path, wanted) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && wanted == Wanted::Shared => return Ok(None),
            Err(error) => return Err(failed(&path, "open")(error)),
        };
        match Flock::lock(file, argument) {
            // A lock on a file that somebody has removed meanwhile excludes nobody.
            Ok(lock) if is_still_there(&path, &lock) => {
                if wanted == Wanted::Alone {
                    sign(&lock);
                }
                return Ok(Some(lock));
            }
            Ok(_) => {}
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                let holder = Holder::of(&file);
                if seen.as_ref() != Some(&holder) {
                    (since, seen) = (Instant::now(), Some(holder));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE.1);
            }
            Err((_, error)) => return Err(failed(&path, "flock")(error.into())),
        }
    }
    let holder = seen.and_then(|holder| holder.pid);
    Err(ClaimsError::Busy { path, holder, seconds: patience.as_secs() })
}

/// Who locked the directory last, and when: what it wrote into the file.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: Option<u32>,
    signed: (i64, i64),
}

impl Holder {
    fn of(file: &File) -> Self {
        let mut text = String::new();
        let read = file.take(16).read_to_string(&mut text);
        let signed = file.metadata().map_or((0, 0), |found| (found.mtime(), found.mtime_nsec()));
        Self { pid: read.ok().and_then(|_| text.trim().parse().ok()), signed }
    }
}

/// Says who holds it. If that cannot be written, others only know less.
fn sign(lock: &Lock) {
    let text = format!("{}\n", std::process::id());
    if let Err(error) = lock.set_len(0).and_then(|()| lock.write_all_at(text.as_bytes(), 0)) {
        tracing::debug!(%error, "the lock of claims is not signed");
    }
}

fn open_lock(path: &Path, wanted: Wanted) -> io::Result<File> {
    match wanted {
        Wanted::Shared => plain().read(true).open(path),
        Wanted::Alone => plain().read(true).write(true).create(true).truncate(false).open(path),
    }
}

fn is_still_there(path: &Path, lock: &Lock) -> bool {
    match (lock.metadata(), fs::symlink_metadata(path)) {
        (Ok(locked), Ok(found)) => locked.ino() == found.ino() && locked.dev() == found.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, lock, lock_within, open_own, sign};
    use crate::claims::ClaimsError;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, Instant};

    #[test]
    fn a_directory_of_ones_own_is_made_and_taken_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("numavisor");
        assert_eq!(open_own(path.clone()).unwrap(), path);
        assert_eq!(open_own(path.clone()).unwrap(), path);
    }

    #[test]
    fn a_directory_that_others_may_write_or_could_have_made_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("open");
        std::fs::create_dir(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let refused = |path| open_own(path).unwrap_err().to_string();
        assert!(refused(path.clone()).ends_with("open: can be written by others"));
        symlink(root.path(), root.path().join("link")).unwrap();
        assert!(refused(root.path().join("link")).ends_with("link: is not a directory"));
        assert!(matches!(open_own(root.path().join("no/where")), Err(ClaimsError::Io { call: "mkdir", .. })));
    }

    #[test]
    fn those_who_look_share_the_lock_and_those_who_change_do_not() {
        let root = tempfile::tempdir().unwrap();
        assert!(lock(root.path(), Wanted::Shared).unwrap().is_none());
        drop(lock(root.path(), Wanted::Alone).unwrap());
        let (one, two) =
            (lock(root.path(), Wanted::Shared).unwrap(), lock(root.path(), Wanted::Shared).unwrap());
        drop((one, two));
        let alone = lock(root.path(), Wanted::Alone).unwrap();
        let waits = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(root.path(), Wanted::Shared).map(|_| ()));
            std::thread::sleep(std::time::Duration::from_millis(50));
            let waits = !waiter.is_finished();
            drop(alone);
            waiter.join().unwrap().unwrap();
            waits
        });
        assert!(waits);
    }

    #[test]
    fn one_that_keeps_the_lock_is_named_and_a_line_that_moves_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        // Well above what a busy host takes to go on after a sleep.
        let patience = Duration::from_millis(800);
        let held = lock(root.path(), Wanted::Alone).unwrap().unwrap();
        let refused = lock_within(root.path(), Wanted::Alone, patience).unwrap_err();
        let me = Some(std::process::id());
        assert!(matches!(refused, ClaimsError::Busy { holder, .. } if holder == me), "{refused}");
        let (waited, got) = std::thread::scope(|scope| {
            let began = Instant::now();
            let waiter = scope.spawn(|| lock_within(root.path(), Wanted::Alone, patience).is_ok());
            // As if one after the other had got it.
            for _ in 0..18 {
                std::thread::sleep(Duration::from_millis(100));
                sign(&held);
            }
            drop(held);
            (began.elapsed(), waiter.join().unwrap())
        });
        assert!(got && waited > patience * 2, "{waited:?}");
    }
}
