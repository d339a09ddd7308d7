//! Orders by pnode against guests that are tables.

use super::outcome::Stop;
use super::reclaim::{Ground, Holding, ReclaimKind, ReclaimOrder, ReclaimStop, ReclaimTally, carry_out};
use crate::memory::Residency;
use crate::sys::HostError;
use proptest::prelude::*;
use resources::{Bytes, PnodeId, VnodeId};
use std::cell::RefCell;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// A vnode: pages on each pnode, pages never touched, pages out, the most that the guest has free for the balloon.
#[derive(Debug, Clone, Default)]
struct Model {
    on: BTreeMap<u32, u64>,
    absent: u64,
    held: u64,
    most: u64,
    free: u64,
    /// The guest gives untouched pages first.
    absent_first: bool,
    pinned: bool,
    /// Pages in a page of a pool, of which none is out as a whole before so many are.
    page: u64,
    /// Pages of the part on the first pnode that lie on the second.
    strayed: Option<(u32, u32, u64)>,
}

impl Model {
    fn new(on: &[(u32, u64)]) -> Self {
        let on: BTreeMap<u32, u64> = on.iter().copied().collect();
        let all = on.values().sum();
        Self { on, most: all, free: all, ..Self::default() }
    }

    /// The guest gives pages wherever they lie: in turn from each pnode.
    fn give(&mut self, pages: u64) {
        if self.page > 1 {
            // A guest that has something in each page of the pool.
            self.held += pages;
            return;
        }
        for page in 0..pages {
            if self.absent_first && self.absent > 0 {
                self.absent -= 1;
            } else {
                let with: Vec<u32> = self.on.iter().filter(|(_, n)| **n > 0).map(|(id, _)| *id).collect();
                let at = with[usize::try_from(page).unwrap() % with.len()];
                *self.on.get_mut(&at).unwrap() -= 1;
            }
            self.held += 1;
        }
    }
}

#[derive(Default)]
struct Table {
    vnodes: RefCell<Vec<Model>>,
    asked: RefCell<Vec<Vec<(u32, u64)>>>,
    /// Claims that were lowered: whose, where it had to lie, and by how much.
    released: RefCell<Vec<(u32, Option<u32>, u64)>>,
}

impl Table {
    fn new(vnodes: Vec<Model>) -> Self {
        Self { vnodes: RefCell::new(vnodes), ..Self::default() }
    }

    fn take(&self, pnode: u32, pages: u64, exact: bool) -> (ReclaimStop, ReclaimTally) {
        let bytes = Bytes(pages * PAGE);
        let order = ReclaimOrder { kind: ReclaimKind::Take, pnode: PnodeId(pnode), bytes, exact };
        carry_out(&order, self).unwrap()
    }

    fn pages_on(&self, pnode: u32) -> u64 {
        self.vnodes.borrow().iter().filter_map(|vnode| vnode.on.get(&pnode)).sum()
    }
}

fn index(vnode: VnodeId) -> usize {
    vnode.index()
}

impl Ground for Table {
    fn balloons(&self) -> Vec<Holding> {
        let holding = |(id, vnode): (u32, &Model)| Holding {
            vnode: VnodeId(id),
            held: Bytes(vnode.held * PAGE),
            most: Bytes(vnode.most * PAGE),
            page: Bytes(vnode.page.max(1) * PAGE),
        };
        (0..).zip(self.vnodes.borrow().iter()).map(holding).collect()
    }

    fn may_be_on(&self, vnode: VnodeId, pnode: PnodeId) -> bool {
        self.vnodes.borrow()[index(vnode)].on.contains_key(&pnode.0)
    }

    fn residency(&self, vnode: VnodeId) -> Result<Residency, HostError> {
        let model = &self.vnodes.borrow()[index(vnode)];
        let on = model.on.iter().map(|(pnode, pages)| (PnodeId(*pnode), Bytes(pages * PAGE))).collect();
        Ok(Residency { on, absent: Bytes(model.absent * PAGE), unknown: Bytes::ZERO })
    }

