//! Syntax shared by several formats: lists with `^`, whole numbers, and pins grouped by list.

use resources::set::IdSet;
use resources::{CpuList, PinSpec, VcpuId};
use std::collections::BTreeMap;

/// Enough of a text to know it again.
pub fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A list of numbers and ranges, `^` in front of what is taken out again.
pub fn ids<T: Copy + From<u32> + Into<u32>>(text: &str) -> Result<IdSet<T>, String> {
    if text.trim().is_empty() {
        return Ok(IdSet::new());
    }
    let syntax = || format!("`{}` is not a list; write numbers and ranges such as 0-3,8,^2", shown(text));
    let list: CpuList = text.parse().map_err(|why: resources::cpu_list::ParseCpuListError| match why {
        resources::cpu_list::ParseCpuListError::Syntax(_) => syntax(),
        why => format!("`{}`: {why}", shown(text)),
    })?;
    let ids = list.cpus().ok_or_else(syntax)?;
    Ok(ids.iter().map(|id| T::from(id.0)).collect())
}

/// A whole number that fits.
pub fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{}` is not a whole number", shown(text)));
    }
    let large = || format!("{} is too large", shown(text));
    T::try_from(text.parse().map_err(|_| large())?).map_err(|_| large())
}

/// A SLIT distance of a pair, or the rule that it breaks.
pub fn distance(from: u32, to: u32, value: u64) -> Result<u64, String> {
    match value {
        _ if from == to && value != 10 => Err(format!("{value} for vnode {from} to itself, must be 10")),
        10 if from != to => Err(format!("10 is not remote ({from}:{to}), must be 11 to 255")),
        10..=255 => Ok(value),
        _ => Err(format!("{value} is not a distance, must be 10 to 255")),
    }
}

/// One pin per list, in order of the lowest vCPU of each.
pub fn pins(of: &BTreeMap<u32, CpuList>) -> Vec<PinSpec> {
    let mut pins: Vec<PinSpec> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (vcpu, cpus) in of {
        match places.get(&cpus.to_string()) {
            Some(place) => {
                pins[*place].vcpus.insert(VcpuId(*vcpu));
            }
            None => {
                places.insert(cpus.to_string(), pins.len());
                pins.push(PinSpec { vcpus: IdSet::one(VcpuId(*vcpu)), cpus: cpus.clone() });
            }
        }
    }
    pins
}
