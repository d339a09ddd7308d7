//! Leases on files (fcntl(2), "Leases"): what the kernel knows of who has a file open. What that means is decided
//! elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Chooses the signal of a lease that is broken; the number is part of Linux' ABI, and the crate libc does not have it.
const F_SETSIG: libc::c_int = 10;

/// Whether anybody, this process too, has `file` open for writing: then the kernel refuses a read lease. `file` itself
/// must be open for reading alone. Who may only read a file can neither bring this about nor hide it.
///
/// # Errors
/// The file is another user's and this process has no `CAP_LEASE`, or its file system has no leases.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    // Who opens it for writing while there is the lease waits for its end, and this process gets the signal: SIGIO, which
    // would end it, unless another is chosen. SIGURG does nothing by itself.
    set(file, F_SETSIG, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => set(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

fn set(file: &File, what: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and these commands take an integer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), what, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::is_open_for_writing;
    use crate::ofd_lock::whole;
    use nix::fcntl::{FcntlArg, fcntl};
    use std::fs::File;

    #[test]
    fn the_kernel_knows_writers_and_minds_neither_readers_nor_their_locks() {
        let (file, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
        let reader = File::open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap());
        drop(file);
        let other = File::open(&path).unwrap();
        fcntl(&other, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK).unwrap())).unwrap();
        assert!(!is_open_for_writing(&reader).unwrap());
        // The lease is gone: opening for writing does not wait.
        let _writer = File::options().write(true).open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap());
    }
}
