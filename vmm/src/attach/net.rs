//! Network interfaces: a tap each.

use super::{AttachError, Kind, Opening};
use crate::net::{Interface, InterfaceOptions, TapSource, Vhost};
use crate::pci::HostDevice;
use devices::virtio::net::MacAddress;
use resources::devices::{Net, Tap, VmDevices};

pub(super) const KIND: Kind = Kind { open, check };

fn open(opening: &mut Opening<'_>) -> Result<(), AttachError> {
    for (index, net) in opening.all.nets.iter().enumerate() {
        let device = Interface::open(&interface_options(net, opening.ranges))
            .and_then(|interface| interface.device())
            .map_err(|source| AttachError::Net { index, source })?;
        opening.handles.nets.push(device.handle());
        opening.devices.push(HostDevice::new(net.vnode, format!("net{index}"), Box::new(device)));
    }
    Ok(())
}

fn check(all: &VmDevices, ranges: usize) -> Result<(), AttachError> {
    for (index, net) in all.nets.iter().enumerate() {
        let options = interface_options(net, ranges);
        Interface::check(&options).map_err(|source| AttachError::Net { index, source })?;
    }
    Ok(())
}

fn interface_options(net: &Net, ranges: usize) -> InterfaceOptions {
    InterfaceOptions {
        tap: match &net.tap {
            Tap::Name(name) => TapSource::Name(name.clone()),
            Tap::Fd(fd) => TapSource::Descriptors(vec![*fd]),
        },
        mac: net.mac.and_then(|mac| MacAddress::new(mac.bytes()).ok()),
        mtu: net.mtu,
        queues: net.queues,
        vhost: if net.vhost { Vhost::Auto } else { Vhost::Off },
        ranges,
    }
}
