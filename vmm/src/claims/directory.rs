//! The directory itself: where it is, whose it must be, and who may read it. The lock on it is `lock`'s, its files are
//! `record`'s.

use crate::claims::ClaimsError;
use crate::claims::error::failed;
use crate::lock_file::FileAccess;
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Nobody but the user.
const PRIVATE: u32 = 0o700;

/// What is made for the directory's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// Of the lock: whoever may open it may lock it.
    pub lock: FileAccess,
    /// Of claims.
    pub claim: FileAccess,
}

impl Modes {
    /// The user alone.
    pub const PRIVATE: Self = {
        let access = FileAccess { mode: 0o600, group: None };
        Self { lock: access, claim: access }
    };

    /// A group reads claims. It may claim itself only if it may write to the directory: then it is trusted anyway.
    fn of_group(group: u32, directory: &Metadata) -> Self {
        let writes = directory.mode() & 0o020 != 0 && directory.gid() == group;
        let access = |mode| FileAccess { mode, group: Some(group) };
        let lock = if writes { access(0o660) } else { Self::PRIVATE.lock };
        Self { lock, claim: access(0o640) }
    }
}

/// The directory when none is named.
pub fn default_path() -> PathBuf {
    let user = geteuid();
    if user.is_root() {
        return PathBuf::from("/run/numavisor");
    }
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // A session without the variable, such as cron's or su's, has the same directory as the others of the user.
    let usual = || {
        let path = PathBuf::from(format!("/run/user/{user}"));
        let own =
            fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == user.as_raw());
        own.then_some(path)
    };
    match named.or_else(usual) {
        Some(runtime) => runtime.join("numavisor"),
        None => PathBuf::from(format!("/tmp/numavisor-{user}")),
    }
}

/// Makes the last part of the path if it is missing; nobody but this user may have made it or may write to it. One
/// that others may read, as earlier versions made it, is closed to them.
pub fn open_own(path: &Path, group: Option<u32>) -> Result<Modes, ClaimsError> {
    make(path)?;
    // Not through a symbolic link: in /tmp anyone can make one.
    let found = fs::symlink_metadata(path).map_err(failed(path, "lstat"))?;
    let unsafe_as = |why| ClaimsError::Unsafe { path: path.to_owned(), why };
    if !found.is_dir() {
        return Err(unsafe_as("is not a directory"));
    } else if found.uid() != geteuid().as_raw() {
        return Err(unsafe_as("belongs to another user"));
    } else if found.mode() & 0o022 != 0 {
        return Err(unsafe_as("is writable by others"));
    }
    let group = match group {
        Some(group) => {
            admit(path, group, &found, 0o770)?;
            Some(group)
        }
        None if found.mode() & 0o007 != 0 => {
            fs::set_permissions(path, Permissions::from_mode(PRIVATE)).map_err(failed(path, "chmod"))?;
            None
        }
        // As another VM of this user wanted it.
        None => (found.mode() & 0o050 == 0o050).then_some(found.gid()),
    };
    Ok(group.map_or(Modes::PRIVATE, |group| Modes::of_group(group, &found)))
}

/// Makes the path if it is missing. Whoever may write to it is trusted.
pub fn open_given(path: &Path, group: Option<u32>) -> Result<Modes, ClaimsError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed(parent, "mkdir"))?;
    }
    make(path)?;
    let found = fs::metadata(path).map_err(failed(path, "stat"))?;
    if !found.is_dir() {
        return Err(ClaimsError::Unsafe { path: path.to_owned(), why: "is not a directory" });
    }
    let writes = (found.mode() & 0o020 != 0).then_some(found.gid());
    match group {
        Some(group) => admit(path, group, &found, 0o7777).map(|()| Modes::of_group(group, &found)),
        None => Ok(writes.map_or(Modes::PRIVATE, |group| Modes::of_group(group, &found))),
    }
}

/// Lets a group read a directory. Of what others may do there the bits in `kept` stay; what another group might is not for
/// this one.
fn admit(path: &Path, group: u32, found: &Metadata, kept: u32) -> Result<(), ClaimsError> {
    let chmod = |mode| fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path, "chmod"));
    let (now, mut wanted) = (found.mode() & 0o7777, (found.mode() & kept) | 0o750);
    if found.gid() != group {
        wanted = (wanted & !0o070) | 0o050;
        chmod(wanted & !0o070)?;
        chown(path, None, Some(group)).map_err(failed(path, "chown"))?;
        chmod(wanted)?;
    } else if now != wanted {
        chmod(wanted)?;
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), ClaimsError> {
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(path, "mkdir")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Modes, open_given, open_own};
    use crate::claims::ClaimsError;
    use nix::unistd::getegid;
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    fn chmod(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_of_ones_own_is_made_private_and_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("numavisor");
        for _ in 0..2 {
            assert_eq!(open_own(&path, None).unwrap(), Modes::PRIVATE);
            assert_eq!(mode(&path), 0o700);
        }
        // As versions before made it for root.
        chmod(&path, 0o755);
        assert_eq!(open_own(&path, None).unwrap(), Modes::PRIVATE);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_directory_that_others_may_write_or_could_have_made_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("open");
        std::fs::create_dir(&path).unwrap();
        let refused = |path: &Path| open_own(path, None).unwrap_err().to_string();
        for open in [0o777, 0o770, 0o702, 0o1777] {
            chmod(&path, open);
            assert!(refused(&path).ends_with("open: is writable by others"), "{open:o}");
            assert_eq!(mode(&path), open);
        }
        symlink(root.path(), root.path().join("link")).unwrap();
        assert!(refused(&root.path().join("link")).ends_with("link: is not a directory"));
        let nowhere = open_own(&root.path().join("no/where"), None);
        assert!(matches!(nowhere, Err(ClaimsError::Io { call: "mkdir", .. })));
    }

    #[test]
    fn a_group_reads_claims_and_locks_nothing_unless_it_may_write_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let group = getegid().as_raw();
        let path = root.path().join("read");
        for open in [open_own, open_given] {
            let modes = open(&path, Some(group)).unwrap();
            assert_eq!((mode(&path), modes.lock, modes.claim.mode), (0o750, Modes::PRIVATE.lock, 0o640));
        }
        // Another VM of the user that does not say so does not take it away, and its claim can be read as well.
        assert_eq!(open_own(&path, None).unwrap().claim.mode, 0o640);
        let shared = root.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        chmod(&shared, 0o2770);
        for asked in [None, Some(group)] {
            let modes = open_given(&shared, asked).unwrap();
            assert_eq!((mode(&shared), modes.lock.mode, modes.claim.mode), (0o2770, 0o660, 0o640));
        }
    }

    #[test]
    fn a_directory_that_was_named_is_made_private_and_left_as_it_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        assert_eq!(open_given(&path, None).unwrap(), Modes::PRIVATE);
        assert_eq!(mode(&path), 0o700);
        chmod(&path, 0o755);
        assert_eq!(open_given(&path, None).unwrap(), Modes::PRIVATE);
        assert_eq!(mode(&path), 0o755);
        std::fs::write(root.path().join("file"), "").unwrap();
        let refused = open_given(&root.path().join("file"), None).unwrap_err().to_string();
        assert!(refused.ends_with("file: is not a directory"), "{refused}");
    }
}
