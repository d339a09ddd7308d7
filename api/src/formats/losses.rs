//! Parts of a spec that another format cannot express. Each format's own module writes the rest.

use crate::formats::Format;
use crate::formats::notes::Notes;
use resources::{Affinity, MemoryPolicy, PageSize, VmSpec, VmTopology, Vnode};

/// Notes each loss once, with the first vnode it is true of.
pub fn note(format: Format, spec: &VmSpec, topology: &VmTopology, notes: &mut Notes) {
    let (libvirt, xl, qemu) = (format == Format::Libvirt, format == Format::Xl, format == Format::Qemu);
    if spec.distances_from.is_some() {
        notes.of("distances_from is ignored: the distances depend on the host");
    }
    if spec.attributes_from.is_some() {
        notes.of("attributes_from is ignored: the values depend on the host");
    }
    let devices = [
        ("disks", !spec.disks.is_empty()),
        ("nets", !spec.nets.is_empty()),
        ("vsock", spec.vsock.is_some()),
        ("console", spec.console.is_some()),
        ("rng", spec.rng.is_some()),
        ("free_page_reporting", spec.free_page_reporting.is_some()),
    ];
    for (name, _) in devices.into_iter().filter(|(_, given)| *given) {
        notes.of(format!("{name}: devices are ignored"));
    }
    let mut first = |holds: &dyn Fn(&Vnode) -> bool, what: &str| {
        if let Some(vnode) = topology.vnodes().iter().find(|vnode| holds(vnode)) {
            notes.of(format!("vnodes[{}].{what}", vnode.id));
        }
    };
    let affinity = |vnode: &Vnode| vnode.affinity != Affinity::Soft && !vnode.vcpus.is_empty();
    first(&affinity, "affinity is ignored: replaced by pins");
    let unbound = |vnode: &Vnode| vnode.asked.is_none() && vnode.policy != MemoryPolicy::Bind;
    first(&unbound, "policy is ignored: it needs a pnode");
    let cpu_only = |vnode: &Vnode| vnode.asked.is_some() && vnode.memory.get() == 0;
    if qemu {
        first(&cpu_only, "pnode is ignored: it would belong to a memory backend");
        first(&|vnode| vnode.pages == PageSize::Small, "pages is ignored: there is no word for 4K");
    }
    if xl {
        let policy = |vnode: &Vnode| vnode.asked.is_some() && vnode.policy != MemoryPolicy::Bind;
        first(&policy, "policy is ignored: memory lies on its pnode");
        let several = |vnode: &Vnode| vnode.asked.as_ref().is_some_and(|asked| asked.len() > 1);
        first(&several, "pnode: only the first is written");
        first(&|vnode| vnode.pages != PageSize::Thp, "pages is ignored: there is no word for it");
        let prefault = |vnode: &Vnode| vnode.prefault != vnode.pages.pool().is_some();
        first(&prefault, "prefault is ignored: there is no word for it");
        first(&|vnode| vnode.shared, "shared is ignored: there is no word for it");
    }
    let attached = |vnode: &Vnode| vnode.initiator.is_some_and(|initiator| initiator != vnode.id);
    if libvirt || xl {
        first(&attached, "initiator is ignored: it is not supported");
    }
    if libvirt && crate::formats::libvirt::allocation(topology).is_none() {
        notes.of("prefault is ignored: it is the same for all vnodes");
    }
    if xl && topology.attributes().is_some() {
        notes.of("attributes are ignored: HMAT is not supported");
    }
    if xl && !topology.caches().is_empty() {
        notes.of("caches are ignored: HMAT is not supported");
    }
    let host_wide = topology.pins().values().any(|list| list.cpus().is_none());
    if libvirt && host_wide {
        notes.of("pins with all or nodes are ignored: lists have numbers only");
    }
    if qemu && crate::formats::qemu::packages(topology).is_none() {
        notes.of(
            "a package per vnode is ignored: QEMU has packages of one size, their CPUs numbered in a row",
        );
    }
    if qemu && !topology.pins().is_empty() {
        notes.of("pins are ignored: there is no word for them");
    }
}