    fn want(&self, wanted: &[(VnodeId, Bytes)]) -> Vec<Option<Stop>> {
        let pages = |bytes: Bytes| bytes.get() / PAGE;
        self.asked.borrow_mut().push(wanted.iter().map(|(vnode, bytes)| (vnode.0, pages(*bytes))).collect());
        let want = |(vnode, bytes): &(VnodeId, Bytes)| {
            let model = &mut self.vnodes.borrow_mut()[index(*vnode)];
            let wanted = pages(*bytes);
            assert!(wanted <= model.most, "past the floor");
            let goal = wanted.min(model.held.max(model.free));
            if goal >= model.held {
                model.give(goal - model.held);
            } else {
                model.absent += if model.page > 1 { 0 } else { model.held - goal };
                model.held = goal;
            }
            Some(if goal == wanted { Stop::Reached } else { Stop::Dry })
        };
        wanted.iter().map(want).collect()
    }

    fn shift(
        &self,
        vnode: VnodeId,
        from: PnodeId,
        rooms: &BTreeMap<PnodeId, Bytes>,
    ) -> Result<Bytes, HostError> {
        let model = &mut self.vnodes.borrow_mut()[index(vnode)];
        if model.pinned {
            return Ok(Bytes::ZERO);
        }
        let mut moved = 0;
        for (to, room) in rooms {
            let part = (room.get() / PAGE).min(model.on[&from.0]);
            *model.on.get_mut(&from.0).unwrap() -= part;
            *model.on.get_mut(&to.0).unwrap() += part;
            moved += part;
        }
        Ok(Bytes(moved * PAGE))
    }

    fn release(&self, vnode: VnodeId, on: Option<PnodeId>, most: Bytes) -> Bytes {
        let pages = (most.get() / PAGE).min(self.vnodes.borrow()[index(vnode)].held);
        self.released.borrow_mut().push((vnode.0, on.map(|on| on.0), pages));
        Bytes(pages * PAGE)
    }

    fn bring_home(&self, vnode: VnodeId, pnode: PnodeId, most: Bytes) -> Result<Bytes, HostError> {
        let model = &mut self.vnodes.borrow_mut()[index(vnode)];
        let Some((home, on, pages)) = model.strayed.as_mut().filter(|(home, _, _)| *home == pnode.0) else {
            return Ok(Bytes::ZERO);
        };
        let came = (most.get() / PAGE).min(*pages);
        *pages -= came;
        *model.on.get_mut(home).unwrap() += came;
        *model.on.get_mut(on).unwrap() -= came;
        Ok(Bytes(came * PAGE))
    }

    fn cancelled(&self) -> bool {
        false
    }

    fn tell(&self, _: &ReclaimTally) {}
}

/// The RFC's guest: vnodes 0 to 3 on pnodes 1, 3, 3, 5.
fn four() -> Table {
    let on = [(1, 1000), (3, 3000), (3, 1000), (5, 1000)];
    Table::new(on.iter().map(|at| Model::new(&[*at])).collect())
}

#[test]
fn one_to_one_asks_that_vnode_alone() {
    let table = four();
    let (stop, tally) = table.take(1, 600, true);
    assert_eq!(
        (stop, tally.freed(), tally.elsewhere()),
        (ReclaimStop::Reached, Bytes(600 * PAGE), Bytes::ZERO)
    );
    assert_eq!(*table.asked.borrow(), [[(0, 600)]]);
}

#[test]
fn many_to_one_splits_in_proportion() {
    let table = four();
    let (stop, tally) = table.take(3, 800, true);
    assert_eq!((stop, tally.freed()), (ReclaimStop::Reached, Bytes(800 * PAGE)));
    assert_eq!(*table.asked.borrow(), [[(1, 600), (2, 200)]]);
    assert_eq!(*table.released.borrow(), [(1, Some(3), 600), (2, Some(3), 200)]);
    assert_eq!(tally.released(), Bytes(800 * PAGE));
    assert_eq!([1, 3, 5].map(|pnode| table.pages_on(pnode)), [1000, 3200, 1000]);
}

#[test]
fn one_to_many_moves_what_is_left_into_the_room_just_freed() {
    let table = Table::new(vec![Model::new(&[(1, 1000), (3, 1000)]), Model::new(&[(5, 500)])]);
    let (stop, tally) = table.take(3, 900, true);
    assert_eq!(
        (stop, tally.freed(), tally.elsewhere()),
        (ReclaimStop::Reached, Bytes(900 * PAGE), Bytes::ZERO)
    );
    // 900 pages came, half of them from pnode 1; as many went over.
    assert_eq!(tally.parts[0].moved, Bytes(450 * PAGE));
    assert_eq!([1, 3, 5].map(|pnode| table.pages_on(pnode)), [1000, 100, 500]);
}

