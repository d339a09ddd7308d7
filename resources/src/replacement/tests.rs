//! Moves, swaps, evacuations and affinity changes on synthetic hosts.

use super::{Mover, ReplacementError, Seen, evacuate, rehome, replace, swap};
use crate::placement::{Shortfall, Terms, Workspace};
use crate::test_host::HostShape;
use crate::{
    Affinity, Bytes, Claim, Fit, HostTopology, NodeClaim, Placement, PlacementPolicy, PnodeId, VmSpec,
    VmTopology, VnodeId, VnodePlacement, VnodeSpec,
};
use std::collections::BTreeMap;

fn vm(affinity: Affinity, host: &HostTopology) -> (VmTopology, Placement) {
    let vnode = |id: u32| VnodeSpec {
        memory: Some(Bytes::gib(1)),
        vcpus: Some(format!("{}-{}", id * 2, id * 2 + 1).parse().unwrap()),
        pnode: Some(id.to_string().parse().unwrap()),
        affinity: Some(affinity),
        ..VnodeSpec::new(id)
    };
    let topology =
        VmTopology::try_from(&VmSpec { numa: vec![vnode(0), vnode(1)], ..VmSpec::default() }).unwrap();
    let ledger = crate::Ledger::new();
    let terms = Terms { policy: PlacementPolicy::Auto, fit: Fit::Prefer, ledger: &ledger };
    let placement = Placement::new(&topology, host, &terms, &Workspace::default()).unwrap();
    (topology, placement)
}

/// Vnode 0 to `to`, beside the other vnodes of its VM.
fn send(
    (topology, now): &(VmTopology, Placement),
    host: &HostTopology,
    to: &str,
    there: &[(u32, Bytes)],
) -> Result<VnodePlacement, ReplacementError> {
    let mut ledger = crate::Ledger::new();
    now.vnodes[1..].iter().for_each(|at| ledger.add(&at.claim, &Claim::default()));
    let residency = there.iter().map(|(pnode, bytes)| (PnodeId(*pnode), *bytes)).collect();
    let mover =
        Mover { vnode: VnodeId(0), affinity: now.vnodes[0].affinity, residency: &residency, ledger: &ledger };
    replace(topology, host, &mover, &to.parse().unwrap())
}

#[test]
fn a_vnode_takes_its_vcpus_along_and_claims_there() {
    let host = HostShape::new(2).topology();
    let vm = vm(Affinity::Soft, &host);
    let moved = send(&vm, &host, "1", &[]).unwrap();
    let cpus = &host.pnode(PnodeId(1)).unwrap().cpus;
    assert_eq!(moved.pnodes, "1".parse().unwrap());
    assert!(moved.vcpus.values().all(|set| set == cpus));
    let node = NodeClaim { memory: Bytes::gib(1), vcpus: 2, ..NodeClaim::default() };
    assert_eq!(moved.claim, Claim { pnodes: [(PnodeId(1), node)].into() });
}

#[test]
fn pinned_vcpus_do_not_share_while_there_are_cpus() {
    let host = HostShape::new(2).cpus(0, "0-3").cpus(1, "4-7").topology();
    let moved = send(&vm(Affinity::Hard, &host), &host, "1", &[]).unwrap();
    let cpus: Vec<String> = moved.vcpus.values().map(ToString::to_string).collect();
    assert_eq!(cpus, ["6", "7"]);
    let host = HostShape::new(2).topology();
    let moved = send(&vm(Affinity::Hard, &host), &host, "1", &[]).unwrap();
    assert!(moved.vcpus.values().all(|set| *set == moved.cpus));
}

#[test]
fn what_is_there_already_needs_no_room() {
    let roomy = HostShape::new(2).topology();
    let vm = vm(Affinity::Soft, &roomy);
    let free = |mib| HostShape::new(2).free(1, Bytes::mib(mib), Bytes::ZERO).topology();
    // The other vnode was promised 1 GiB there and has touched nothing.
    assert!(matches!(send(&vm, &free(1600), "1", &[]), Err(ReplacementError::Full { .. })));
    assert!(send(&vm, &free(1600), "1", &[(1, Bytes::mib(900))]).is_ok());
    let claim = send(&vm, &roomy, "0-1", &[(1, Bytes::mib(900))]).unwrap().claim;
    assert_eq!(claim.total().memory, Bytes::gib(1));
}

