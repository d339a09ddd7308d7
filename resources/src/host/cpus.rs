//! Online nodes and CPUs, and the CPUs of each node: from current sysfs files, or their older equivalents.

use crate::host::HostError;
use crate::host::files::{numbered, refused, text, value};
use crate::host::read::MAX_PNODES;
use crate::ids::PcpuId;
use crate::set::{CpuSet, MAX_ID, NodeSet};
use std::path::Path;

/// Most CPUs of which each is asked whether it is online: Linux's largest `NR_CPUS`.
const MAX_CPUS: usize = 8192;
const CPU_LIST: &str = "is not a list of CPUs";
const NODE_LIST: &str = "is not a list of nodes";

/// The online nodes: those of `online`, or else those of `possible` that have a directory, as only online nodes do.
pub fn online_nodes(root: &Path) -> Result<NodeSet, HostError> {
    let online = root.join("online");
    let ids = match node_list(&online)? {
        Some(ids) => ids,
        None => {
            let there: NodeSet = numbered(root, "node")?;
            let possible = node_list(&root.join("possible"))?;
            let ids = possible.map_or_else(|| there.clone(), |possible| there.intersection(&possible));
            if ids.is_empty() {
                return Err(HostError::Missing { path: online });
            }
            ids
        }
    };
    match ids.len() {
        1..=MAX_PNODES => Ok(ids),
        _ => Err(refused(&online, &ids.to_string(), "must name 1 to 1024 nodes")),
    }
}

/// The online CPUs: those of `online`, or else those of `present`, or that have a directory, whose own `online` is not 0.
/// A CPU that cannot be unplugged has no such file. `None` if the tree does not tell.
pub fn online_cpus(root: &Path) -> Result<Option<CpuSet>, HostError> {
    if let Some(online) = value(&root.join("online"), CPU_LIST)? {
        return Ok(Some(online));
    }
    let path = root.join("present");
    let present: CpuSet = match value(&path, CPU_LIST)? {
        Some(present) => present,
        None => numbered(root, "cpu")?,
    };
    if present.len() > MAX_CPUS {
        return Err(refused(&path, &present.to_string(), "must name at most 8192 CPUs"));
    }
    let mut online = Vec::with_capacity(present.len());
    for cpu in present.iter() {
        let path = root.join(format!("cpu{cpu}/online"));
        match text(&path)?.as_deref() {
            None | Some("1") => online.push(cpu),
            Some("0") => {}
            Some(other) => return Err(refused(&path, other, "must be 0 or 1")),
        }
    }
    Ok((!present.is_empty()).then(|| online.into_iter().collect()))
}

/// The CPUs of a node: its `cpulist`, or else its `cpumap`, or else its links to them. `None` if it has none of these: a
/// node without CPUs has no links.
pub fn of_node(directory: &Path) -> Result<Option<CpuSet>, HostError> {
    if let Some(cpus) = value(&directory.join("cpulist"), CPU_LIST)? {
        return Ok(Some(cpus));
    }
    let cpumap = directory.join("cpumap");
    if let Some(text) = text(&cpumap)? {
        return match from_mask(&text) {
            Some(cpus) => Ok(Some(cpus)),
            None => Err(refused(&cpumap, &text, "is not a mask of CPUs")),
        };
    }
    let links: CpuSet = numbered(directory, "cpu")?;
    Ok(Some(links).filter(|links| !links.is_empty()))
}

/// A mask as the kernel writes it: words of 32 bits in hexadecimal with commas between them, the highest first.
fn from_mask(text: &str) -> Option<CpuSet> {
    let mut cpus = Vec::new();
    for (at, word) in text.rsplit(',').enumerate() {
        let word = word.trim();
        let is_word = (1..=8).contains(&word.len()) && word.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bits = is_word.then(|| u32::from_str_radix(word, 16).ok())??;
        for bit in (0..u32::BITS).filter(|bit| bits >> bit & 1 == 1) {
            let id = u32::try_from(at).ok()?.checked_mul(u32::BITS)?.checked_add(bit)?;
            cpus.push(Some(PcpuId(id)).filter(|cpu| cpu.0 <= MAX_ID)?);
        }
    }
    Some(cpus.into_iter().collect())
}

/// A list of nodes that may be missing.
pub fn node_list(path: &Path) -> Result<Option<NodeSet>, HostError> {
    value(path, NODE_LIST)
}

#[cfg(test)]
mod tests {
    use super::from_mask;

    #[test]
    fn masks_are_words_of_32_bits_the_highest_first() {
        let mask = |text: &str| from_mask(text).map(|cpus| cpus.to_string());
        let is = |list: &str| Some(list.to_owned());
        assert_eq!(mask("f"), is("0-3"));
        assert_eq!(mask("00000000"), is(""));
        assert_eq!(mask("1,80000000"), is("31-32"));
        assert_eq!(mask("0000ff00,00000000,0000ff0f"), is("0-3,8-15,72-79"));
        assert_eq!(mask(&format!("{}0000000a", "00000000,".repeat(255))), is("1,3"));
        for wrong in ["", ",", "1,", "0x1", "-1", "123456789", "g", "1 1"] {
            assert_eq!(mask(wrong), None, "{wrong}");
        }
        assert_eq!(mask(&format!("1{}", ",00000000".repeat(3125))), None, "CPU 100000");
    }
}
