//! Sorts what the system refuses by its errno. What an error is about, and its text, is each error's own business.

use resources::{Diagnosis, ErrorKind};
use std::io;

/// A system or KVM call that failed, not on a file that the user named.
pub fn of_call(error: &io::Error) -> Diagnosis {
    let (kind, code) = match error.raw_os_error() {
        Some(libc::ENOMEM) => (ErrorKind::NoRoom, "no_memory"),
        Some(libc::ENOSPC | libc::EDQUOT) => (ErrorKind::NoRoom, "no_space"),
        Some(libc::EMFILE | libc::ENFILE) => (ErrorKind::NoRoom, "no_descriptors"),
        Some(
            libc::ENOENT
            | libc::ENODEV
            | libc::ENXIO
            | libc::ENOTTY
            | libc::ENOPROTOOPT
            | libc::EAFNOSUPPORT
            | libc::EPROTONOSUPPORT,
        ) => (ErrorKind::Unsupported, "host_unsupported"),
        _ => match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                (ErrorKind::Forbidden, "host_forbidden")
            }
            io::ErrorKind::Unsupported => (ErrorKind::Unsupported, "host_unsupported"),
            io::ErrorKind::ResourceBusy
            | io::ErrorKind::ExecutableFileBusy
            | io::ErrorKind::AddrInUse
            | io::ErrorKind::AlreadyExists => (ErrorKind::InUse, "host_in_use"),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::TimedOut => {
                (ErrorKind::Transient, "host_busy")
            }
            _ => (ErrorKind::Host, "host_refused"),
        },
    };
    Diagnosis::new(kind, code)
}

/// A file that the user named and that cannot be used.
pub fn of_file(error: &io::Error) -> Diagnosis {
    let (kind, code) = match (error.raw_os_error(), error.kind()) {
        (_, io::ErrorKind::NotFound) => (ErrorKind::Invalid, "file_not_found"),
        (Some(libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::EINVAL), _)
        | (None, io::ErrorKind::InvalidInput | io::ErrorKind::Other) => (ErrorKind::Invalid, "file_unusable"),
        // A device or a socket file that nobody serves.
        (Some(libc::ENXIO | libc::ENODEV), _) => (ErrorKind::Invalid, "file_unusable"),
        (_, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            (ErrorKind::Forbidden, "file_forbidden")
        }
        (_, io::ErrorKind::ResourceBusy | io::ErrorKind::ExecutableFileBusy) => {
            (ErrorKind::InUse, "file_in_use")
        }
        _ => return of_call(error),
    };
    Diagnosis::new(kind, code)
}

#[cfg(test)]
mod tests {
    use super::{of_call, of_file};
    use resources::ErrorKind;
    use std::io;

    #[test]
    fn only_what_passes_by_itself_is_transient() {
        for errno in 1..=133 {
            let error = io::Error::from_raw_os_error(errno);
            let passes = matches!(errno, libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT);
            assert_eq!(of_call(&error).kind == ErrorKind::Transient, passes, "{error}");
            assert_eq!(of_file(&error).kind == ErrorKind::Transient, passes, "{error}");
            assert_eq!(of_call(&error).field, None);
        }
    }

    #[test]
    fn a_missing_device_is_a_feature_and_a_missing_file_a_mistake() {
        let sorted = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            let (call, file) = (of_call(&error), of_file(&error));
            ((call.kind, call.code), (file.kind, file.code))
        };
        use ErrorKind::{Forbidden, InUse, Invalid, NoRoom, Unsupported};
        let missing = ((Unsupported, "host_unsupported"), (Invalid, "file_not_found"));
        assert_eq!(sorted(libc::ENOENT), missing);
        let forbidden = ((Forbidden, "host_forbidden"), (Forbidden, "file_forbidden"));
        assert_eq!([sorted(libc::EACCES), sorted(libc::EPERM), sorted(libc::EROFS)], [forbidden; 3]);
        assert_eq!(sorted(libc::EBUSY), ((InUse, "host_in_use"), (InUse, "file_in_use")));
        assert_eq!(sorted(libc::ENOMEM), ((NoRoom, "no_memory"), (NoRoom, "no_memory")));
        assert_eq!(sorted(libc::EMFILE), ((NoRoom, "no_descriptors"), (NoRoom, "no_descriptors")));
    }
}
