//! Tests of [`Mapping`](super::Mapping): what the kernel makes of it.

use super::{Advice, Backing, Mapping, Mode, NodeMask, PageStatus, UNTOLD, tell};
use resources::{Bytes, NodeSet, PnodeId};
use vm_memory::Bytes as _;

#[test]
fn addresses_are_congruent_to_the_guests() {
    for guest in [0, 0x20_0000, 0x4010_0000, 0x1_0000_0000] {
        let mapping = Mapping::new(Bytes::mib(4), guest, Bytes::gib(1), Backing::Anonymous, "t").unwrap();
        assert_eq!(mapping.address() as u64 % (1 << 30), guest % (1 << 30));
    }
}

#[test]
fn untouched_pages_are_absent_and_populated_ones_have_a_node() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    mapping.advise(Advice::DontDump).unwrap();
    let _ = mapping.advise(Advice::SmallPages);
    assert_eq!(mapping.locate(&[0, 4096]).unwrap(), [PageStatus::Absent; 2]);
    mapping.populate(4096, 4096).unwrap();
    let status = mapping.locate(&[0, 4096]).unwrap();
    assert_eq!(status[0], PageStatus::Absent);
    assert!(matches!(status[1], PageStatus::On(_)), "{status:?}");
    assert!(mapping.populate(4096, mapping.size()).is_err());
}

#[test]
fn discarded_pages_are_absent_zero_and_under_the_same_policy() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    let _ = mapping.advise(Advice::SmallPages);
    let nodes: NodeSet = [PnodeId(0)].into_iter().collect();
    mapping.set_policy(0..mapping.size(), Mode::Preferred, &NodeMask::new(&nodes).unwrap()).unwrap();
    mapping.populate(0, 3 * 4096).unwrap();
    let slice = mapping.slice(4096, 1).unwrap();
    slice.write_obj(7_u8, 0).unwrap();
    mapping.discard(4096, 4096).unwrap();
    let status = mapping.locate(&[0, 4096, 8192]).unwrap();
    assert!(matches!(status[..], [PageStatus::On(_), PageStatus::Absent, PageStatus::On(_)]), "{status:?}");
    assert_eq!(slice.read_obj::<u8>(0).unwrap(), 0);
    let start = format!("{:x} ", mapping.address() as usize);
    let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    // Only kernels with NUMA have the file.
    let line = maps.lines().find(|line| line.starts_with(&start));
    assert!(maps.is_empty() || line.is_some_and(|line| line.contains(" prefer=static:0 ")), "{line:?}");
    assert!(mapping.discard(4096, mapping.size()).is_err());
}

#[test]
fn a_huge_page_of_which_a_part_is_gone_can_be_taken_apart() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    let _ = mapping.advise(Advice::HugePages);
    mapping.populate(0, 2 << 20).unwrap();
    let slice = mapping.slice(8192, 1).unwrap();
    slice.write_obj(7_u8, 0).unwrap();
    mapping.discard(4096, 4096).unwrap();
    mapping.split(8192 + 5).unwrap();
    assert_eq!(slice.read_obj::<u8>(0).unwrap(), 7);
    let status = mapping.locate(&[4096, 8192]).unwrap();
    assert!(matches!(status[..], [PageStatus::Absent, PageStatus::On(_)]), "{status:?}");
    assert!(mapping.split(2 << 20).is_err());
}

#[test]
fn what_the_kernel_does_not_tell_was_tried_or_lies_behind() {
    const U: i32 = UNTOLD;
    for (told, expected) in [
        (vec![U, U], vec![-16, -16]),
        (vec![1, -2, U, U], vec![1, -2, -16, -16]),
        (vec![U, -16, U, U], vec![-16, -16, -115, -115]),
        (vec![1, -2, U, -14, U], vec![1, -2, -16, -14, -115]),
        (vec![1, 1], vec![1, 1]),
        (vec![], vec![]),
    ] {
        let mut status = told.clone();
        tell(&mut status, libc::EBUSY, libc::EINPROGRESS);
        assert_eq!(status, expected, "{told:?}");
    }
}

#[test]
fn a_policy_for_a_node_that_is_not_there_is_refused() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    let nodes: NodeSet = [PnodeId(1000)].into_iter().collect();
    let error =
        mapping.set_policy(0..mapping.size(), Mode::Bind, &NodeMask::new(&nodes).unwrap()).unwrap_err();
    assert_eq!((error.call, error.errno()), ("mbind", libc::EINVAL));
}

#[test]
fn the_policy_names_the_nodes_that_were_given_whatever_the_cpuset_becomes() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    assert_eq!(mapping.policy_nodes(0), None);
    let nodes: NodeSet = [PnodeId(0)].into_iter().collect();
    mapping.set_policy(0..mapping.size(), Mode::Bind, &NodeMask::new(&nodes).unwrap()).unwrap();
    assert_eq!((mapping.policy_nodes(4096), mapping.policy_nodes(2 << 20)), (Some(nodes), None));
}

#[test]
fn without_numa_all_memory_is_on_node_0_and_no_policy_is_set() {
    let mapping = Mapping::new(Bytes::mib(2), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
    let _ = mapping.advise(Advice::SmallPages);
    let mapping = mapping.without_numa();
    let mask = |list: &str| NodeMask::new(&list.parse().unwrap()).unwrap();
    mapping.set_policy(0..4096, Mode::Bind, &mask("0")).unwrap();
    let error = mapping.set_policy(0..4096, Mode::Bind, &mask("0-1")).unwrap_err();
    assert_eq!((error.call, error.errno()), ("mbind", libc::EINVAL));
    assert_eq!(mapping.policy_nodes(0), Some(NodeSet::one(PnodeId(0))));
    let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let start = format!("{:x} ", mapping.address() as usize);
    // Only kernels with NUMA have the file.
    let policy = maps.lines().find_map(|line| line.strip_prefix(&start)?.split_whitespace().next());
    assert!(maps.is_empty() || policy == Some("default"), "{policy:?}");
    mapping.populate(4096, 3 * 4096).unwrap();
    let (here, absent) = (PageStatus::On(PnodeId(0)), PageStatus::Absent);
    let offsets = [0, 4096, 8192, 12288, 16384, 4096, 1 << 20];
    let expected = [absent, here, here, here, absent, here, absent];
    assert_eq!(mapping.locate(&offsets).unwrap(), expected);
    assert_eq!(mapping.relocate(&offsets, &[PnodeId(0); 7]).unwrap(), expected);
    assert_eq!(mapping.locate(&[]).unwrap(), []);
    assert!(mapping.locate(&[2 << 20]).is_err());
}

#[test]
fn no_mapping_is_empty() {
    let error = Mapping::new(Bytes::ZERO, 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap_err();
    assert_eq!((error.call, error.errno()), ("mmap", libc::EINVAL));
}

#[test]
fn two_mappings_never_become_one() {
    let a = Mapping::new(Bytes::mib(2), 0, Bytes(4096), Backing::Anonymous, "t").unwrap();
    let b = Mapping::new(Bytes::mib(2), 0, Bytes(4096), Backing::Anonymous, "t").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for mapping in [&a, &b] {
        let start = mapping.address() as usize;
        let line = format!("{start:x}-{:x} rw-p", start + mapping.size());
        assert!(maps.contains(&line), "{line} not in\n{maps}");
    }
}