#[test]
fn pages_that_do_not_move_end_an_exact_order_and_are_said_to_be_elsewhere() {
    let pinned = Model { pinned: true, ..Model::new(&[(1, 5000), (3, 5000)]) };
    let (stop, tally) = Table::new(vec![pinned.clone()]).take(3, 4000, true);
    let halves = (Bytes(2000 * PAGE), Bytes(2000 * PAGE));
    assert_eq!((stop, (tally.freed(), tally.elsewhere())), (ReclaimStop::Short, halves));
    // Best effort asks again for what is missing.
    let (stop, tally) = Table::new(vec![pinned]).take(3, 3000, false);
    assert_eq!((stop, tally.freed() > Bytes(2900 * PAGE)), (ReclaimStop::Elsewhere, true));
}

#[test]
fn a_vnode_that_runs_dry_leaves_the_rest_to_the_others_there() {
    let table = four();
    table.vnodes.borrow_mut()[1].free = 100;
    let (stop, tally) = table.take(3, 800, true);
    assert_eq!((stop, tally.freed()), (ReclaimStop::Reached, Bytes(800 * PAGE)));
    assert_eq!(tally.parts.iter().map(|part| part.freed.get() / PAGE).collect::<Vec<_>>(), [100, 700]);
    assert_eq!(tally.parts[0].stop, Some(Stop::Dry));
}

#[test]
fn exact_is_short_where_best_effort_goes_elsewhere() {
    let table = four();
    table.vnodes.borrow_mut()[0].free = 400;
    let (stop, tally) = table.take(1, 600, true);
    assert_eq!(
        (stop, tally.freed(), tally.elsewhere()),
        (ReclaimStop::Short, Bytes(400 * PAGE), Bytes::ZERO)
    );
    assert_eq!([3, 5].map(|pnode| table.pages_on(pnode)), [4000, 1000]);

    let table = four();
    table.vnodes.borrow_mut()[0].free = 400;
    let (stop, tally) = table.take(1, 600, false);
    assert_eq!((stop, tally.freed()), (ReclaimStop::Elsewhere, Bytes(400 * PAGE)));
    assert_eq!(tally.elsewhere(), Bytes(200 * PAGE));
    // Room for others, wherever it is.
    assert_eq!((tally.released(), table.released.borrow()[0].1), (Bytes(600 * PAGE), None));
    assert_eq!([3, 5].map(|pnode| table.pages_on(pnode)), [3840, 960]);
}

#[test]
fn nobody_is_asked_past_its_floor_and_that_is_said() {
    let table = Table::new(vec![Model { most: 700, ..Model::new(&[(1, 1000)]) }]);
    let (stop, tally) = table.take(1, 800, true);
    assert_eq!((stop, tally.freed()), (ReclaimStop::Floor, Bytes(700 * PAGE)));
}

#[test]
fn untouched_pages_free_nothing_and_more_are_asked_for() {
    let sparse =
        Model { absent: 300, most: 1300, free: 1300, absent_first: true, ..Model::new(&[(1, 1000)]) };
    let (stop, tally) = Table::new(vec![sparse]).take(1, 600, true);
    assert_eq!((stop, tally.freed()), (ReclaimStop::Reached, Bytes(600 * PAGE)));
    assert_eq!(tally.parts[0].asked, Bytes(900 * PAGE));
    // Claims go down by what was asked for, and no more.
    assert_eq!((tally.ballooned(), tally.released()), (Bytes(900 * PAGE), Bytes(600 * PAGE)));
}

#[test]
fn pages_of_a_pool_that_cannot_go_as_a_whole_are_left_to_the_guest() {
    // Down to the floor it is less than one page.
    let table =
        Table::new(vec![Model { page: 900, most: 800, ..Model::new(&[(1, 900)]) }, Model::new(&[(3, 500)])]);
    let (stop, tally) = table.take(1, 100, true);
    assert_eq!((stop, tally.freed(), table.asked.borrow().len()), (ReclaimStop::WholePages, Bytes::ZERO, 0));
    assert_eq!((tally.parts[0].there, tally.parts[0].stop), (Bytes(900 * PAGE), Some(Stop::WholePages)));
    assert_eq!(table.take(1, 100, false).0, ReclaimStop::Elsewhere);
    // It might have been one; when it was not, the guest has its memory again.
    let table = Table::new(vec![Model { page: 300, most: 800, ..Model::new(&[(1, 900)]) }]);
    let (stop, tally) = table.take(1, 100, true);
    assert_eq!((stop, tally.ballooned()), (ReclaimStop::WholePages, Bytes::ZERO));
    assert_eq!(table.asked.borrow().first(), Some(&vec![(0, 300)]));
    assert_eq!(table.vnodes.borrow()[0].held, 0);
}

