//! What users can do to claims, sockets and disks that they may not write: look, and nothing else. The other user
//! is this test binary again, told by an environment variable what to try. A binary of its own, as its children hold copies
//! of its locks until they have called `execve(2)`.

#![expect(clippy::unwrap_used, reason = "tests")]

use nix::fcntl::{FcntlArg, FlockArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use resources::{Bytes, Claim, NodeClaim, PnodeId};
use std::fs::{Permissions, metadata, set_permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use vmm::claims::{Claims, Survey};
use vmm::{Access, DiskOptions, Janitor, RawDisk, SocketFile};

const TARGETS: &str = "NUMAVISOR_TEST_TARGETS";
/// nobody and nogroup, wherever there are users at all.
const NOBODY: u32 = 65534;

/// Locks everything that it can open, in every way, until its standard input ends.
#[test]
fn another_user_that_locks_what_it_can() {
    let Ok(targets) = std::env::var(TARGETS) else { return };
    assert_eq!(geteuid().as_raw(), NOBODY);
    let (mut held, mut opened): (Vec<Box<dyn std::any::Any>>, Vec<&str>) = Default::default();
    for target in targets.split(':') {
        for flags in [OFlag::O_RDWR, OFlag::O_RDONLY] {
            let Ok(fd) = open(target, flags | OFlag::O_NONBLOCK, Mode::empty()) else { continue };
            opened.push(target);
            for kind in [libc::F_WRLCK, libc::F_RDLCK] {
                let _ = fcntl(&fd, FcntlArg::F_OFD_SETLK(&whole(kind)));
            }
            for how in [FlockArg::LockExclusiveNonblock, FlockArg::LockSharedNonblock] {
                let again: OwnedFd = fd.try_clone().unwrap();
                held.push(Box::new(nix::fcntl::Flock::lock(again, how)));
            }
            held.push(Box::new(fd));
        }
    }
    println!("\nopened={}", opened.join(":"));
    let _ = std::io::stdin().read(&mut [0]);
}

fn whole(kind: libc::c_int) -> libc::flock {
    let (l_type, l_whence) = (kind.try_into().unwrap(), libc::SEEK_SET.try_into().unwrap());
    libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 }
}

/// The other user at work, and what it could open.
struct Attacker(Child, Vec<String>);

impl Attacker {
    fn on(targets: &[&Path], group: u32) -> Self {
        let targets: Vec<&str> = targets.iter().map(|target| target.to_str().unwrap()).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["another_user_that_locks_what_it_can", "--exact", "--nocapture"])
            .env(TARGETS, targets.join(":"))
            .uid(NOBODY)
            .gid(group)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let opened = lines.find_map(|line| line.strip_prefix("opened=").map(str::to_owned)).unwrap();
        Self(child, opened.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether this process may become another user; said if not.
fn may_be_another() -> bool {
    let root = geteuid().is_root();
    if !root {
        testing::skip("needs root, to be another user");
    }
    root
}

/// A directory that everybody may enter.
fn public() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    root
}

fn claim(memory: u64) -> Claim {
    let node = NodeClaim { memory: Bytes(memory), ..NodeClaim::default() };
    Claim { pnodes: [(PnodeId(0), node)].into() }
}

fn mode(path: &Path) -> u32 {
    metadata(path).unwrap().mode() & 0o777
}

#[test]
fn claims_go_on_whatever_another_user_locks() {
    if !may_be_another() {
        return;
    }
    let root = public();
    // Open for all to read as earlier versions made it, with what is left of them.
    let directory = root.path().join("claims");
    std::fs::create_dir(&directory).unwrap();
    set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    for left in ["lock", "1-1-1.claim"] {
        std::fs::write(directory.join(left), "{}").unwrap();
    }
    let claims = Claims::open(&directory, None).unwrap();
    let first = claims.lock(&Survey::default()).unwrap().claim(&claim(1)).unwrap();
    let (lock, old, dead) =
        (directory.join("claims.lock"), directory.join("lock"), directory.join("2.claim"));
    assert_eq!((mode(&lock), mode(first.path())), (0o600, 0o600));
    std::fs::write(&dead, r#"{"version":1,"pid":1,"started":1,"claim":{"0":{"memory":7}}}"#).unwrap();
    set_permissions(&dead, Permissions::from_mode(0o644)).unwrap();
    let attacker = Attacker::on(&[root.path(), &directory, &lock, &old, first.path(), &dead], NOBODY);
    for open in [root.path(), &directory, &old, &dead] {
        assert!(attacker.1.iter().any(|opened| Path::new(opened) == open), "{open:?} was not attacked");
    }
    for closed in [&lock, first.path()] {
        assert!(!attacker.1.iter().any(|opened| Path::new(opened) == closed), "{closed:?} can be opened");
    }
    // None of these waits, and what a dead process left does not live on.
    let mut second = claims.lock(&claims.survey().unwrap()).unwrap().claim(&claim(2)).unwrap();
    claims.lock(&Survey::default()).unwrap().replace(&mut second, &claim(3), &Claim::default()).unwrap();
    let memory = |claims: &Claims| -> Vec<u64> {
        let living = claims.living().unwrap();
        let mut all: Vec<u64> = living.iter().map(|vm| vm.claim.total().memory.get()).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(memory(&claims), [1, 3]);
    assert!(!dead.exists());
    drop(first);
    assert_eq!(memory(&claims), [3]);
}

#[test]
fn a_group_that_reads_claims_blocks_nothing() {
    const GROUP: u32 = 4242;
    if !may_be_another() {
        return;
    }
    let root = public();
    let directory = root.path().join("claims");
    let claims = Claims::open(&directory, Some(GROUP)).unwrap();
    let mut held = claims.lock(&Survey::default()).unwrap().claim(&claim(1)).unwrap();
    assert_eq!((mode(&directory), mode(held.path())), (0o750, 0o640));
    let (lock, path) = (directory.join("claims.lock"), held.path().to_owned());
    let stranger = Attacker::on(&[&directory, &lock, &path], NOBODY);
    assert_eq!(stranger.1, Vec::<String>::new());
    let member = Attacker::on(&[&directory, &lock, &path], GROUP);
    assert_eq!(member.1, [directory.to_str().unwrap(), path.to_str().unwrap()]);
    claims.lock(&Survey::default()).unwrap().replace(&mut held, &claim(2), &Claim::default()).unwrap();
    let living = claims.living().unwrap();
    assert_eq!(living.iter().map(|vm| vm.claim.clone()).collect::<Vec<_>>(), [claim(2)]);
    // A member that has a dead VM's file locked does not keep it.
    let dead = directory.join("2.claim");
    std::fs::write(&dead, r#"{"version":1,"pid":1,"started":1,"claim":{"0":{"memory":7}}}"#).unwrap();
    set_permissions(&dead, Permissions::from_mode(0o644)).unwrap();
    let again = Attacker::on(&[&dead], GROUP);
    assert_eq!(again.1, [dead.to_str().unwrap()]);
    assert_eq!(claims.living().unwrap().len(), 1);
}

#[test]
fn a_socket_is_made_in_a_directory_that_another_user_has_locked() {
    if !may_be_another() {
        return;
    }
    let root = public();
    let path = root.path().join("v.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let attacker = Attacker::on(&[root.path(), &path], NOBODY);
    assert_eq!(attacker.1, [root.path().to_str().unwrap()]);
    let (_listener, file) = SocketFile::listen(&path, Access::OWNER, &Janitor::default()).unwrap();
    assert!(UnixStream::connect(file.path()).is_ok());
}

#[test]
fn a_disk_that_another_user_may_read_is_written_whatever_that_user_locks() {
    if !may_be_another() {
        return;
    }
    let root = public();
    let path = root.path().join("disk.raw");
    std::fs::write(&path, [0; 4096]).unwrap();
    set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let writing = DiskOptions::new(&path);
    let reading = DiskOptions { read_only: true, ..DiskOptions::new(&path) };
    let refused = |options: &DiskOptions| RawDisk::open(options).unwrap_err().diagnosis().code;
    for reader_first in [true, false] {
        let reader = reader_first.then(|| RawDisk::open(&reading).unwrap());
        let attacker = Attacker::on(&[&path], NOBODY);
        assert_eq!(attacker.1, [path.to_str().unwrap()], "it can be read, not written");
        let writer = RawDisk::open(&writing).unwrap();
        assert_eq!(refused(&writing), "disk_locked", "two writers");
        drop(writer);
        drop(RawDisk::open(&reading).unwrap());
        drop((attacker, reader));
        let writer = RawDisk::open(&writing).unwrap();
        assert_eq!((refused(&writing), refused(&reading)), ("disk_locked", "disk_locked"));
        // Who comes later can look, and keep nobody out.
        let late = Attacker::on(&[&path], NOBODY);
        drop(writer);
        drop((RawDisk::open(&writing).unwrap(), late));
    }
}
