//! `<cpu><numa>`: cells with their memory, vCPUs, distances and memory-side caches.

use crate::formats::Refusal;
use crate::formats::libvirt::interconnects::interconnects;
use crate::formats::libvirt::xml::Element;
use crate::formats::list::{distance, shown};
use crate::formats::notes::Notes;
use resources::distance::DistanceSpec;
use resources::spec::{CacheAssociativity, CacheWritePolicy, Switch};
use resources::topology::MAX_VNODES;
use resources::{AttributeSpec, Bytes, CacheSpec, VcpuSet, VnodeSpec};
use std::collections::BTreeSet;

/// What stands in `<numa>`.
#[derive(Default)]
pub struct Cells {
    /// In the order of the document.
    pub vnodes: Vec<VnodeSpec>,
    /// As given: the rule that completes them is `resources`'.
    pub distances: Vec<DistanceSpec>,
    /// Latency and bandwidth.
    pub attributes: Vec<AttributeSpec>,
    /// Memory-side caches.
    pub caches: Vec<CacheSpec>,
}

impl Cells {
    /// The sum of all cells.
    pub fn memory(&self) -> Bytes {
        self.vnodes.iter().filter_map(|vnode| vnode.memory).fold(Bytes::ZERO, Bytes::saturating_add)
    }
}

/// Reads the cells; none where there is none.
pub fn cells(numa: Element<'_>, notes: &mut Notes) -> Result<Option<Cells>, Refusal> {
    let count = numa.children().filter(|child| child.name() == "cell").count();
    if count > MAX_VNODES as usize {
        return Err(numa.refuse(format_args!("{count} cells, must be at most {MAX_VNODES}")));
    }
    let count = u32::try_from(count).unwrap_or(MAX_VNODES);
    let mut cells = Cells::default();
    for child in numa.children() {
        match child.name() {
            "cell" => cell(child, count, &mut cells, notes)?,
            "interconnects" => cells.attributes = interconnects(child, count, notes)?,
            _ => child.left_out(notes),
        }
    }
    Ok((count > 0).then_some(cells))
}

fn cell(cell: Element<'_>, count: u32, cells: &mut Cells, notes: &mut Notes) -> Result<(), Refusal> {
    let id = match cell.attribute("id") {
        Some(_) => node(cell, "id", count)?,
        None => u32::try_from(cells.vnodes.len()).unwrap_or(u32::MAX),
    };
    if cells.vnodes.iter().any(|vnode| vnode.id == id) {
        return Err(cell.refuse_attribute("id", format_args!("{id} is given twice, ids must differ")));
    }
    if cell.attribute("discard").is_some() {
        cell.note("/@discard is ignored", notes);
    }
    let shared = match cell.attribute("memAccess") {
        None => None,
        Some(word @ ("shared" | "private")) => Some(Switch(word == "shared")),
        Some(word) => {
            let what = format!("`{}` is not one of shared, private", shown(word));
            return Err(cell.refuse_attribute("memAccess", what));
        }
    };
    let vcpus: VcpuSet = cell.ids("cpus")?;
    let memory = Some(cell.size("memory", "KiB")?);
    cells.vnodes.push(VnodeSpec { memory, vcpus: Some(vcpus), shared, ..VnodeSpec::new(id) });
    for child in cell.children() {
        match child.name() {
            "distances" => distances(id, child, count, cells, notes)?,
            "cache" => cells.caches.push(cache(id, child)?),
            "caches" => {
                for cache in child.children() {
                    cells.caches.push(self::cache(id, cache)?);
                }
            }
            _ => child.left_out(notes),
        }
    }
    Ok(())
}

/// An attribute that is the id of a cell.
pub fn node(element: Element<'_>, name: &str, count: u32) -> Result<u32, Refusal> {
    let id: u32 = element.number(name)?;
    if id >= count {
        let what = format!("cell {id} does not exist, cells are 0 to {}", count.saturating_sub(1));
        return Err(element.refuse_attribute(name, what));
    }
    Ok(id)
}

fn distances(
    from: u32,
    list: Element<'_>,
    count: u32,
    cells: &mut Cells,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for sibling in list.children() {
        if sibling.name() != "sibling" {
            sibling.left_out(notes);
            continue;
        }
        let to = node(sibling, "id", count)?;
        let value = distance(from, to, sibling.number("value")?);
        let value = value.map_err(|why| sibling.refuse_attribute("value", why))?;
        if !seen.insert(to) {
            let what = format!("{to} is given twice in cell {from}, must be given once");
            return Err(sibling.refuse_attribute("id", what));
        }
        cells.distances.push(DistanceSpec { from, to, value });
    }
    Ok(())
}

fn cache(vnode: u32, cache: Element<'_>) -> Result<CacheSpec, Refusal> {
    let part = |name: &str| cache.child(name).ok_or_else(|| cache.refuse(format_args!("{name} is missing")));
    let line = part("line")?;
    let bytes = line.size("value", "B")?;
    let associativity = match cache.attribute("associativity") {
        None | Some("none") => CacheAssociativity::None,
        Some("direct") => CacheAssociativity::Direct,
        Some("full") => CacheAssociativity::Complex,
        Some(word) => {
            let what = format!("`{}` is not one of none, direct, full", shown(word));
            return Err(cache.refuse_attribute("associativity", what));
        }
    };
    let policy = match cache.attribute("policy") {
        None | Some("none") => CacheWritePolicy::None,
        Some("writeback") => CacheWritePolicy::WriteBack,
        Some("writethrough") => CacheWritePolicy::WriteThrough,
        Some(word) => {
            let what = format!("`{}` is not one of none, writeback, writethrough", shown(word));
            return Err(cache.refuse_attribute("policy", what));
        }
    };
    Ok(CacheSpec {
        vnode,
        size: part("size")?.size("value", "B")?,
        level: cache.number("level")?,
        associativity,
        policy,
        line: u16::try_from(bytes.get())
            .map_err(|_| line.refuse_attribute("value", format_args!("{bytes} is more than 65535 bytes")))?,
    })
}