#[test]
fn a_pnode_without_memory_of_the_vm_gives_nothing() {
    assert_eq!(four().take(7, 10, true).0, ReclaimStop::NothingThere);
    let (stop, tally) = four().take(7, 60, false);
    assert_eq!((stop, tally.elsewhere()), (ReclaimStop::Elsewhere, Bytes(60 * PAGE)));
}

#[test]
fn giving_back_goes_to_the_vnodes_of_that_pnode_in_proportion_to_what_they_gave() {
    let table = four();
    assert_eq!(table.take(3, 800, true).0, ReclaimStop::Reached);
    let give = |pages| {
        let bytes = Bytes(pages * PAGE);
        let order = ReclaimOrder { kind: ReclaimKind::Give, pnode: PnodeId(3), bytes, exact: true };
        let (stop, tally) = carry_out(&order, &table).unwrap();
        (stop, tally.ballooned().get() / PAGE)
    };
    assert_eq!(give(400), (ReclaimStop::Reached, 400));
    assert_eq!(table.vnodes.borrow().iter().map(|vnode| vnode.held).collect::<Vec<_>>(), [0, 300, 100, 0]);
    assert_eq!(give(600), (ReclaimStop::Short, 400));
    assert_eq!(give(1), (ReclaimStop::NothingThere, 0));
}

#[test]
fn giving_back_brings_pages_home_that_took_in_what_their_vnode_gave_elsewhere() {
    let strayed = Some((0, 1, 100));
    let table = Table::new(vec![Model { held: 300, strayed, ..Model::new(&[(0, 500), (1, 600)]) }]);
    let give = |pnode, pages| {
        let bytes = Bytes(pages * PAGE);
        let order = ReclaimOrder { kind: ReclaimKind::Give, pnode: PnodeId(pnode), bytes, exact: true };
        let (stop, tally) = carry_out(&order, &table).unwrap();
        assert_eq!(stop, ReclaimStop::Reached);
        (tally.parts[0].moved.get() / PAGE, [0, 1].map(|pnode| table.pages_on(pnode)))
    };
    // No more than was given back, and of this pnode's part alone.
    assert_eq!(give(1, 30), (0, [500, 600]));
    assert_eq!(give(0, 40), (40, [540, 560]));
    assert_eq!(give(0, 200), (60, [600, 500]));
    assert_eq!(give(0, 10), (0, [600, 500]));
}

fn model() -> impl Strategy<Value = Model> {
    let on = prop::collection::btree_map(0_u32..4, 0_u64..500, 1..4);
    (on, 0_u64..200, 0_u64..=100, 0_u64..=100, any::<bool>(), any::<bool>()).prop_map(
        |(on, absent, most, free, absent_first, pinned)| {
            let all = on.values().sum::<u64>() + absent;
            Model {
                on,
                absent,
                held: 0,
                most: all * most / 100,
                free: all * free / 100,
                absent_first,
                pinned,
                page: 1,
                strayed: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn exact_orders_free_no_other_pnode_and_the_tally_is_what_the_host_says(
        vnodes in prop::collection::vec(model(), 1..5), pnode in 0_u32..4, pages in 1_u64..2000,
    ) {
        let pinned = vnodes.iter().any(|vnode| vnode.pinned);
        let table = Table::new(vnodes);
        let before: Vec<u64> = (0..4).map(|pnode| table.pages_on(pnode)).collect();
        let (stop, tally) = table.take(pnode, pages, true);
        let freed = before[pnode as usize] - table.pages_on(pnode);
        prop_assert_eq!(tally.freed(), Bytes(freed * PAGE));
        prop_assert_eq!(stop == ReclaimStop::Reached, freed >= pages);
        prop_assert!(freed <= pages);
        for other in (0..4).filter(|other| *other != pnode && !pinned) {
            // What came from there and had no more pages to take in, since all of the vnode had left the pnode.
            let gone = before[other as usize].saturating_sub(table.pages_on(other));
            let emptied = table.vnodes.borrow().iter().any(|vnode| vnode.on.get(&pnode).is_none_or(|on| *on == 0));
            prop_assert!(gone == 0 || emptied, "{} of pnode {}", gone, other);
        }
    }
}
