//! Validation of specs, case by case.

use super::{MAX_VCPUS, SpecError, VmTopology};
use crate::distance::DistanceSpec;
use crate::spec::{PageSize, VmSpec, VnodeSpec};
use crate::{Bytes, VcpuId, VnodeId};

fn vnode(id: u32, memory: Option<&str>, vcpus: Option<&str>) -> VnodeSpec {
    VnodeSpec {
        memory: memory.map(|m| m.parse().unwrap()),
        vcpus: vcpus.map(|v| v.parse().unwrap()),
        ..VnodeSpec::new(id)
    }
}

fn topology(spec: &VmSpec) -> Result<Vec<(u32, String, String)>, SpecError> {
    let topology = VmTopology::try_from(spec)?;
    Ok(topology.vnodes().iter().map(|v| (v.id.0, v.memory.to_string(), v.vcpus.to_string())).collect())
}

fn numa(vnodes: Vec<VnodeSpec>) -> VmSpec {
    VmSpec { numa: vnodes, ..VmSpec::default() }
}

fn shape(list: &[(u32, &str, &str)]) -> Result<Vec<(u32, String, String)>, SpecError> {
    Ok(list.iter().map(|(id, m, v)| (*id, (*m).to_owned(), (*v).to_owned())).collect())
}

#[test]
fn nothing_said_is_one_vnode_with_one_vcpu_and_512m() {
    assert_eq!(topology(&VmSpec::default()), shape(&[(0, "512M", "0")]));
}

#[test]
fn the_short_form_shares_out_evenly_and_in_order() {
    let spec = VmSpec {
        vcpus: Some(5),
        memory: Some(Bytes::mib(1026)),
        vnodes: Some(2.into()),
        ..VmSpec::default()
    };
    assert_eq!(topology(&spec), shape(&[(0, "514M", "0-2"), (1, "512M", "3-4")]));
}

#[test]
fn what_a_vnode_does_not_name_comes_from_what_is_left() {
    let spec = VmSpec {
        vcpus: Some(4),
        memory: Some(Bytes::gib(2)),
        ..numa(vec![vnode(1, Some("512M"), Some("1")), vnode(0, None, None)])
    };
    assert_eq!(topology(&spec), shape(&[(0, "1536M", "0,2-3"), (1, "512M", "1")]));
}

#[test]
fn vnodes_may_have_only_vcpus_or_only_memory() {
    let spec =
        numa(vec![vnode(0, Some("64M"), Some("0")), vnode(1, None, Some("1")), vnode(2, Some("64M"), None)]);
    assert_eq!(topology(&spec), shape(&[(0, "64M", "0"), (1, "0", "1"), (2, "64M", "")]));
}

#[test]
fn overlapping_and_missing_vcpus_are_refused() {
    let spec = numa(vec![vnode(0, Some("64M"), Some("0-1")), vnode(1, Some("64M"), Some("1-2"))]);
    let twice = SpecError::VcpuTwice { vcpu: VcpuId(1), first: VnodeId(0), second: VnodeId(1) };
    assert_eq!(topology(&spec), Err(twice));
    let spec = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(1, Some("64M"), Some("2"))]);
    assert_eq!(topology(&spec), Err(SpecError::VcpuMissing { vcpu: VcpuId(1), count: 3 }));
    let spec = VmSpec { vcpus: Some(2), ..numa(vec![vnode(0, Some("64M"), Some("0-2"))]) };
    let beyond = SpecError::NoSuchVcpu { vnode: VnodeId(0), vcpu: VcpuId(2), last: 1 };
    assert_eq!(topology(&spec), Err(beyond));
}

#[test]
fn ids_are_dense_and_differ() {
    let twice = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(0, Some("64M"), None)]);
    assert_eq!(topology(&twice), Err(SpecError::DuplicateId { index: 1, id: 0 }));
    let hole = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(2, Some("64M"), None)]);
    assert_eq!(topology(&hole), Err(SpecError::IdHole { index: 1, id: 2, last: 1 }));
    let conflict = VmSpec { vnodes: Some(3.into()), ..numa(vec![vnode(0, Some("64M"), Some("0"))]) };
    assert_eq!(topology(&conflict), Err(SpecError::VnodeCountConflict { asked: 3.into(), described: 1 }));
}

