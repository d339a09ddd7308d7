//! HMAT values as given: latency and bandwidth per vnode, completed to all pairs by distance; pairs; initiators;
//! caches.

use crate::attributes::{AccessAttributes, MemoryAttributes, MemorySideCache, PairAttributes};
use crate::distance::{Distance, DistanceMatrix};
use crate::ids::VnodeId;
use crate::spec::{AttributeSpec, CacheSpec, VmSpec, VnodeSpec};
use crate::topology::{SpecError, Vnode};
use crate::units::Bytes;
use std::collections::BTreeMap;

/// Most levels of memory-side caches (ACPI 6.5, 5.2.29.5).
pub const MAX_CACHE_LEVELS: u8 = 3;

const BANDWIDTH_RULE: &str = "1M to 4095T bytes per second";

/// What is known of each pair: what was typed of it, else the target's own figures scaled by distance.
pub fn given_attributes(
    spec: &VmSpec,
    described: &[VnodeSpec],
    vnodes: &[Vnode],
    distances: &DistanceMatrix,
) -> Result<Option<MemoryAttributes>, SpecError> {
    let pairs = given_pairs(&spec.attributes, vnodes)?;
    let scaled = own_figures(described, vnodes, distances)?;
    let attributes = MemoryAttributes::from_fn(vnodes.len(), |initiator, target| {
        match (pairs.get(&(initiator, target)), scaled.get(initiator, target)) {
            (Some(pair), Some(scaled)) => Some(pair.or(scaled)),
            (pair, scaled) => pair.copied().or(scaled),
        }
    });
    Ok((!attributes.is_empty()).then_some(attributes))
}

/// Attributes as typed per vnode: its figures as seen by its own vCPUs, or by the nearest where it has none, scaled
/// by SLIT distance for vCPUs elsewhere. A vnode without vCPUs is no initiator.
fn own_figures(
    specs: &[VnodeSpec],
    vnodes: &[Vnode],
    distances: &DistanceMatrix,
) -> Result<MemoryAttributes, SpecError> {
    let mut local = Vec::with_capacity(specs.len());
    for (spec, vnode) in specs.iter().zip(vnodes) {
        let refuse = |field, value, rule| Err(SpecError::Attribute { vnode: vnode.id, field, value, rule });
        match (spec.latency, spec.bandwidth) {
            (None, None) => local.push(None),
            (Some(ns), None) => return refuse("latency", ns.to_string(), "given together with bandwidth"),
            (None, Some(b)) => return refuse("bandwidth", b.to_string(), "given together with latency"),
            (Some(0), _) => return refuse("latency", "0".into(), "at least 1 ns"),
            (Some(ns), Some(_)) if vnode.memory == Bytes::ZERO => {
                return refuse("latency", ns.to_string(), "left out for a vnode without memory");
            }
            (Some(ns), Some(bandwidth)) => {
                let Some(mib) = whole_mib(bandwidth) else {
                    return refuse("bandwidth", bandwidth.to_string(), BANDWIDTH_RULE);
                };
                local.push(Some(AccessAttributes {
                    read_latency_ns: ns,
                    write_latency_ns: ns,
                    read_bandwidth_mib: mib,
                    write_bandwidth_mib: mib,
                }));
            }
        }
    }
    let away = |from, to| distances.get(from, to).filter(|d| *d != Distance::UNREACHABLE);
    // Once per target: with all pairs to fill, a search in each would be cubic in the number of vnodes.
    let seen = |(target, figures): (usize, Option<AccessAttributes>)| {
        let initiators = (0..vnodes.len()).filter(|v| !vnodes[*v].vcpus.is_empty());
        Some((figures?, initiators.filter_map(|i| away(i, target)).min()?))
    };
    let nearest: Vec<Option<(AccessAttributes, Distance)>> =
        local.into_iter().enumerate().map(seen).collect();
    Ok(MemoryAttributes::from_fn(specs.len(), |initiator, target| {
        let (figures, known) = nearest[target]?;
        let from = away(initiator, target).filter(|_| !vnodes[initiator].vcpus.is_empty())?;
        Some(figures.scaled(from, known))
    }))
}

fn given_pairs(
    specs: &[AttributeSpec],
    vnodes: &[Vnode],
) -> Result<BTreeMap<(usize, usize), PairAttributes>, SpecError> {
    let mut pairs = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        let refuse = |what: String| Err(SpecError::Pair { index, what });
        let (initiator, target) = (spec.initiator as usize, spec.target as usize);
        if let Some(missing) = [spec.initiator, spec.target].into_iter().find(|v| *v as usize >= vnodes.len())
        {
            return refuse(format!("vnode {missing} does not exist, vnodes are 0 to {}", vnodes.len() - 1));
        }
        if vnodes[initiator].vcpus.is_empty() {
            return refuse(format!("vnode {initiator} has no vCPUs, an initiator must have some"));
        }
        if vnodes[target].memory == Bytes::ZERO {
            return refuse(format!("vnode {target} has no memory, a target must have some"));
        }
        let pair = pair_of(spec).map_err(|what| SpecError::Pair { index, what })?;
        if pairs.insert((initiator, target), pair).is_some() {
            return refuse(format!("{initiator}:{target} is given twice, must be given once"));
        }
    }
    Ok(pairs)
}

