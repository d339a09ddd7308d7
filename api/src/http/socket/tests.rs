//! Ownership and permissions of the socket file, and files that must not be touched.

use super::{Socket, SocketError, SocketSpec, passed};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use vmm::{Janitor, SocketFileError};

fn spec(path: PathBuf) -> SocketSpec {
    SocketSpec { path, mode: None, group: None }
}

fn open(spec: &SocketSpec) -> Result<Socket, SocketError> {
    Socket::open(spec, &Janitor::default())
}

fn mode(path: &PathBuf) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn it_is_the_owners_alone_unless_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let socket = open(&spec(path.clone())).unwrap();
    assert_eq!(mode(&path), 0o600);
    drop(socket);
    assert!(!path.exists());
    let _socket = open(&SocketSpec { mode: Some(0o666), ..spec(path.clone()) }).unwrap();
    assert_eq!(mode(&path), 0o666);
}

#[test]
fn a_group_may_connect_when_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let own = nix::unistd::getgid().to_string();
    let _socket = open(&SocketSpec { group: Some(own), ..spec(path.clone()) }).unwrap();
    assert_eq!(mode(&path), 0o660);
    let error = open(&SocketSpec { group: Some("no-such-group".into()), ..spec(path) }).unwrap_err();
    assert!(matches!(error, SocketError::NoSuchGroup(_)), "{error}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut first = open(&spec(path.clone())).unwrap();
    let _listener = first.listener().unwrap();
    let error = open(&spec(path.clone())).unwrap_err();
    assert!(matches!(error, SocketError::File(SocketFileError::InUse(_))), "{error}");
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "keep me").unwrap();
    let error = open(&spec(path.clone())).unwrap_err();
    assert!(matches!(error, SocketError::File(SocketFileError::NotASocket(_))), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "keep me");
    assert!(matches!(
        open(&spec(dir.path().join("no/such/dir"))),
        Err(SocketError::File(SocketFileError::Directory { .. }))
    ));
    assert!(matches!(
        open(&spec(dir.path().join("x".repeat(200)))),
        Err(SocketError::File(SocketFileError::Host { .. }))
    ));
}

#[test]
fn a_file_that_is_not_ours_any_more_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let socket = open(&spec(path.clone())).unwrap();
    // As large as it gets: the inode number of the old file must not be used again.
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn of_many_that_start_at_once_on_a_stale_socket_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    drop(UnixListener::bind(&path).unwrap());
    let start = || {
        let spec = spec(path.clone());
        std::thread::spawn(move || open(&spec).ok())
    };
    let threads: Vec<_> = (0..16).map(|_| start()).collect();
    let sockets: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(sockets.len(), 1);
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_passed_socket_has_to_be_for_this_process() {
    let env = |pid: Option<&'static str>, fds: Option<&'static str>| {
        move |name: &str| if name == "LISTEN_PID" { pid } else { fds }.map(str::to_owned)
    };
    for (pid, fds) in [(None, None), (Some("7"), None), (Some("8"), Some("1")), (Some("7"), Some("2"))] {
        let error = passed(7, env(pid, fds)).unwrap_err();
        assert!(matches!(error, SocketError::NotPassed(_)), "{error}");
    }
}
