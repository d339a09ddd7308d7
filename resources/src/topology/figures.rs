//! Latency and bandwidth as typed per vnode, completed to all pairs by distance.

use crate::attributes::{AccessAttributes, MemoryAttributes};
use crate::distance::{Distance, DistanceMatrix};
use crate::spec::VnodeSpec;
use crate::topology::{SpecError, Vnode};
use crate::units::Bytes;

/// Attributes as typed per vnode: its figures as seen by its own vCPUs, or by the nearest where it has none, scaled
/// by SLIT distance for vCPUs elsewhere. A vnode without vCPUs is no initiator.
pub fn given_attributes(
    specs: &[VnodeSpec],
    vnodes: &[Vnode],
    distances: &DistanceMatrix,
) -> Result<Option<MemoryAttributes>, SpecError> {
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
                let mib = u32::try_from(bandwidth.get() >> 20).ok().filter(|mib| *mib > 0);
                let Some(mib) = mib else {
                    return refuse("bandwidth", bandwidth.to_string(), "1M to 4095T bytes per second");
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
    let initiators: Vec<usize> = (0..vnodes.len()).filter(|v| !vnodes[*v].vcpus.is_empty()).collect();
    let away = |from, to| distances.get(from, to).filter(|d| *d != Distance::UNREACHABLE);
    let attributes = MemoryAttributes::from_fn(specs.len(), |initiator, target| {
        let known = initiators.iter().filter_map(|i| away(*i, target)).min()?;
        let from = away(initiator, target).filter(|_| initiators.contains(&initiator))?;
        Some(local[target]?.scaled(from, known))
    });
    Ok((!attributes.is_empty()).then_some(attributes))
}