fn pair_of(spec: &AttributeSpec) -> Result<PairAttributes, String> {
    let latency = both("latency", spec.latency, spec.read_latency, spec.write_latency)?;
    let bandwidth = both("bandwidth", spec.bandwidth, spec.read_bandwidth, spec.write_bandwidth)?;
    if latency == (None, None) && bandwidth == (None, None) {
        return Err(format!(
            "{}:{} has no value, must have a latency or a bandwidth",
            spec.initiator, spec.target
        ));
    }
    if [latency.0, latency.1].contains(&Some(0)) {
        return Err("0 is no latency, must be at least 1 ns".into());
    }
    let mib = |bandwidth: Option<Bytes>| match bandwidth {
        None => Ok(None),
        Some(given) => {
            let mib =
                whole_mib(given).ok_or_else(|| format!("{given} is no bandwidth, must be {BANDWIDTH_RULE}"));
            mib.map(Some)
        }
    };
    Ok(PairAttributes {
        read_latency_ns: latency.0,
        write_latency_ns: latency.1,
        read_bandwidth_mib: mib(bandwidth.0)?,
        write_bandwidth_mib: mib(bandwidth.1)?,
    })
}

/// The figures of reads and of writes.
fn both<T>(
    what: &str,
    any: Option<T>,
    read: Option<T>,
    write: Option<T>,
) -> Result<(Option<T>, Option<T>), String>
where
    T: Copy,
{
    match (any, read, write) {
        (None, read, write) => Ok((read, write)),
        (Some(any), None, None) => Ok((Some(any), Some(any))),
        (Some(_), _, _) => {
            Err(format!("{what} is for reads and writes, cannot be combined with one of them"))
        }
    }
}

/// Linux shows bandwidths in MiB per second, in 32 bits.
fn whole_mib(bandwidth: Bytes) -> Option<u32> {
    u32::try_from(bandwidth.get() >> 20).ok().filter(|mib| *mib > 0)
}

/// The initiator of each vnode: itself where it has vCPUs and memory, else what was typed.
pub fn given_initiator(specs: &[VnodeSpec], vnodes: &[Vnode]) -> Result<Vec<Option<VnodeId>>, SpecError> {
    let one = |(spec, vnode): (&VnodeSpec, &Vnode)| {
        let own = (!vnode.vcpus.is_empty() && vnode.memory > Bytes::ZERO).then_some(vnode.id);
        let Some(initiator) = spec.initiator else { return Ok(own) };
        let refuse = |rule| Err(SpecError::Initiator { vnode: vnode.id, initiator, rule });
        match vnodes.get(initiator as usize) {
            _ if vnode.memory == Bytes::ZERO => {
                refuse("is given, must be left out for a vnode without memory")
            }
            _ if own.is_some() && own != Some(VnodeId(initiator)) => {
                refuse("is another vnode, must be itself or left out for a vnode with vCPUs")
            }
            None => refuse("does not exist, must be a vnode with vCPUs"),
            Some(other) if other.vcpus.is_empty() => refuse("has no vCPUs, must have some"),
            Some(other) => Ok(Some(other.id)),
        }
    };
    specs.iter().zip(vnodes).map(one).collect()
}

/// The caches by vnode and level; the levels of each vnode have no hole.
pub fn given_caches(specs: &[CacheSpec], vnodes: &[Vnode]) -> Result<Vec<MemorySideCache>, SpecError> {
    let mut caches = BTreeMap::new();
    for (index, spec) in specs.iter().enumerate() {
        let refuse = |what: String| Err(SpecError::Cache { index, what });
        match vnodes.get(spec.vnode as usize) {
            None => {
                let last = vnodes.len() - 1;
                return refuse(format!("vnode {} does not exist, vnodes are 0 to {last}", spec.vnode));
            }
            Some(vnode) if vnode.memory == Bytes::ZERO => {
                return refuse(format!("vnode {} has no memory, must have some", vnode.id));
            }
            Some(_) => {}
        }
        if !(1..=MAX_CACHE_LEVELS).contains(&spec.level) {
            return refuse(format!("{} is no level, must be 1 to {MAX_CACHE_LEVELS}", spec.level));
        }
        if spec.size == Bytes::ZERO {
            return refuse("0 is no size, must be at least 1 byte".into());
        }
        if caches.insert((spec.vnode, spec.level), (index, *spec)).is_some() {
            return refuse(format!(
                "level {} of vnode {} is given twice, must be given once",
                spec.level, spec.vnode
            ));
        }
    }
    for ((vnode, level), (index, _)) in &caches {
        if *level > 1 && !caches.contains_key(&(*vnode, level - 1)) {
            let what = format!(
                "level {level} of vnode {vnode} has no level {} before it, levels must have no hole",
                level - 1
            );
            return Err(SpecError::Cache { index: *index, what });
        }
    }
    let levels =
        |vnode: u32| (1..=MAX_CACHE_LEVELS).filter(|l| caches.contains_key(&(vnode, *l))).max().unwrap_or(1);
    let cache = |(_, spec): &(usize, CacheSpec)| MemorySideCache {
        vnode: VnodeId(spec.vnode),
        size: spec.size,
        level: spec.level,
        levels: levels(spec.vnode),
        associativity: spec.associativity,
        policy: spec.policy,
        line: spec.line,
    };
    Ok(caches.values().map(cache).collect())
}
