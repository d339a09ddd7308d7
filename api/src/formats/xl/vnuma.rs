//! `vnuma` of xl.cfg(5): a list of nodes, each a list of `KEY=VALUE` strings in any order; the nth is vnode n. xl
//! itself hardly checks the numbers; settings that would give a broken guest are errors here.

use crate::formats::Refusal;
use crate::formats::list::{distance, ids, number, shown};
use crate::formats::xl::syntax::{Value, What};
use resources::distance::DistanceSpec;
use resources::topology::MAX_VNODES;
use resources::{Bytes, NodeSet, PnodeId, VcpuSet, VnodeSpec};

const KEYS: &str = "pnode, size, vcpus, vdistances";

/// The vnodes and the distances between them.
pub struct Vnuma {
    /// Where the list starts.
    pub line: usize,
    /// In order.
    pub vnodes: Vec<VnodeSpec>,
    /// One for each pair of different vnodes that was given.
    pub distances: Vec<DistanceSpec>,
}

impl Vnuma {
    /// The sum of all sizes.
    pub fn memory(&self) -> Bytes {
        self.vnodes.iter().filter_map(|vnode| vnode.memory).fold(Bytes::ZERO, Bytes::saturating_add)
    }

    /// All vCPUs.
    pub fn vcpus(&self) -> VcpuSet {
        self.vnodes.iter().filter_map(|v| v.vcpus.as_ref()).fold(VcpuSet::new(), |all, set| all.union(set))
    }
}

/// Reads the list; none for an empty one.
pub fn read(value: &Value) -> Result<Option<Vnuma>, Refusal> {
    let What::List(nodes) = &value.what else {
        return Err(Refusal::at(value.line, "vnuma: must be a list of lists"));
    };
    if nodes.len() > MAX_VNODES as usize {
        let what = format!("vnuma: {} vnodes, must be at most {MAX_VNODES}", nodes.len());
        return Err(Refusal::at(value.line, what));
    }
    let mut vnuma = Vnuma { line: value.line, vnodes: Vec::new(), distances: Vec::new() };
    for (id, node) in (0..).zip(nodes) {
        vnode(id, node, nodes.len(), &mut vnuma)?;
    }
    Ok((!nodes.is_empty()).then_some(vnuma))
}

fn vnode(id: u32, node: &Value, count: usize, vnuma: &mut Vnuma) -> Result<(), Refusal> {
    let What::List(options) = &node.what else {
        return Err(Refusal::at(node.line, format_args!("vnuma[{id}]: must be a list of KEY=VALUE texts")));
    };
    let mut seen: Vec<&str> = Vec::new();
    let mut vnode = VnodeSpec::new(id);
    for option in options {
        let refuse = |what: String| Refusal::at(option.line, format_args!("vnuma[{id}]{what}"));
        let What::Text(text) = &option.what else {
            return Err(refuse(": must be a list of KEY=VALUE texts".into()));
        };
        let Some((key, value)) = text.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            return Err(refuse(format!(": `{}` is not KEY=VALUE", shown(text))));
        };
        if seen.contains(&key) {
            return Err(refuse(format!(".{key}: given twice, must be given once")));
        }
        let about = |why: String| refuse(format!(".{key}: {why}"));
        match key {
            "pnode" => vnode.pnode = Some(NodeSet::one(PnodeId(number(value).map_err(about)?))),
            "size" => vnode.memory = Some(mebibytes(value).map_err(about)?),
            "vcpus" => vnode.vcpus = Some(ids(value).map_err(about)?),
            "vdistances" => vnuma.distances.extend(row(id, value, count).map_err(about)?),
            _ => return Err(refuse(format!(".{}: unknown key, must be one of {KEYS}", shown(key)))),
        }
        seen.push(key);
    }
    if vnode.memory.is_none() {
        return Err(Refusal::at(node.line, format_args!("vnuma[{id}].size: missing, every vnode needs one")));
    }
    vnode.vcpus.get_or_insert_default();
    vnuma.vnodes.push(vnode);
    Ok(())
}

/// A number of MiB.
pub fn mebibytes(text: &str) -> Result<Bytes, String> {
    let mib: u64 = number(text)?;
    mib.checked_mul(1 << 20).map(Bytes).ok_or_else(|| format!("{} is too large", shown(text)))
}

fn row(id: u32, text: &str, count: usize) -> Result<Vec<DistanceSpec>, String> {
    let values = text.split(',').map(number);
    let values: Vec<u64> = values.collect::<Result<_, _>>()?;
    if values.len() != count {
        return Err(format!("{} distances, must be {count}, one to each vnode", values.len()));
    }
    let mut row = Vec::new();
    for (to, value) in (0..).zip(values) {
        let value = distance(id, to, value)?;
        if id != to {
            row.push(DistanceSpec { from: id, to, value });
        }
    }
    Ok(row)
}
