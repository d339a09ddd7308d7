//! What a guest that resets has of its memory: what it released is claimed back first, and where there is no room for all
//! of it the vnode boots that much smaller. Building the machine is `machine`'s.

use crate::balloon::{Before, HostShort, NotClaimed, claim_back, look};
use crate::handle::Shared;
use crate::placement::bytes_of;
use resources::topology::MEMORY_UNIT;
use resources::{Bytes, HostTopology, Vnode, VnodeId};
use std::collections::BTreeMap;

/// Claims back what vnodes have released, as far as there is room; what each has to boot without. Nobody uses their
/// memory meanwhile.
pub fn claim_all_back(shared: &Shared) -> BTreeMap<VnodeId, Bytes> {
    all_back(shared, &look)
}

fn all_back(
    shared: &Shared,
    look: &dyn Fn() -> Result<HostTopology, resources::HostError>,
) -> BTreeMap<VnodeId, Bytes> {
    let vnodes = shared.plan().topology.vnodes();
    // Where a vnode in pages of 1 GiB begins is for those below it to keep.
    let unit = vnodes.iter().filter_map(|vnode| vnode.pages.pool()).fold(MEMORY_UNIT, Bytes::max);
    let missing = |vnode: &Vnode| {
        let missing = vnode_back(shared, vnode, look);
        let left_out = Bytes(missing.get().div_ceil(unit.get()).saturating_mul(unit.get()));
        (missing > Bytes::ZERO).then_some((vnode.id, left_out))
    };
    vnodes.iter().filter_map(missing).collect()
}

/// What is missing then.
fn vnode_back(
    shared: &Shared,
    vnode: &Vnode,
    look: &dyn Fn() -> Result<HostTopology, resources::HostError>,
) -> Bytes {
    let released = shared.placement.turn().released(vnode.id);
    let bytes = bytes_of(vnode, &released);
    if bytes == Bytes::ZERO {
        return bytes;
    }
    let before = Before::look(&shared.placement, look);
    let mut turn = shared.placement.turn();
    let back = before.and_then(|before| claim_back(&mut turn, before, vnode, (Bytes::ZERO, bytes), look));
    let back = back.unwrap_or_else(|error| {
        if !matches!(error, NotClaimed::Short(_)) {
            tracing::warn!(vnode = %vnode.id, "{error}");
        }
        Bytes::ZERO
    });
    let missing = bytes.saturating_sub(back);
    if missing > Bytes::ZERO
        && let Some(pnode) = released.pnodes.keys().next()
    {
        tracing::warn!(vnode = %vnode.id, %pnode, bytes = %missing, "booting without released memory");
        shared.host_short(&HostShort { vnode: vnode.id, pnode: *pnode, bytes: missing, at_boot: true });
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::all_back;
    use crate::balloon::{HostShort, VnodeMemory};
    use crate::claims::Claims;
    use crate::handle::{Observer, Shared, VmView};
    use crate::jobs::JobView;
    use crate::placement::{PlacementOwner, memory_of};
    use resources::test_host::HostShape;
    use resources::{Bytes, Claim, PageSize, Plan, PnodeId, VmSpec, VnodeId, VnodeSpec};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<HostShort>>>);

    impl Observer for Told {
        fn view(&self, _: &VmView) {}
        fn job(&self, _: &JobView) {}
        fn balloon(&self, _: &VnodeMemory) {}
        fn host_short(&self, short: &HostShort) {
            self.0.lock().unwrap().push(*short);
        }
    }

    /// What two vnodes on pnode 0 boot without, the first of which has released this, with so much free.
    fn left_out(pages: PageSize, released: Bytes, free: Bytes) -> (Vec<(u32, Bytes)>, Vec<HostShort>) {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::open(root.path(), None).unwrap();
        let vnode = |id: u32, pages| VnodeSpec {
            memory: Some(Bytes::gib(1)),
            vcpus: id.to_string().parse().ok(),
            pnode: "0".parse().ok(),
            pages: Some(pages),
            ..VnodeSpec::new(id)
        };
        let spec = VmSpec { numa: vec![vnode(0, pages), vnode(1, PageSize::Small)], ..VmSpec::default() };
        let shape = HostShape::new(1).pool(0, Bytes::mib(2), 512, 512);
        let plan = Arc::new(Plan::new(&spec, &shape.topology()).unwrap());
        let held = claims.lock(&claims.survey().unwrap()).unwrap().claim(&plan.placement.claim).unwrap();
        let told = Told::default();
        let shared = Shared::new(
            &plan,
            Some(Box::new(told.clone())),
            PlacementOwner::new(Some(held), plan.placement.clone()),
        );
        let what = memory_of(&plan.topology.vnodes()[0], released);
        let what = Claim { pnodes: [(PnodeId(0), what)].into() };
        shared.placement.turn().release(VnodeId(0), &what).unwrap();
        // Nothing is touched: all that is still claimed counts beside it.
        let claimed = shared.placement.turn().of(VnodeId(0)).less(&what).total().memory;
        let reserve = shape.topology().pnodes()[0].memory_kept;
        let others = [claimed, Bytes::gib(1), free].into_iter().fold(reserve, Bytes::saturating_add);
        let pages = claims.living().unwrap()[0].claim.total().huge_pages.values().sum::<u64>();
        let free_pages = pages + free.get() / Bytes::mib(2).get();
        let host = HostShape::new(1).free(0, others, Bytes::ZERO).pool(0, Bytes::mib(2), 512, free_pages);
        let left_out = all_back(&shared, &|| Ok(host.clone().topology()));
        let total = shared.placement.turn().of(VnodeId(0));
        assert_eq!(total, plan.placement.vnodes[0].claim, "{pages:?}");
        let told = told.0.lock().unwrap().clone();
        (left_out.into_iter().map(|(vnode, bytes)| (vnode.0, bytes)).collect(), told)
    }

    #[test]
    fn a_guest_that_resets_boots_with_what_can_be_claimed_back() {
        let mib = Bytes::mib;
        let short = |bytes| HostShort { vnode: VnodeId(0), pnode: PnodeId(0), bytes, at_boot: true };
        for pages in [PageSize::Small, PageSize::Thp, PageSize::Huge2M] {
            assert_eq!(left_out(pages, mib(300), mib(300)), (vec![], vec![]), "{pages:?}");
            let (some, told) = left_out(pages, mib(300), mib(101));
            // In units of 2 MiB, so that huge pages and the memory map stay what they are.
            assert_eq!(some, [(0, mib(200))], "{pages:?}");
            let missing = if pages == PageSize::Huge2M { mib(200) } else { mib(199) };
            assert_eq!(told, [short(missing)], "{pages:?}");
            assert_eq!(left_out(pages, mib(300), mib(0)).0, [(0, mib(300))], "{pages:?}");
        }
    }
}
