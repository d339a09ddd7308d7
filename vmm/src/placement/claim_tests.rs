//! Tests of [`Turn`](super::Turn): what is claimed while a vnode moves, and released by its balloon, as others read it.

use super::claim::PATIENCE;
use super::{HostThreads, Made, MoveEnd, PlacementOwner};
use crate::claims::{Claims, ClaimsError, Survey};
use crate::memory::MoveOutcome;
use crate::sys::HostError;
use resources::test_host::HostShape;
use resources::{
    Bytes, Claim, CpuSet, Ledger, NodeClaim, Plan, PnodeId, VcpuId, VmSpec, VnodeId, VnodePlacement,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn claim(pnode: u32, memory: Bytes) -> Claim {
    Claim { pnodes: [(PnodeId(pnode), NodeClaim { memory, ..NodeClaim::default() })].into() }
}

/// Threads that go wherever they are sent.
struct Willing;

impl HostThreads for Willing {
    fn set_vcpu(&self, _: VcpuId, _: &CpuSet) -> Result<(), HostError> {
        Ok(())
    }

    fn vcpu(&self, _: VcpuId) -> Result<CpuSet, HostError> {
        unreachable!("none stays behind")
    }

    fn set_workers(&self, _: VnodeId, _: &CpuSet) -> Result<(), HostError> {
        Ok(())
    }

    fn workers(&self, _: VnodeId) -> CpuSet {
        unreachable!("none stays behind")
    }
}

const V: VnodeId = VnodeId(0);

/// The place of now, but for its claim.
fn place(own: &PlacementOwner, claim: &Claim) -> VnodePlacement {
    VnodePlacement { claim: claim.clone(), ..own.at(V).unwrap() }
}

/// Claims room for a move that starts.
fn start(
    own: &PlacementOwner,
    mut decide: impl FnMut(&Ledger) -> Result<Claim, ClaimsError>,
) -> Result<(), ClaimsError> {
    let decide = |ledger: &Ledger| decide(ledger).map(|claim| vec![(place(own, &claim), claim)]);
    let seen = own.look().unwrap_or_default();
    own.turn().change(seen, &BTreeMap::from([(V, Vec::new())]), decide, |_| Ok(Made::Started(())))
}

/// The vnode has moved, and needs this.
fn moved(own: &PlacementOwner, claim: &Claim) {
    let to = place(own, claim);
    let outcome =
        MoveOutcome { policy_on: to.pnodes.clone(), parts: to.parts.clone(), ..MoveOutcome::default() };
    let ends = vec![MoveEnd::new(None, to, &outcome, true)];
    own.turn().end_moves(ends, |ends| Some(own.memory_moved(&Willing, &ends))).unwrap();
}

/// A claim of one vnode, and what it is.
fn own(claims: &Claims) -> (PlacementOwner, Claim) {
    let spec = VmSpec { memory: Some(Bytes::gib(1)), vcpus: Some(1), ..VmSpec::default() };
    let plan = Plan::new(&spec, &HostShape::new(2).topology()).unwrap();
    let held = claims.lock(&Survey::default()).unwrap().claim(&plan.placement.claim).unwrap();
    (PlacementOwner::new(Some(held), plan.placement.clone()), plan.placement.claim)
}

#[test]
fn a_claim_grows_before_a_move_shrinks_after_and_is_seen_by_others() {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path(), None).unwrap();
    let (own, before) = own(&claims);
    let seen = || claims.living().unwrap()[0].claim.clone();
    assert_eq!(seen(), before);
    let there = claim(1, Bytes::gib(1));
    // Others are promised nothing, and what moves is not in its own way.
    start(&own, |ledger| {
        assert_eq!(ledger.untouched_memory(PnodeId(0)), Bytes::ZERO);
        Ok(there.clone())
    })
    .unwrap();
    assert_eq!(seen(), before.clone().at_least(&there));
    let busy = || ClaimsError::Busy { path: root.path().to_owned(), holder: None, seconds: 0 };
    assert!(start(&own, |_| Err(busy())).is_err());
    assert_eq!(seen(), before.clone().at_least(&there));
    moved(&own, &there);
    assert_eq!(seen(), there);
    own.release();
    assert_eq!(claims.living().unwrap(), []);
}

#[test]
fn what_cannot_be_written_is_told_to_others_with_the_next_change() {
    let root = tempfile::tempdir().unwrap();
    let (directory, gone) = (root.path().join("claims"), root.path().join("gone"));
    let claims = Claims::open(&directory, None).unwrap();
    let (own, before) = own(&claims);
    let seen = || claims.living().unwrap()[0].claim.clone();
    std::fs::rename(&directory, &gone).unwrap();
    moved(&own, &claim(0, Bytes(1)));
    assert!(start(&own, |_| Ok(claim(1, Bytes(1)))).is_err());
    std::fs::rename(&gone, &directory).unwrap();
    assert_eq!((seen(), own.turn().of(V)), (before, claim(0, Bytes(1))));
    own.turn().give_back(&[]);
    assert_eq!(seen(), claim(0, Bytes(1)));
}

#[test]
fn a_claim_that_does_not_change_is_not_written() {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path(), None).unwrap();
    let (own, before) = own(&claims);
    let _busy = claims.lock(&Survey::default()).unwrap();
    let told = std::time::Instant::now();
    moved(&own, &before);
    assert!(told.elapsed() < PATIENCE, "it waited for the directory");
}

