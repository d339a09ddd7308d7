//! A balloon device for each vnode with memory that it can give back.

use super::board::Entry;
use super::host::{Books, VnodeHost};
use super::leases::Leases;
use crate::attach::Attached;
use crate::memory::GuestRam;
use crate::sys::HostError;
use devices::virtio::balloon::{Balloon, BalloonOptions};
use resources::{Bytes, Plan, Vnode};
use std::sync::Arc;

/// Makes the devices, in the order of their vnodes, and what stays with the control loop.
pub fn attach(
    plan: &Plan,
    ram: &Arc<GuestRam>,
    leases: &Arc<Leases>,
) -> Result<(Vec<Attached>, Arc<[Entry]>), HostError> {
    let can = |vnode: &&Vnode| vnode.memory > Bytes::ZERO;
    let books = Arc::new(Books::new(&plan.topology));
    // Any balloon may get pages of any vnode.
    let pools = plan.topology.vnodes().iter().filter(can).any(|vnode| vnode.pages.pool().is_some());
    let (mut attached, mut entries) = (Vec::new(), Vec::new());
    for vnode in plan.topology.vnodes().iter().filter(can) {
        let options = BalloonOptions {
            apic_ids: vnode.vcpus.iter().map(|vcpu| plan.cpus.apic_id(vcpu).0).collect(),
            // The guest's figures are of all its nodes, and so are its hints, so one device has them; Linux takes reporting from one only.
            statistics: entries.is_empty(),
            hinting: entries.is_empty(),
            reporting: plan.devices.free_page_reporting && entries.is_empty(),
            must_tell: pools,
        };
        let meter = Arc::clone(&books.of(vnode.id).meter);
        let host = VnodeHost::new(Arc::clone(ram), vnode.id, Arc::clone(&books), Arc::clone(leases));
        let device = Balloon::new(options, Arc::new(host)).map_err(|e| HostError::new("eventfd", e))?;
        entries.push(Entry::new(vnode, device.handle(), meter, Arc::clone(leases)));
        let name = format!("balloon{}", vnode.id);
        attached.push(Attached { vnode: vnode.id, name, device: Box::new(device), gauge: None });
    }
    Ok((attached, entries.into()))
}
