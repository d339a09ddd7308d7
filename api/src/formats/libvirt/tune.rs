//! `<numatune>`, `<cputune>`, `<vcpu cpuset>` and `<memoryBacking>`: placement of memory and vCPUs.

use crate::formats::Refusal;
use crate::formats::libvirt::xml::Element;
use crate::formats::list::{pins, shown};
use crate::formats::notes::Notes;
use resources::set::IdSet;
use resources::spec::Switch;
use resources::{Bytes, CpuList, MemoryPolicy, NodeSet, PageSize, PinSpec, VmSpec, VnodeId, VnodeSpec};
use std::collections::BTreeMap;

/// Nodes and how memory is held there.
type Where = (NodeSet, MemoryPolicy);

/// `<memory>` for all vnodes, `<memnode>` for one.
pub fn numatune(tune: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
    let mut all: Option<Where> = None;
    let mut single: BTreeMap<u32, Where> = BTreeMap::new();
    for child in tune.children() {
        match child.name() {
            "memory" if child.attribute("placement") == Some("auto") => {
                child.note("/@placement auto: the pnodes are chosen when the VM is planned", notes);
            }
            "memory" => all = place(child, notes)?,
            "memnode" => {
                let id = child.number("cellid")?;
                if !spec.numa.iter().any(|vnode| vnode.id == id) {
                    return Err(child.refuse_attribute("cellid", format_args!("cell {id} does not exist")));
                }
                let Some(place) = place(child, notes)? else {
                    return Err(child.refuse_attribute("nodeset", "missing, must be given"));
                };
                if single.insert(id, place).is_some() {
                    return Err(child.refuse_attribute("cellid", format_args!("{id} is given twice")));
                }
            }
            _ => child.left_out(notes),
        }
    }
    for vnode in &mut spec.numa {
        if let Some((nodes, policy)) = single.remove(&vnode.id).or_else(|| all.clone()) {
            (vnode.pnode, vnode.policy) = (Some(nodes), Some(policy));
        }
    }
    Ok(())
}

fn place(element: Element<'_>, notes: &mut Notes) -> Result<Option<Where>, Refusal> {
    let policy = match element.attribute("mode") {
        None | Some("strict") => MemoryPolicy::Bind,
        Some("preferred") => MemoryPolicy::Preferred,
        Some("interleave") => MemoryPolicy::Interleave,
        Some("restrictive") => {
            element.note("/@mode restrictive is taken as policy=bind", notes);
            MemoryPolicy::Bind
        }
        Some(mode) => {
            let what = format!("`{}` is not one of strict, preferred, interleave, restrictive", shown(mode));
            return Err(element.refuse_attribute("mode", what));
        }
    };
    let nodes: NodeSet = element.ids("nodeset")?;
    Ok((!nodes.is_empty()).then_some((nodes, policy)))
}

/// The CPUs of each vCPU: `<vcpupin>`, else those of `<vcpu cpuset>`.
pub fn pinning(domain: Element<'_>, vcpus: u32, notes: &mut Notes) -> Result<Vec<PinSpec>, Refusal> {
    let mut pinned: BTreeMap<u32, CpuList> = BTreeMap::new();
    for child in domain.child("cputune").into_iter().flat_map(Element::children) {
        if child.name() != "vcpupin" {
            child.left_out(notes);
            continue;
        }
        let vcpu: u32 = child.number("vcpu")?;
        // libvirt keeps pins of vCPUs that were taken away; they do nothing.
        if vcpu >= vcpus {
            let what = format!(" of vCPU {vcpu} is ignored: vCPUs are 0 to {}", vcpus - 1);
            child.note(&what, notes);
            continue;
        }
        let Some(cpus) = CpuList::of(&child.ids("cpuset")?) else {
            return Err(child.refuse_attribute("cpuset", "contains no CPU, must contain at least one"));
        };
        if pinned.insert(vcpu, cpus).is_some() {
            let what = format!("vCPU {vcpu} is pinned already, must be pinned once");
            return Err(child.refuse_attribute("vcpu", what));
        }
    }
    if let Some(vcpu) = domain.child("vcpu") {
        if vcpu.attribute("placement") == Some("auto") {
            vcpu.note("/@placement auto is ignored: vCPUs run on the CPUs of their pnodes", notes);
        } else if let Some(cpus) = CpuList::of(&vcpu.ids::<resources::PcpuId>("cpuset")?) {
            for vcpu in 0..vcpus {
                pinned.entry(vcpu).or_insert_with(|| cpus.clone());
            }
        }
    }
    Ok(pins(&pinned))
}

/// Huge pages and when memory is taken.
pub fn backing(backing: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
    for child in backing.children() {
        match (child.name(), child.attribute("mode"), child.attribute("type")) {
            ("hugepages", ..) => huge_pages(child, spec, notes)?,
            ("allocation", Some(mode @ ("immediate" | "ondemand")), _) => {
                let prefault = Some(Switch(mode == "immediate"));
                spec.numa.iter_mut().for_each(|vnode| vnode.prefault = prefault);
            }
            ("access", Some(mode @ ("shared" | "private")), _) => {
                // What a cell says of itself holds.
                let shared = Some(Switch(mode == "shared"));
                spec.numa.iter_mut().for_each(|vnode| vnode.shared = vnode.shared.or(shared));
            }
            // Guest memory is not merged with other guests', and has a file without a name if it is shared.
            ("nosharepages", ..) | ("source", _, Some("anonymous" | "memfd")) => {}
            _ => child.left_out(notes),
        }
    }
    Ok(())
}

fn huge_pages(list: Element<'_>, spec: &mut VmSpec, notes: &mut Notes) -> Result<(), Refusal> {
    let cells: IdSet<VnodeId> = spec.numa.iter().map(|vnode| VnodeId(vnode.id)).collect();
    let mut pages = list.children().filter(|child| child.name() == "page").peekable();
    let mut give = |wanted: &dyn Fn(&VnodeSpec) -> bool, size: PageSize| {
        spec.numa.iter_mut().filter(|vnode| wanted(vnode)).for_each(|vnode| vnode.pages = Some(size));
    };
    if pages.peek().is_none() {
        list.note(" without a size are taken as 2M", notes);
        give(&|_| true, PageSize::Huge2M);
    }
    // Those without a nodeset are for the rest.
    let (mut all, mut some): (Vec<_>, Vec<_>) = pages.partition(|page| page.attribute("nodeset").is_none());
    for page in all.drain(..).chain(some.drain(..)) {
        let size = page.size("size", "KiB")?;
        let size = match size {
            Bytes(4096) => PageSize::Small,
            size if size == Bytes::mib(2) => PageSize::Huge2M,
            size if size == Bytes::gib(1) => PageSize::Huge1G,
            size => {
                return Err(page.refuse_attribute("size", format_args!("{size} is not one of 4K, 2M, 1G")));
            }
        };
        match page.attribute("nodeset") {
            None => give(&|_| true, size),
            Some(_) => {
                let nodes: IdSet<VnodeId> = page.ids("nodeset")?;
                if let Some(beyond) = nodes.difference(&cells).first() {
                    return Err(
                        page.refuse_attribute("nodeset", format_args!("cell {beyond} does not exist"))
                    );
                }
                give(&|vnode| nodes.contains(VnodeId(vnode.id)), size);
            }
        }
    }
    Ok(())
}