#[test]
fn what_others_have_touched_is_not_read_to_give_something_back() {
    let root = tempfile::tempdir().unwrap();
    let procfs = root.path().join("proc");
    let process = procfs.join(std::process::id().to_string());
    std::fs::create_dir_all(&process).unwrap();
    std::fs::copy("/proc/self/stat", process.join("stat")).unwrap();
    let maps = process.join("numa_maps");
    nix::unistd::mkfifo(&maps, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    std::thread::spawn(move || {
        while let Ok(mut maps) = std::fs::File::options().write(true).open(&maps) {
            count.fetch_add(1, Ordering::Relaxed);
            // The reader may be content with fewer.
            let _ = maps.write_all(b"7f5c4c000000 bind:1 anon=1 N1=1 kernelpagesize_kB=4\n");
        }
    });
    let claims = Claims::open(&root.path().join("claims"), None).unwrap().with_procfs(procfs);
    let (own, _) = own(&claims);
    for bytes in [3, 2, 1] {
        moved(&own, &claim(0, Bytes(bytes)));
    }
    assert_eq!(opened.load(Ordering::Relaxed), 0);
    let survey = claims.survey().unwrap();
    assert!(survey.living[0].touched.as_ref().unwrap().has.total().memory > Bytes::ZERO);
    assert!(opened.load(Ordering::Relaxed) > 0, "nobody looked where it was counted");
    assert_eq!(survey.living[0].claim, claim(0, Bytes(1)));
}

#[test]
fn one_at_a_time_has_a_turn() {
    let root = tempfile::tempdir().unwrap();
    let (own, _) = own(&Claims::open(root.path(), None).unwrap());
    let turn = own.turn();
    assert!(own.turn_within(Duration::ZERO).is_none());
    drop(turn);
    assert!(own.turn_within(Duration::ZERO).is_some());
    std::thread::scope(|scope| {
        let turn = own.turn();
        let waiting = scope.spawn(|| drop(own.turn()));
        drop(turn);
        waiting.join().unwrap();
    });
}

#[test]
fn a_decision_is_made_again_if_others_have_claimed_since_they_were_seen() {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path(), None).unwrap();
    let (own, before) = own(&claims);
    let (mut asked, mut other) = (Vec::new(), None);
    start(&own, |ledger| {
        asked.push(ledger.untouched_memory(PnodeId(1)));
        // Somebody else is quicker.
        let quicker = || claims.lock(&Survey::default()).unwrap().claim(&claim(1, Bytes(7))).unwrap();
        other.get_or_insert_with(quicker);
        Ok(claim(1, Bytes(1)))
    })
    .unwrap();
    assert_eq!(asked, [Bytes::ZERO, Bytes(7)]);
    assert_eq!(own.turn().of(V), before.at_least(&claim(1, Bytes(1))));
}

#[test]
fn what_a_vnode_releases_is_room_for_others_until_it_is_claimed_back() {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path(), None).unwrap();
    let (own, full) = own(&claims);
    let seen = || {
        let vm = claims.living().unwrap().remove(0);
        let of = |claim: &Claim| claim.pnodes.get(&PnodeId(0)).map_or(Bytes::ZERO, |node| node.memory);
        (of(&vm.claim), of(&vm.released))
    };
    let mib = Bytes::mib;
    own.turn().release(V, &claim(0, mib(300))).unwrap();
    assert_eq!((seen(), own.turn().of(V)), ((mib(724), mib(300)), full.clone()));
    own.turn()
        .claim_back(own.look().unwrap(), (V, PnodeId(0)), |ledger| {
            assert_eq!(ledger.claimed(PnodeId(0)).unwrap().memory, mib(724));
            Ok::<_, ClaimsError>(NodeClaim { memory: mib(100), ..NodeClaim::default() })
        })
        .unwrap();
    assert_eq!(seen(), (mib(824), mib(200)));
    // Its threads go elsewhere, or a move comes to nothing: what was released stays so.
    own.rehome(&Willing, place(&own, &full)).unwrap();
    own.turn().give_back(&[V]);
    assert_eq!((seen(), own.turn().released(V)), ((mib(824), mib(200)), claim(0, mib(200))));
    // While it moves it claims what is left here, and all of it there.
    let there = claim(1, mib(1024));
    start(&own, |_| Ok(there.clone())).unwrap();
    assert_eq!(seen(), (mib(824), mib(200)));
    moved(&own, &there);
    assert_eq!((seen(), own.turn().of(V)), ((mib(0), mib(0)), there.clone()));
}

#[test]
fn what_a_vm_has_released_since_it_was_asked_it_no_longer_has() {
    let root = tempfile::tempdir().unwrap();
    let claims = Claims::open(root.path(), None).unwrap();
    let (own, _) = own(&claims);
    let mut survey = claims.survey().unwrap();
    let touched = crate::claims::Touched { has: claim(0, Bytes::mib(900)), ..Default::default() };
    survey.living[0].touched = Some(touched);
    own.turn().release(V, &claim(0, Bytes::mib(300))).unwrap();
    let book = claims.lock(&survey).unwrap();
    assert!(!book.as_surveyed);
    // 724 MiB are promised, and 600 of them taken.
    assert_eq!(book.ledger().untouched_memory(PnodeId(0)), Bytes::mib(124));
}
