//! Whether the devices of a plan could be opened now: the same refusals as of opening them, and nothing is left behind.
//! Opening them for a VM is left to the module above.

use super::{AttachError, ENTROPY, disk_options, given_once, interface_options};
use crate::console;
use crate::disk::RawDisk;
use crate::net::{Interface, SocketHost};
use crate::sys::HostError;
use resources::devices::VmDevices;
use std::fs::File;

/// Why a device cannot be opened now. Guest memory will lie in so many `ranges`.
pub fn check(all: &VmDevices, ranges: usize) -> Result<(), AttachError> {
    let mut identities = Vec::new();
    for (index, disk) in all.disks.iter().enumerate() {
        given_once(&mut identities, index, disk)?;
        RawDisk::check(&disk_options(disk)).map_err(|source| AttachError::Disk { index, source })?;
    }
    for (index, net) in all.nets.iter().enumerate() {
        let options = interface_options(net, ranges);
        Interface::check(&options).map_err(|source| AttachError::Net { index, source })?;
    }
    if let Some(vsock) = &all.vsock {
        match &vsock.socket {
            Some(socket) => SocketHost::check_unix(vsock.cid, socket),
            // Asks for the context id and gives it back.
            None => SocketHost::kernel(vsock.cid, ranges).map(drop),
        }
        .map_err(AttachError::Vsock)?;
    }
    if let Some(console) = &all.console {
        console::check(&console.end)?;
    }
    if all.rng.is_some() {
        File::open(ENTROPY).map_err(|error| HostError::new("open", error).of(ENTROPY))?;
    }
    Ok(())
}