#[test]
fn what_others_were_promised_is_not_there_for_a_move() {
    let host = HostShape::new(2).free(1, Bytes::mib(2500), Bytes::ZERO).topology();
    let (topology, _) = vm(Affinity::Soft, &HostShape::new(2).topology());
    let node = NodeClaim { memory: Bytes::gib(2), ..NodeClaim::default() };
    let mut ledger = crate::Ledger::new();
    let none = std::collections::BTreeMap::new();
    let ask = |ledger: &crate::Ledger| {
        let affinity = Affinity::Soft;
        let mover = Mover { vnode: VnodeId(0), affinity, residency: &none, ledger };
        replace(&topology, &host, &mover, &"1".parse().unwrap())
    };
    assert!(ask(&ledger).is_ok());
    ledger.add(&Claim { pnodes: [(PnodeId(1), node)].into() }, &Claim::default());
    assert!(matches!(ask(&ledger), Err(ReplacementError::Full { .. })));
}

#[test]
fn a_pnode_that_is_not_there_is_refused() {
    let host = HostShape::new(2).topology();
    let error = send(&vm(Affinity::Soft, &host), &host, "7", &[]).unwrap_err();
    assert_eq!(error.to_string(), "pnode 7: does not exist, this host has 0-1");
}

/// Both vnodes as they are, with what of each lies where; nobody else has anything.
fn seen(bytes: &[(u32, u32, Bytes)]) -> BTreeMap<VnodeId, BTreeMap<PnodeId, Bytes>> {
    let mut all: BTreeMap<VnodeId, BTreeMap<PnodeId, Bytes>> = BTreeMap::new();
    for (vnode, pnode, bytes) in bytes {
        all.entry(VnodeId(*vnode)).or_default().insert(PnodeId(*pnode), *bytes);
    }
    all
}

#[test]
fn two_that_change_places_have_the_room_that_each_leaves() {
    let host = HostShape::new(2).topology();
    let (topology, now) = vm(Affinity::Soft, &host);
    let full = HostShape::new(2).free(0, Bytes::mib(300), Bytes::ZERO).free(1, Bytes::mib(300), Bytes::ZERO);
    let residency = seen(&[(0, 0, Bytes::gib(1)), (1, 1, Bytes::gib(1))]);
    let ledger = crate::Ledger::new();
    let seen = Seen { residency: &residency, ledger: &ledger };
    let full = full.topology();
    let places = swap(&topology, &full, &now, [VnodeId(0), VnodeId(1)], &seen).unwrap();
    let at: Vec<String> = places.iter().map(|at| at.pnodes.to_string()).collect();
    assert_eq!(at, ["1", "0"]);
    assert!(matches!(send(&(topology, now), &full, "1", &[]), Err(ReplacementError::Full { .. })));
}

#[test]
fn a_pnode_is_left_for_the_nearest_with_room_or_it_is_said_what_is_missing() {
    let near = |shape: HostShape| shape.distance(0, 2, 12).distance(0, 1, 32).distance(1, 2, 32);
    let host = near(HostShape::new(3)).topology();
    let (topology, now) = vm(Affinity::Soft, &host);
    let residency = seen(&[(0, 0, Bytes::gib(1))]);
    let ledger = crate::Ledger::new();
    let leave = |host: &HostTopology, vnodes: &[VnodeId]| {
        let seen = Seen { residency: &residency, ledger: &ledger };
        evacuate(&topology, host, &now, PnodeId(0), vnodes, &seen)
    };
    // With the vnode that stays on pnode 1, which has a free CPU less.
    let places = leave(&host, &[VnodeId(0)]).unwrap();
    assert_eq!(places.len(), 1);
    assert!(!places[0].pnodes.contains(PnodeId(0)) && !places[0].cpu_pnodes.contains(PnodeId(0)));
    let small = |mib| {
        let shape = near(HostShape::new(3));
        shape.free(1, Bytes::mib(mib), Bytes::ZERO).free(2, Bytes::mib(mib), Bytes::ZERO).topology()
    };
    // In pieces, where no pnode has room for all of it.
    let pieces = leave(&small(800), &[VnodeId(0)]).unwrap();
    assert_eq!(pieces[0].pnodes.to_string(), "1-2");
    let error = leave(&small(400), &[VnodeId(0)]).unwrap_err();
    assert_eq!(error.code(), "nowhere_else");
    let said = error.to_string();
    assert!(said.starts_with("pnode 0: cannot be evacuated: ") && said.contains("memory"), "{said}");
    let alone = HostShape::new(1).topology();
    assert!(matches!(leave(&alone, &[VnodeId(0)]), Err(ReplacementError::Nowhere { .. })));
}

