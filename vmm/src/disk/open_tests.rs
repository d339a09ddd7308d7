//! Which disks open, which do not and why, and who may have one.

use super::engine_tests::opened;
use super::{DiskError, DiskOptions, RawDisk};
use crate::ofd_lock::{is_write_locked, whole};
use devices::virtio::blk::Disk;
use nix::fcntl::{FcntlArg, fcntl};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use vm_memory::{GuestAddress, GuestMemoryMmap};

fn disk_in(directory: &TempDir, content: &[u8]) -> PathBuf {
    let path = directory.path().join("disk.raw");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(content).unwrap();
    path
}

fn options(path: &Path, read_only: bool) -> DiskOptions {
    DiskOptions { read_only, ..DiskOptions::new(path) }
}

fn refusal(options: &DiskOptions) -> (&'static str, String) {
    let checked = RawDisk::check(options).unwrap_err();
    let error = RawDisk::open(options).unwrap_err();
    assert_eq!(checked.to_string(), error.to_string());
    let path = options.path.display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
    (error.diagnosis().code, error.to_string().replace(&path, "P"))
}

#[test]
fn a_disk_has_one_writer_whom_no_reader_keeps_out() {
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    // Of this process; another's is another VM's, which the boot tests have.
    let held = "disk P: this process has it open, with requests in flight";
    let writer = RawDisk::open(&options(&path, false)).unwrap();
    let shared = format!("{held}; a writable disk has one user, use readonly=on to share it");
    assert_eq!(refusal(&options(&path, false)), ("disk_locked", shared));
    assert_eq!(refusal(&options(&path, true)), ("disk_locked", format!("{held} for writing")));
    drop(writer);
    let _readers = [opened(&options(&path, true)).unwrap(), opened(&options(&path, true)).unwrap()];
    RawDisk::open(&options(&path, false)).unwrap();
}

/// A read lock on all of it, as whoever may read it can have; QEMU's locks are such too.
fn read_locked(path: &Path, writes: bool) -> std::fs::File {
    let file = std::fs::File::options().read(true).write(writes).open(path).unwrap();
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK).unwrap())).unwrap();
    file
}

#[test]
fn read_locks_keep_a_writer_out_only_if_somebody_has_the_disk_open_for_writing() {
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    let reader = read_locked(&path, false);
    let writer = RawDisk::open(&options(&path, false)).unwrap();
    // It has no lock, and is known to write all the same.
    assert_eq!(refusal(&options(&path, false)).0, "disk_locked");
    drop(writer);
    let other_program = read_locked(&path, true);
    let (code, text) = refusal(&options(&path, false));
    assert_eq!(code, "disk_locked");
    assert!(text.starts_with("disk P: another process holds it"), "{text}");
    drop(other_program);
    drop(opened(&options(&path, false)).unwrap());
    drop(reader);
    // With nobody else there is a lock again.
    let _writer = opened(&options(&path, false)).unwrap();
    assert!(is_write_locked(&std::fs::File::open(&path).unwrap()).unwrap());
}

#[test]
fn a_disk_that_is_read_has_no_lock() {
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    let _reader = RawDisk::open(&options(&path, true)).unwrap();
    let other = std::fs::File::options().write(true).open(&path).unwrap();
    fcntl(&other, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK).unwrap())).unwrap();
}

#[test]
fn a_disk_stays_locked_as_long_as_an_engine_works_on_it() {
    use devices::virtio::blk::DiskBackend;
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    for io_uring in [true, false] {
        let disk = RawDisk::open(&DiskOptions { io_uring, ..DiskOptions::new(&path) }).unwrap();
        let memory: Arc<GuestMemoryMmap> =
            Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap());
        let engine = disk.engine(&memory, 4);
        drop(disk);
        assert!(matches!(RawDisk::open(&DiskOptions::new(&path)), Err(DiskError::Locked { .. })));
        drop(engine);
        RawDisk::open(&DiskOptions::new(&path)).unwrap();
    }
}

#[test]
fn images_of_other_formats_are_refused_with_the_way_to_convert_them() {
    let directory = TempDir::new().unwrap();
    let mut image = b"QFI\xFB\0\0\0\x03".to_vec();
    image.resize(4096, 0);
    let path = disk_in(&directory, &image);
    let convert = "disk P: looks like a qcow2 image, must be raw; if the guest wrote that data, use format=raw, else \
                   convert it: qemu-img convert -f qcow2 -O raw IMAGE disk.raw";
    assert_eq!(refusal(&options(&path, true)), ("disk_format", convert.into()));
    assert_eq!(refusal(&options(&path, false)), ("disk_format", convert.into()));
    RawDisk::open(&DiskOptions { known_raw: true, ..options(&path, false) }).unwrap();
}

#[test]
fn a_disk_can_be_opened_again_at_once_although_threads_wait_for_work() {
    use super::engine_tests::{run, segments};
    use devices::virtio::blk::{DiskBackend, Operation};
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 65536]);
    let memory: Arc<GuestMemoryMmap> =
        Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 65536)]).unwrap());
    for _ in 0..50 {
        let disk = RawDisk::open(&DiskOptions { io_uring: false, ..DiskOptions::new(&path) }).unwrap();
        let mut engine = disk.engine(&memory, 8);
        let read = |i: u64| Operation::Read { offset: i * 512, data: segments(&[(i * 512, 512)]) };
        assert_eq!(run(engine.as_mut(), (0..8).map(read).collect()), [Ok(()); 8]);
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = TempDir::new().unwrap();
    let kind = "disk P: must be a regular file or a block device";
    assert_eq!(refusal(&options(directory.path(), true)), ("disk_kind", kind.into()));
    assert_eq!(refusal(&options(Path::new("/dev/null"), false)), ("disk_kind", kind.into()));
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(&options(&fifo, true)), ("disk_kind", kind.into()));
    let missing = directory.path().join("missing");
    assert_eq!(refusal(&options(&missing, true)).0, "file_not_found");
    let path = disk_in(&directory, &[0; 511]);
    assert_eq!(
        refusal(&options(&path, true)),
        ("disk_short", "disk P: 511 bytes long, must be at least 512".into())
    );
}

#[test]
fn a_new_length_is_seen() {
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    let disk = RawDisk::open(&options(&path, false)).unwrap();
    assert_eq!((disk.length().unwrap(), disk.name()), (4096, path.display().to_string()));
    for length in [1 << 40, 512, 0] {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_eq!(disk.length().unwrap(), length);
    }
}

#[test]
fn the_engine_is_the_one_that_was_asked_for_or_there_is_a_reason() {
    let directory = TempDir::new().unwrap();
    let path = disk_in(&directory, &[0; 4096]);
    let plain = RawDisk::open(&DiskOptions { io_uring: false, ..DiskOptions::new(&path) }).unwrap();
    assert_eq!((plain.engine_name(), plain.no_ring()), ("plain", None));
    drop(plain);
    let disk = RawDisk::open(&DiskOptions::new(&path)).unwrap();
    assert_eq!(disk.engine_name() == "io_uring", disk.no_ring().is_none());
}
