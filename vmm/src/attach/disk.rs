//! Disks: each file or block device once.

use super::{AttachError, Kind, OnFull, Opening};
use crate::disk::{DiskError, DiskOptions, Identity, RawDisk};
use crate::handle::DiskFull;
use crate::pci::{GuestMemory, HostDevice};
use devices::virtio::blk::{Blk, BlkOptions, Serial};
use resources::devices::{Disk, VmDevices};
use resources::spec::device::DiskInterrupts;
use std::num::NonZeroU16;
use std::sync::Arc;

pub(super) const KIND: Kind = Kind { open, check };

fn open(opening: &mut Opening<'_>) -> Result<(), AttachError> {
    let mut identities = Vec::new();
    for (index, disk) in opening.all.disks.iter().enumerate() {
        given_once(&mut identities, index, disk)?;
        let device = open_disk(index, disk, opening.on_full)?;
        opening.handles.disks.push(device.handle());
        opening.devices.push(HostDevice::new(disk.vnode, format!("blk{index}"), Box::new(device)));
    }
    Ok(())
}

fn check(all: &VmDevices, _ranges: usize) -> Result<(), AttachError> {
    let mut identities = Vec::new();
    for (index, disk) in all.disks.iter().enumerate() {
        given_once(&mut identities, index, disk)?;
        RawDisk::check(&disk_options(disk)).map_err(|source| AttachError::Disk { index, source })?;
    }
    Ok(())
}

/// One file may have several names.
fn given_once(
    before: &mut Vec<(usize, Identity, bool)>,
    index: usize,
    disk: &Disk,
) -> Result<(), AttachError> {
    // What cannot be looked at cannot be opened either, and opening says why.
    let Ok(metadata) = std::fs::metadata(&disk.path) else { return Ok(()) };
    let identity = Identity::of(&metadata);
    let same = |(_, other, read_only): &&(usize, Identity, bool)| {
        *other == identity && !(*read_only && disk.read_only)
    };
    if let Some((other, ..)) = before.iter().find(same) {
        let other = *other;
        return Err(AttachError::Disk { index, source: DiskError::Twice { path: disk.path.clone(), other } });
    }
    before.push((index, identity, disk.read_only));
    Ok(())
}

fn disk_options(disk: &Disk) -> DiskOptions {
    DiskOptions {
        read_only: disk.read_only,
        direct: disk.direct,
        known_raw: disk.known_raw,
        ..DiskOptions::new(&disk.path)
    }
}

fn open_disk(index: usize, disk: &Disk, on_full: &OnFull) -> Result<Blk<GuestMemory>, AttachError> {
    let raw = RawDisk::open(&disk_options(disk)).map_err(|source| AttachError::Disk { index, source })?;
    if let Some(reason) = raw.no_ring() {
        tracing::warn!(disk = index, reason, "io_uring is not available, using helper threads");
    }
    let blk = |source| AttachError::Blk { index, source };
    let options = BlkOptions {
        queues: NonZeroU16::new(disk.queues).unwrap_or(NonZeroU16::MIN),
        shared_vector: disk.interrupts == DiskInterrupts::Node,
        serial: Serial::new(&disk.serial).map_err(blk)?,
    };
    let (on_full, path) = (Arc::clone(on_full), disk.path.clone());
    let raw =
        raw.reporting_full(move |failed| on_full(&DiskFull { disk: index, path: path.clone(), failed }));
    Blk::new(Arc::new(raw), options).map_err(blk)
}

#[cfg(test)]
mod tests {
    use super::{AttachError, given_once};
    use crate::disk::DiskError;
    use resources::VnodeId;
    use resources::devices::Disk;
    use resources::spec::device::DiskInterrupts;
    use std::path::Path;

    fn disk(path: &Path, read_only: bool) -> Disk {
        Disk {
            path: path.to_owned(),
            vnode: VnodeId(0),
            known_raw: false,
            read_only,
            direct: false,
            queues: 1,
            interrupts: DiskInterrupts::Queue,
            serial: String::new(),
        }
    }

    #[test]
    fn a_disk_under_two_names_is_refused_by_the_number_of_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let [file, link, missing] = ["file", "link", "missing"].map(|name| directory.path().join(name));
        std::fs::write(&file, [0; 512]).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (first, second, refused) in
            [(false, false, true), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mut before = Vec::new();
            given_once(&mut before, 0, &disk(&missing, false)).unwrap();
            given_once(&mut before, 1, &disk(&file, first)).unwrap();
            match given_once(&mut before, 2, &disk(&link, second)) {
                Err(AttachError::Disk { index: 2, source: error @ DiskError::Twice { other: 1, .. } }) => {
                    assert!(refused && error.to_string().contains("is the same as disks[1]"), "{error}");
                }
                Ok(()) => assert!(!refused),
                Err(other) => panic!("{other}"),
            }
        }
    }
}
