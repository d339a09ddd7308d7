//! The short lock on the directory, for those who change something in it: a file that nobody else may open. Those who
//! only look take no lock and wait for nobody.

use crate::claims::error::{ClaimsError, failed, who};
use crate::claims::touched;
use crate::lock_file::{Attempt, FileAccess, LockFile};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The file whose lock is the directory's. Earlier versions had another that everybody could open.
const NAME: &str = "claims.lock";
/// How long a start waits while the same process holds the lock. Holding it is a matter of milliseconds; however many
/// stand in line, each of them that gets it starts the time anew.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long before one who waits says so.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is tried: at first, and after a while, lest those who wait keep the CPUs from the one who holds it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(32));

/// The lock, as long as it is kept.
#[derive(Debug)]
pub struct Lock(LockFile);

impl Lock {
    /// Locks the directory, or gives up when the same process has held it for `patience`. Whoever waits for more than a
    /// moment says so.
    pub fn wait(root: &Path, access: FileAccess, patience: Duration) -> Result<Self, ClaimsError> {
        let path = root.join(NAME);
        let (mut since, mut seen, mut pause) = (Instant::now(), None, PAUSE.0);
        let (began, mut silent) = (Instant::now(), true);
        loop {
            match LockFile::attempt(&path, access).map_err(failed(&path, "open"))? {
                Attempt::Locked(file) => {
                    let lock = Self(file);
                    lock.sign();
                    return Ok(lock);
                }
                Attempt::Gone => {}
                Attempt::Busy(file) => {
                    let holder = Holder::of(&file);
                    if seen.as_ref() != Some(&holder) {
                        (since, seen) = (Instant::now(), Some(holder));
                    }
                }
            }
            let holder = || seen.as_ref().and_then(Holder::living);
            if since.elapsed() >= patience {
                return Err(ClaimsError::Busy { path, holder: holder(), seconds: patience.as_secs() });
            }
            if silent && began.elapsed() >= SILENCE {
                silent = false;
                let (who, most) = (who(holder()), patience.as_secs());
                tracing::warn!("claims: {}: locked by {who}, waiting up to {most} s", path.display());
            }
            std::thread::sleep(pause.min(patience));
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Says who holds it. If that cannot be written, others only know less.
    fn sign(&self) {
        let (pid, started) = (std::process::id(), touched::own_start());
        let text = format!("{pid} {started}\n");
        let file = self.0.file();
        if let Err(error) = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)) {
            tracing::debug!(%error, "cannot write the PID to the claims lock");
        }
    }
}

impl Drop for Lock {
    /// Nobody is named who does not hold it.
    fn drop(&mut self) {
        if let Err(error) = self.0.file().set_len(0) {
            tracing::debug!(%error, "cannot clear the PID in the claims lock");
        }
    }
}

/// Who locked the directory last, and when: what it wrote into the file.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    process: Option<(u32, u64)>,
    signed: (i64, i64),
}

impl Holder {
    fn of(file: &File) -> Self {
        let mut text = String::new();
        let read = file.take(64).read_to_string(&mut text).ok();
        let process = read.and_then(|_| {
            let (pid, started) = text.trim_end().split_once(' ')?;
            Some((pid.parse().ok()?, started.parse().ok()?))
        });
        let signed = file.metadata().map_or((0, 0), |found| (found.mtime(), found.mtime_nsec()));
        Self { process, signed }
    }

    /// Its number, if it is a process that lives: one that was killed has signed nothing off.
    fn living(&self) -> Option<u32> {
        let (pid, started) = self.process?;
        touched::is_alive(pid, started).then_some(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lock, NAME, PATIENCE};
    use crate::claims::directory::Modes;
    use crate::claims::{Claims, ClaimsError};
    use std::path::Path;
    use std::time::Duration;

    fn lock(root: &Path, patience: Duration) -> Result<Lock, ClaimsError> {
        Lock::wait(root, Modes::PRIVATE.lock, patience)
    }

    #[test]
    fn who_holds_it_is_named_if_it_is_known_and_nobody_else_is() {
        let root = tempfile::tempdir().unwrap();
        let held = lock(root.path(), PATIENCE).unwrap();
        let named = || match lock(root.path(), Duration::from_millis(5)) {
            Err(ClaimsError::Busy { holder, .. }) => holder,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(), Some(std::process::id()));
        // One that was killed while it held the lock left its name; who holds it now has not signed.
        for text in ["4194305 1\n", &format!("{} 1\n", std::process::id()), "", "7", "x y", "1 1 1 1"] {
            std::fs::write(root.path().join(NAME), text).unwrap();
            assert_eq!(named(), None, "{text}");
        }
        drop(held);
        assert_eq!(std::fs::read(root.path().join(NAME)).unwrap(), b"");
    }

    #[test]
    fn a_line_that_moves_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        // Well above what a busy host takes to go on after a sleep.
        let patience = Duration::from_millis(800);
        let held = lock(root.path(), PATIENCE).unwrap();
        let got = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(root.path(), patience).is_ok());
            // As if one after the other had got it.
            for _ in 0..18 {
                std::thread::sleep(Duration::from_millis(100));
                held.sign();
            }
            drop(held);
            waiter.join().unwrap()
        });
        assert!(got);
    }

    #[test]
    fn those_who_look_wait_for_nobody() {
        let root = tempfile::tempdir().unwrap();
        let _held = lock(root.path(), PATIENCE).unwrap();
        assert_eq!(Claims::look(root.path()).living().unwrap(), []);
    }
}
