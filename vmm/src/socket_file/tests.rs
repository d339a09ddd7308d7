//! Who gets a path that several want, and what is never removed for it. What other users can do is tested in
//! `tests/other_users.rs`.

use super::{Access, Janitor, SocketFile, SocketFileError};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;

fn listen(path: &Path) -> Result<(UnixListener, SocketFile), SocketFileError> {
    SocketFile::listen(path, Access::OWNER, &Janitor::default())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn of_many_that_want_a_path_one_gets_it_with_and_without_a_stale_socket() {
    const STARTERS: usize = 8;
    for round in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let together = Barrier::new(STARTERS);
        let made: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                together.wait();
                listen(&path)
            };
            let threads: Vec<_> = (0..STARTERS).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused: Vec<_> = made.iter().filter_map(|made| made.as_ref().err()).collect();
        assert_eq!(refused.len(), STARTERS - 1, "{refused:?}");
        assert!(refused.iter().all(|error| matches!(error, SocketFileError::InUse(_))), "{refused:?}");
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(names(directory.path()), ["v.sock"]);
        drop(made);
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}

#[test]
fn only_a_socket_that_nobody_has_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let _stream = UnixListener::bind(path("stream")).unwrap();
    let _datagram = UnixDatagram::bind(path("datagram")).unwrap();
    for name in ["stream", "datagram"] {
        assert!(matches!(listen(&path(name)), Err(SocketFileError::InUse(_))), "{name}");
    }
    std::fs::write(path("file"), "precious").unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
    for name in ["file", "directory", "link"] {
        assert!(matches!(listen(&path(name)), Err(SocketFileError::NotASocket(_))), "{name}");
    }
    // Somebody's file that has the name of the lock.
    let odd = ".new.numavisor-lock";
    std::fs::write(path(odd), "precious").unwrap();
    drop(listen(&path("new")).unwrap());
    assert_eq!(names(directory.path()), [odd, "datagram", "directory", "file", "link", "stream"]);
    assert_eq!(std::fs::read(path(odd)).unwrap(), b"precious");
    assert_eq!(std::fs::read(path("file")).unwrap(), b"precious");
}

#[test]
fn what_is_wrong_with_the_directory_is_said_of_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let refused = |path: &Path| listen(path).unwrap_err().to_string();
    let missing = root.path().join("no");
    let expected = format!("{}: open: No such file or directory (os error 2)", missing.display());
    assert_eq!(refused(&missing.join("v.sock")), expected);
    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let expected = format!("{}: open: Not a directory (os error 20)", file.display());
    assert_eq!(refused(&file.join("v.sock")), expected);
    let long = root.path().join("x".repeat(200));
    assert!(refused(&long).contains(": bind: "), "{}", refused(&long));
    assert_eq!(names(root.path()), ["file"]);
}
