//! A block device as a disk: a loop device, where this host lets us make one.

use super::engine_tests::{opened, run, segments};
use super::{DiskError, DiskOptions, RawDisk};
use devices::virtio::blk::{Disk, DiskBackend, Extent, Operation};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const DISK_BYTES: u64 = 4 << 20;

/// A loop device that goes away with this.
struct Loop(PathBuf);

impl Loop {
    fn on(file: &Path, sector: u32) -> Option<Self> {
        let size = sector.to_string();
        let made =
            Command::new("losetup").args(["--find", "--show", "--sector-size", &size]).arg(file).output();
        let path = match made {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
            Ok(output) => {
                testing::skip(String::from_utf8_lossy(&output.stderr).trim());
                return None;
            }
            Err(error) => {
                testing::skip(format_args!("losetup: {error}"));
                return None;
            }
        };
        Some(Self(PathBuf::from(path.trim())))
    }

    fn losetup(&self, option: &str) {
        assert!(Command::new("losetup").arg(option).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("-d").arg(&self.0).status());
    }
}

#[test]
fn a_block_device_is_a_disk_of_its_own_shape() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backing");
    std::fs::write(&file, vec![7; usize::try_from(DISK_BYTES).unwrap()]).unwrap();
    let Some(device) = Loop::on(&file, 4096) else { return };
    for (io_uring, direct) in [(false, false), (true, false), (false, true), (true, true)] {
        let way = format!("io_uring={io_uring} direct={direct}");
        let options = DiskOptions { io_uring, direct, ..DiskOptions::new(&device.0) };
        let disk = opened(&options).unwrap();
        let shape = disk.shape();
        assert_eq!((disk.length().unwrap(), shape.logical_block), (DISK_BYTES, 4096), "{way}");
        assert!(shape.physical_block >= 4096, "{way}: {shape:?}");
        let memory: Arc<GuestMemoryMmap> =
            Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap());
        memory.write_slice(&[9; 8192], GuestAddress(0x100)).unwrap();
        let mut engine = disk.engine(&memory, 4);
        let extent = |offset, unmap| Extent { offset, length: 65536, unmap };
        let durable = true;
        let write = Operation::Write { offset: 4096, data: segments(&[(0x100, 8192)]), durable };
        let kept = Operation::WriteZeroes { extents: vec![extent(1 << 20, false)], durable };
        let given = Operation::WriteZeroes { extents: vec![extent(2 << 20, true)], durable };
        assert_eq!(run(engine.as_mut(), vec![write, kept, given, Operation::Flush]), [Ok(()); 4], "{way}");
        if shape.discard.is_some() {
            let discard = Operation::Discard(vec![extent(3 << 20, false)]);
            assert_eq!(run(engine.as_mut(), vec![discard]), [Ok(())], "{way}");
        }
        let reads = [4096_u64, 1 << 20, 2 << 20, 3 << 20].map(|offset| Operation::Read {
            offset,
            data: segments(&[(0x4000 + (offset >> 20) * 0x1010, 4096)]),
        });
        assert_eq!(run(engine.as_mut(), reads.to_vec()), [Ok(()); 4], "{way}");
        let read = |megabyte: u64| {
            let mut bytes = vec![0; 4096];
            memory.read_slice(&mut bytes, GuestAddress(0x4000 + megabyte * 0x1010)).unwrap();
            bytes
        };
        assert_eq!(read(0), [9; 4096], "{way}");
        assert_eq!((read(1), read(2)), (vec![0; 4096], vec![0; 4096]), "{way}");
    }
    assert!(std::fs::metadata(&file).unwrap().blocks() * 512 < DISK_BYTES, "space was given back");
}

#[test]
fn a_block_device_that_is_written_has_one_writer_and_grows() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backing");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let Some(device) = Loop::on(&file, 512) else { return };
    let disk = RawDisk::open(&DiskOptions::new(&device.0)).unwrap();
    let error = RawDisk::open(&DiskOptions::new(&device.0)).unwrap_err();
    assert!(matches!(error, DiskError::Open { .. }), "exclusive: {error}");
    let read_only = DiskOptions { read_only: true, ..DiskOptions::new(&device.0) };
    assert!(matches!(RawDisk::open(&read_only), Err(DiskError::Locked { .. })));
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(3 << 20).unwrap();
    device.losetup("-c");
    assert_eq!(disk.length().unwrap(), 3 << 20);
}

/// A file system of 64 KiB that goes away with this.
struct Small(TempDir);

impl Small {
    fn new() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(directory.path())
            .output()
            .map(|output| (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()));
        match mounted {
            Ok((true, _)) => Some(Self(directory)),
            Ok((false, error)) => {
                testing::skip(error.trim());
                None
            }
            Err(error) => {
                testing::skip(format_args!("mount: {error}"));
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

#[test]
fn a_write_that_finds_the_file_system_full_fails_and_is_reported_once() {
    let Some(small) = Small::new() else { return };
    let path = small.0.path().join("disk.raw");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for io_uring in [true, false] {
        let hears = Arc::clone(&told);
        let disk = opened(&DiskOptions { io_uring, ..DiskOptions::new(&path) }).unwrap();
        let disk = disk.reporting_full(move |failed| hears.lock().unwrap().push(failed));
        let memory: Arc<GuestMemoryMmap> =
            Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap());
        let mut engine = disk.engine(&memory, 4);
        let write = |offset| Operation::Write { offset, data: segments(&[(0, 65536)]), durable: false };
        let results = run(engine.as_mut(), vec![write(0)]);
        assert_eq!(results, [Ok(())], "there is room for that");
        for offset in [1 << 17, 1 << 18] {
            assert_eq!(run(engine.as_mut(), vec![write(offset)]), [Err(ErrorKind::StorageFull)]);
        }
        assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [1], "io_uring={io_uring}");
    }
}
