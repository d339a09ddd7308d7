//! Two VMs with claims in one directory: what the first one's balloon holds is the second one's room.

use super::claimer::{Before, NotClaimed, claim_back, release};
use super::leases::Leases;
use crate::claims::{Claims, Held};
use crate::placement::PlacementOwner;
use resources::lease::Lease;
use resources::test_host::HostShape;
use resources::{Bytes, HostTopology, MemoryPolicy, PageSize, Plan, PnodeId, VmSpec, VnodeId, VnodeSpec};

const V: VnodeId = VnodeId(0);
const P: PnodeId = PnodeId(0);

struct World {
    _root: tempfile::TempDir,
    claims: Claims,
    host: HostTopology,
}

impl World {
    fn new(host: HostShape) -> Self {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        Self { _root: root, claims, host: host.topology() }
    }

    fn start(&self, vnode: VnodeSpec) -> Option<(Plan, Held)> {
        let spec = VmSpec { numa: vec![VnodeSpec { vcpus: "0".parse().ok(), ..vnode }], ..VmSpec::default() };
        let book = self.claims.lock(&self.claims.survey().unwrap()).unwrap();
        let plan = Plan::beside(&spec, &self.host, &book.ledger()).ok()?;
        let held = book.claim(&plan.placement.claim).unwrap();
        Some((plan, held))
    }

    fn look(&self) -> Result<HostTopology, resources::HostError> {
        Ok(self.host.clone())
    }
}

fn on_p(memory: Bytes, pages: PageSize) -> VnodeSpec {
    let pnode = Some(P.to_string().parse().unwrap());
    VnodeSpec { memory: Some(memory), pnode, pages: Some(pages), ..VnodeSpec::new(0) }
}

fn first(plan: &Plan, held: Held, out: Bytes) -> (PlacementOwner, Leases) {
    let leases = Leases::new([Lease::default()]);
    leases.of(V).came_out(out);
    (PlacementOwner::new(Some(held), plan.placement.clone()), leases)
}

#[test]
fn what_a_balloon_holds_is_room_for_the_next_vm_and_comes_back_when_that_ends() {
    let mib = Bytes::mib;
    let pool = |pages| match pages {
        PageSize::Huge2M => HostShape::new(1).pool(0, mib(2), 300, 300),
        _ => HostShape::new(1).free(0, mib(600 + 128 + 16), Bytes::ZERO),
    };
    for pages in [PageSize::Small, PageSize::Thp, PageSize::Huge2M] {
        let world = World::new(pool(pages));
        let (plan, held) = world.start(on_p(mib(500), pages)).unwrap();
        let vnode = &plan.topology.vnodes()[0];
        let (claim, leases) = first(&plan, held, mib(300));
        let second = || world.start(on_p(mib(256), pages));
        assert!(second().is_none(), "{pages:?}");

        // Not on another pnode, not more than the balloon holds, and pages of a pool as a whole.
        let release = |on, most| release(&claim, &leases, vnode, (on, most), || {}).unwrap();
        assert_eq!(release(Some(PnodeId(1)), mib(200)), mib(0));
        assert_eq!(release(Some(P), Bytes(mib(200).get() + 4096)).get() >> 20, 200);
        assert_eq!(release(None, mib(900)).get().div_ceil(1 << 20), 100);
        assert_eq!(leases.of(V).releasable(), Bytes::ZERO);
        let (_, second_claim) = second().unwrap();

        // The guest wants some back: what is left beside both is its own, and no more.
        assert!(!leases.go_back(V, mib(200)));
        let back = |least, most| {
            let before = Before::look(&claim, &|| world.look()).unwrap();
            let mut turn = claim.turn();
            let back = claim_back(&mut turn, before, vnode, (least, most), &|| world.look());
            leases.of(V).claimed(*back.as_ref().unwrap_or(&Bytes::ZERO));
            back
        };
        assert!(matches!(back(mib(200), mib(300)), Err(NotClaimed::Short(P))), "{pages:?}");
        assert_eq!(leases.of(V).wanted(), mib(200));
        drop(second_claim);
        assert_eq!(back(mib(200), mib(216)).unwrap(), mib(216));
        assert!(leases.go_back(V, mib(200)));
        assert_eq!(leases.of(V).released(), mib(84));
        assert!(second().is_none(), "{pages:?}");
        assert_eq!(back(Bytes::ZERO, mib(84)).unwrap(), mib(84));
        assert!(claim.turn().released(V).total().memory == Bytes::ZERO);
    }
}

#[test]
fn a_vnode_that_may_lie_on_several_pnodes_releases_nothing() {
    let world = World::new(HostShape::new(2));
    let pnode = Some("0-1".parse().unwrap());
    let policy = Some(MemoryPolicy::Interleave);
    let (plan, held) =
        world.start(VnodeSpec { pnode, policy, ..on_p(Bytes::mib(512), PageSize::Thp) }).unwrap();
    let (claim, leases) = first(&plan, held, Bytes::mib(300));
    let vnode = &plan.topology.vnodes()[0];
    let released = release(&claim, &leases, vnode, (None, Bytes::mib(300)), || unreachable!()).unwrap();
    assert_eq!((released, leases.of(V).released()), (Bytes::ZERO, Bytes::ZERO));
}

#[test]
fn what_cannot_be_written_is_not_released() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("claims");
    let claims = Claims::open(&directory, None).unwrap();
    let world = World { claims, ..World::new(HostShape::new(1)) };
    let (plan, held) = world.start(on_p(Bytes::mib(512), PageSize::Thp)).unwrap();
    let (claim, leases) = first(&plan, held, Bytes::mib(300));
    std::fs::rename(&directory, root.path().join("gone")).unwrap();
    let vnode = &plan.topology.vnodes()[0];
    assert!(release(&claim, &leases, vnode, (None, Bytes::mib(300)), || {}).is_err());
    let lease = *leases.of(V);
    assert_eq!((lease.released(), lease.releasable()), (Bytes::ZERO, Bytes::mib(300)));
}
