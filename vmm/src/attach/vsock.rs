//! The socket device: unix sockets of ours, or the kernel's.

use super::{AttachError, Kind, Opening};
use crate::net::{SocketDevice, SocketHost};
use crate::pci::{GuestMemory, HostDevice};
use devices::virtio::VirtioDevice;
use resources::devices::VmDevices;

pub(super) const KIND: Kind = Kind { open, check };

fn open(opening: &mut Opening<'_>) -> Result<(), AttachError> {
    let Some(vsock) = &opening.all.vsock else { return Ok(()) };
    let host = match &vsock.socket {
        Some(socket) => SocketHost::unix(vsock.cid, socket, opening.janitor),
        None => SocketHost::kernel(vsock.cid, opening.ranges),
    };
    let device: Box<dyn VirtioDevice<GuestMemory>> = match host.map_err(AttachError::Vsock)?.device() {
        SocketDevice::Unix(device) => Box::new(device),
        SocketDevice::Kernel(device) => Box::new(device),
    };
    opening.devices.push(HostDevice::new(vsock.vnode, "vsock".to_owned(), device));
    Ok(())
}

fn check(all: &VmDevices, ranges: usize) -> Result<(), AttachError> {
    let Some(vsock) = &all.vsock else { return Ok(()) };
    match &vsock.socket {
        Some(socket) => SocketHost::check_unix(vsock.cid, socket),
        // Asks for the context id and gives it back.
        None => SocketHost::kernel(vsock.cid, ranges).map(drop),
    }
    .map_err(AttachError::Vsock)
}
