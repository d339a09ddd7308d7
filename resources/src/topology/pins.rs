//! Pins of vCPUs, one list per vCPU.

use crate::cpu_list::CpuList;
use crate::ids::VcpuId;
use crate::spec::PinSpec;
use crate::topology::SpecError;
use std::collections::BTreeMap;

/// The list of each pinned vCPU; every vCPU is there and is pinned once.
pub fn given_pins(specs: &[PinSpec], vcpus: usize) -> Result<BTreeMap<VcpuId, CpuList>, SpecError> {
    let mut pins = BTreeMap::new();
    for (index, PinSpec { vcpus: pinned, cpus }) in specs.iter().enumerate() {
        let refuse = |what: String| Err(SpecError::Pin { index, what });
        match pinned.last() {
            None => return refuse("the list is empty, must name a vCPU".into()),
            Some(vcpu) if vcpu.index() >= vcpus => {
                return refuse(format!("vCPU {vcpu} does not exist, vCPUs are 0 to {}", vcpus - 1));
            }
            Some(_) => {}
        }
        for vcpu in pinned.iter() {
            if pins.insert(vcpu, cpus.clone()).is_some() {
                return refuse(format!("vCPU {vcpu} is pinned already, must be pinned once"));
            }
        }
    }
    Ok(pins)
}