#[test]
fn odd_sizes_are_refused_with_the_unit() {
    let error = topology(&numa(vec![vnode(0, Some("513M"), Some("0"))])).unwrap_err();
    assert_eq!(error.to_string(), "vnodes[0].memory: 513M is not a multiple of 2M (pages=thp)");
    let giga = VnodeSpec { pages: Some(PageSize::Huge1G), ..vnode(0, Some("1536M"), Some("0")) };
    let error = topology(&numa(vec![giga])).unwrap_err();
    assert_eq!(error.to_string(), "vnodes[0].memory: 1536M is not a multiple of 1G (pages=1G)");
}

#[test]
fn giga_pages_lie_on_giga_addresses() {
    let giga = VnodeSpec { pages: Some(PageSize::Huge1G), ..vnode(1, Some("1G"), None) };
    let refused = topology(&numa(vec![vnode(0, Some("512M"), Some("0")), giga.clone()]));
    assert_eq!(refused, Err(SpecError::GigaPageStart { vnode: VnodeId(1), start: 512 << 20 }));
    assert!(topology(&numa(vec![vnode(0, Some("3G"), Some("0")), giga])).is_ok());
}

#[test]
fn sums_that_do_not_add_up_are_refused() {
    let spec = VmSpec { memory: Some(Bytes::gib(1)), ..numa(vec![vnode(0, Some("2G"), Some("0"))]) };
    let conflict = SpecError::MemoryConflict { total: Bytes::gib(1), named: Bytes::gib(2) };
    assert_eq!(topology(&spec), Err(conflict));
    let spec = numa(vec![vnode(0, Some("16777215T"), Some("0")), vnode(1, Some("16777215T"), None)]);
    assert_eq!(topology(&spec), Err(SpecError::TooMuchMemory));
    let spec = VmSpec { memory: Some(Bytes::ZERO), ..VmSpec::default() };
    assert_eq!(topology(&spec), Err(SpecError::NoMemory));
}

#[test]
fn counts_are_bounded() {
    let spec = VmSpec { vcpus: Some(0), ..VmSpec::default() };
    assert_eq!(topology(&spec), Err(SpecError::VcpuCount(0)));
    let spec = VmSpec { vcpus: Some(MAX_VCPUS + 1), ..VmSpec::default() };
    assert_eq!(topology(&spec), Err(SpecError::VcpuCount(u64::from(MAX_VCPUS) + 1)));
    let spec = VmSpec { vnodes: Some(0.into()), ..VmSpec::default() };
    assert_eq!(topology(&spec), Err(SpecError::VnodeCount(0)));
    let spec = numa(vec![vnode(0, Some("64M"), Some("0")), vnode(1, Some("0"), None)]);
    assert_eq!(topology(&spec), Err(SpecError::EmptyVnode(VnodeId(1))));
}

#[test]
fn attributes_are_local_figures_scaled_by_distance() {
    let fast =
        VnodeSpec { latency: Some(100), bandwidth: Some(Bytes::gib(10)), ..vnode(0, Some("64M"), Some("0")) };
    let spec = VmSpec {
        distances: vec![DistanceSpec { from: 0, to: 1, value: 30 }],
        ..numa(vec![fast, vnode(1, None, Some("1"))])
    };
    let topology = VmTopology::try_from(&spec).unwrap();
    let attributes = topology.attributes().unwrap();
    assert_eq!(attributes.get(0, 0).unwrap().read_latency_ns, Some(100));
    assert_eq!(attributes.get(1, 0).unwrap().read_latency_ns, Some(300));
    assert_eq!(attributes.get(1, 0).unwrap().read_bandwidth_mib, Some(3413));
    assert_eq!(attributes.get(0, 1), None);
}
