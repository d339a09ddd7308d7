//! A balloon device for each vnode with memory that it can give back.

use super::board::Entry;
use super::host::{Books, DiscardCounters, VnodeHost};
use super::leases::Leases;
use crate::memory::GuestRam;
use crate::pci::{DeviceHandle, HostDevice};
use crate::sys::HostError;
use devices::virtio::VirtioCounters;
use devices::virtio::balloon::{Balloon, BalloonCounters, BalloonOptions};
use resources::{Bytes, Plan, Vnode, VnodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is counted of each vnode's balloon. It stays when a guest resets, while balloons come and go with the memory.
pub type AllCounters = BTreeMap<VnodeId, Counters>;

/// What is counted of one.
#[derive(Default)]
pub struct Counters {
    device: Arc<BalloonCounters>,
    discards: Arc<DiscardCounters>,
    transport: Arc<VirtioCounters>,
}

/// Makes the devices, in the order of their vnodes, and the entries of their controllers. They go on counting in `counters`.
pub fn attach(
    plan: &Plan,
    ram: &Arc<GuestRam>,
    leases: &Arc<Leases>,
    counters: &mut AllCounters,
) -> Result<(Vec<HostDevice>, Arc<[Entry]>), HostError> {
    let can = |vnode: &&Vnode| vnode.memory > Bytes::ZERO;
    for vnode in plan.topology.vnodes() {
        counters.entry(vnode.id).or_default();
    }
    let discards = |vnode| counters.get(&vnode).map(|of| Arc::clone(&of.discards)).unwrap_or_default();
    let books = Arc::new(Books::new(&plan.topology, discards));
    // Any balloon may get pages of any vnode.
    let pools = plan.topology.vnodes().iter().filter(can).any(|vnode| vnode.pages.pool().is_some());
    let (mut devices, mut entries) = (Vec::new(), Vec::new());
    for vnode in plan.topology.vnodes().iter().filter(can) {
        let options = BalloonOptions {
            apic_ids: vnode.vcpus.iter().map(|vcpu| plan.cpus.apic_id(vcpu).0).collect(),
            // The guest's figures are of all its nodes, and so are its hints, so one device has them; Linux takes reporting from one only.
            statistics: entries.is_empty(),
            hinting: entries.is_empty(),
            reporting: plan.devices.free_page_reporting && entries.is_empty(),
            must_tell: pools,
        };
        let Counters { device, discards, transport } = counters.entry(vnode.id).or_default();
        let host = VnodeHost::new(Arc::clone(ram), vnode.id, Arc::clone(&books), Arc::clone(leases));
        let balloon = Balloon::new(options, Arc::new(host), Arc::clone(device));
        let balloon = balloon.map_err(|error| HostError::new("eventfd", error))?;
        let book = Arc::clone(books.of(vnode.id));
        entries.push(Entry::new(vnode, balloon.handle(), book, Arc::clone(leases)));
        let handle = DeviceHandle {
            vnode: vnode.id,
            name: format!("balloon{}", vnode.id),
            transport: Arc::clone(transport),
            figures: vec![Arc::new(balloon.handle()), Arc::clone(discards) as _],
        };
        devices.push(HostDevice { handle, device: Box::new(balloon) });
    }
    Ok((devices, entries.into()))
}

#[cfg(test)]
mod tests {
    use super::{AllCounters, Leases, attach};
    use crate::memory::GuestRam;
    use resources::{Plan, VmSpec};
    use std::sync::Arc;

    #[test]
    fn the_balloons_of_a_guest_that_starts_again_go_on_counting() {
        let spec = VmSpec { vnodes: Some(2.into()), vcpus: Some(2), ..VmSpec::default() };
        let host = resources::test_host::HostShape::new(1).topology();
        let plan = Plan::new(&spec, &host).unwrap();
        let ram = Arc::new(GuestRam::new(&plan).unwrap());
        let mut counters = AllCounters::default();
        for round in 1..=3 {
            let (devices, entries) = attach(&plan, &ram, &Arc::<Leases>::default(), &mut counters).unwrap();
            devices[1].handle.transport.activations.one();
            entries[1].handle.counters().rollbacks.one();
            entries[1].book.counters.discards.one();
            let view = devices[1].handle.view();
            let of = |name| view.figures.iter().find(|figure| figure.name == name).unwrap().value;
            assert_eq!((view.name.as_str(), view.counters.activations.get()), ("balloon1", round));
            assert_eq!((of("rollbacks"), of("discards")), (round, round));
            let first = devices[0].handle.view();
            assert!(first.figures.iter().all(|figure| figure.value == 0), "{first:?}");
        }
    }
}
