//! The virtio console: a socket or a file.

use super::{AttachError, Kind, Opening};
use crate::console;
use crate::pci::HostDevice;
use devices::virtio::console::Console;
use resources::devices::VmDevices;

pub(super) const KIND: Kind = Kind { open, check };

fn open(opening: &mut Opening<'_>) -> Result<(), AttachError> {
    let Some(spec) = &opening.all.console else { return Ok(()) };
    let device = Console::new(console::open(&spec.end, opening.janitor)?);
    opening.devices.push(HostDevice::new(spec.vnode, "console".to_owned(), Box::new(device)));
    Ok(())
}

fn check(all: &VmDevices, _ranges: usize) -> Result<(), AttachError> {
    all.console.as_ref().map_or(Ok(()), |spec| Ok(console::check(&spec.end)?))
}
