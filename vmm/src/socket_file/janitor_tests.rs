//! What is removed after a kill and what is not. The process itself is tested with the real program.

use super::janitor::remove;
use super::{Access, Identity, Janitor, SocketFile};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_millis(50);

#[test]
fn only_the_same_file_is_removed_and_only_when_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let identity = Identity::at(&path).unwrap();
    remove(&path, identity, PATIENCE);
    assert!(path.exists(), "somebody listened");
    drop(listener);
    remove(&path, Identity { inode: identity.inode + 1, ..identity }, PATIENCE);
    assert!(path.exists(), "it was another file");
    remove(&path, identity, PATIENCE);
    assert!(!path.exists());
    remove(&path, identity, PATIENCE);
    std::fs::write(&path, "precious").unwrap();
    remove(&path, Identity::at(&path).unwrap(), PATIENCE);
    assert!(path.exists(), "it is no socket");
}

#[test]
fn a_process_that_cannot_be_started_or_does_not_listen_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    for command in [|| Command::new("/nonexistent"), || Command::new("/bin/true")] {
        let janitor = Janitor::new(command);
        for _ in 0..3 {
            let (_listener, file) = SocketFile::listen(&path, Access::OWNER, &janitor).unwrap();
            assert!(UnixStream::connect(file.path()).is_ok());
        }
        assert!(!path.exists());
    }
}
