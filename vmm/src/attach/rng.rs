//! The entropy device: the kernel's random numbers.

use super::{AttachError, Kind, Opening};
use crate::pci::HostDevice;
use crate::sys::HostError;
use devices::virtio::Rng;
use resources::devices::VmDevices;
use std::fs::File;

pub(super) const KIND: Kind = Kind { open, check };

/// Never blocks once the host has booted.
const ENTROPY: &str = "/dev/urandom";

fn open(opening: &mut Opening<'_>) -> Result<(), AttachError> {
    let Some(vnode) = opening.all.rng else { return Ok(()) };
    let device = Rng::new(Box::new(source()?), None);
    opening.devices.push(HostDevice::new(vnode, "rng".to_owned(), Box::new(device)));
    Ok(())
}

fn check(all: &VmDevices, _ranges: usize) -> Result<(), AttachError> {
    all.rng.map_or(Ok(()), |_| source().map(drop))
}

fn source() -> Result<File, AttachError> {
    Ok(File::open(ENTROPY).map_err(|error| HostError::new("open", error).of(ENTROPY))?)
}