#[test]
fn vcpus_go_where_they_are_sent_while_memory_stays_and_is_claimed() {
    let host = HostShape::new(3).topology();
    let (topology, now) = vm(Affinity::Soft, &host);
    let mut ledger = crate::Ledger::new();
    // Somebody is pinned to one of the two CPUs of pnode 2.
    let pinned = NodeClaim { vcpus: 1, pinned: "4".parse().unwrap(), ..NodeClaim::default() };
    ledger.add(&Claim { pnodes: [(PnodeId(1), NodeClaim::default())].into() }, &Claim::default());
    let go = |affinity, home: &str, ledger: &crate::Ledger| {
        rehome(&topology, &host, &now.vnodes[0], (affinity, &home.parse().unwrap()), ledger)
    };
    let cpus = |at: &VnodePlacement| at.vcpus.values().map(ToString::to_string).collect::<Vec<_>>();
    let hard = go(Affinity::Hard, "2", &ledger).unwrap();
    assert_eq!((cpus(&hard), hard.affinity), (vec!["4".to_owned(), "5".to_owned()], Affinity::Hard));
    assert_eq!((hard.pnodes.to_string(), hard.cpu_pnodes.to_string()), ("0".to_owned(), "2".to_owned()));
    let node = |memory, vcpus, pinned: &str| NodeClaim {
        memory,
        vcpus,
        pinned: pinned.parse().unwrap(),
        ..NodeClaim::default()
    };
    let claim = [(PnodeId(0), node(Bytes::gib(1), 0, "")), (PnodeId(2), node(Bytes::ZERO, 2, "4-5"))];
    assert_eq!(hard.claim, Claim { pnodes: claim.into() });
    ledger.add(&Claim { pnodes: [(PnodeId(2), pinned)].into() }, &Claim::default());
    let short = go(Affinity::Hard, "2", &ledger).unwrap();
    assert!(cpus(&short).iter().all(|cpus| cpus == "4-5") && short.shortfalls.len() == 1);
    assert_eq!(cpus(&go(Affinity::Soft, "1-2", &ledger).unwrap()), ["2-5", "2-5"]);
    assert_eq!(cpus(&go(Affinity::None, "1", &ledger).unwrap()), ["0-5", "0-5"]);
    assert!(matches!(go(Affinity::Soft, "9", &ledger), Err(ReplacementError::NoSuchPnode { .. })));
    assert!(matches!(go(Affinity::Soft, "", &ledger), Err(ReplacementError::NoPnode)));
    // A move later keeps how they are held.
    let ledger = crate::Ledger::new();
    let none = BTreeMap::new();
    let mover = Mover { vnode: VnodeId(0), affinity: hard.affinity, residency: &none, ledger: &ledger };
    assert_eq!(cpus(&replace(&topology, &host, &mover, &"1".parse().unwrap()).unwrap()), ["2", "3"]);
}

#[test]
fn pins_survive_a_pnode_that_is_left_and_those_that_cannot_are_said() {
    let host = HostShape::new(3).topology();
    let vnode = |id: u32, vcpus: &str, pnode: &str| VnodeSpec {
        memory: Some(Bytes::gib(1)),
        vcpus: Some(vcpus.parse().unwrap()),
        pnode: Some(pnode.parse().unwrap()),
        ..VnodeSpec::new(id)
    };
    let pin = |vcpus: &str, cpus: &str| crate::PinSpec {
        vcpus: vcpus.parse().unwrap(),
        cpus: cpus.parse().unwrap(),
    };
    let spec = VmSpec {
        numa: vec![vnode(0, "0-3", "0"), vnode(1, "4", "1")],
        // One on the pnode that is left, one on it and another, two elsewhere.
        pins: vec![pin("0", "0"), pin("1", "1-2"), pin("2", "5"), pin("4", "3")],
        ..VmSpec::default()
    };
    let topology = VmTopology::try_from(&spec).unwrap();
    let ledger = crate::Ledger::new();
    let terms = Terms { policy: PlacementPolicy::Auto, fit: Fit::Prefer, ledger: &ledger };
    let now = Placement::new(&topology, &host, &terms, &Workspace::default()).unwrap();
    let residency = seen(&[(0, 0, Bytes::gib(1))]);
    let places = evacuate(
        &topology,
        &host,
        &now,
        PnodeId(0),
        &[VnodeId(0)],
        &Seen { residency: &residency, ledger: &ledger },
    )
    .unwrap();
    let cpus: Vec<String> = places[0].vcpus.values().map(ToString::to_string).collect();
    assert_eq!(&cpus[1..3], ["2", "5"]);
    // The one that cannot stay runs with the one that was never pinned.
    assert_eq!((&cpus[0], places[0].cpus.to_string()), (&cpus[3], cpus[3].clone()));
    assert_eq!(places[0].shortfalls, [Shortfall::PinsLost { vcpus: "0".parse().unwrap() }]);
    // A move elsewhere leaves all pins as they are.
    let mover =
        Mover { vnode: VnodeId(0), affinity: Affinity::Soft, residency: &BTreeMap::new(), ledger: &ledger };
    let moved = replace(&topology, &host, &mover, &"2".parse().unwrap()).unwrap();
    let cpus: Vec<String> = moved.vcpus.values().map(ToString::to_string).collect();
    assert_eq!((cpus, moved.shortfalls), (["0", "1-2", "5", "4-5"].map(str::to_owned).to_vec(), vec![]));
}
