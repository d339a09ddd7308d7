//! Whether whole vnodes fit on given pnodes: bin packing in several dimensions. `choose` selects the pnodes.

use crate::placement::budget::Allowance;
use crate::placement::problem::{Amounts, KINDS, fits, missing, sum, take};

/// Most steps of one search. Packing is NP-hard; vnodes of one size, and up to a dozen of any sizes, need far fewer.
const MAX_STEPS: u32 = 20_000;
/// Most pnodes that one search looks at.
const MAX_LOOKS: u64 = 2_000_000;
/// Looks that are one unit of work: most only compare amounts.
const LOOKS_PER_WORK: u64 = 4;

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// They fit: the pnode of each vnode, as a position in `rooms`.
    Fits(Vec<usize>),
    /// They do not.
    Not,
    /// Not found out within [`MAX_STEPS`], [`MAX_LOOKS`] and the work that was allowed.
    Unknown,
}

/// Lays whole `items` into `rooms`.
pub fn pack(rooms: &[Amounts], items: &[Amounts], limit: &Allowance<'_>) -> Packing {
    let (need, have) = (sum(items), sum(rooms));
    limit.spend((rooms.len() + items.len()) as u64);
    if missing(&need, &have) != [0; KINDS] || most(rooms, items) < items.len() as u64 {
        return Packing::Not;
    }
    let order = largest_first(items, &have);
    let mut search = Search { order, items, left: rooms.to_vec(), steps: 0, looks: 0, limit };
    let mut at = vec![0; items.len()];
    match search.place(0, &mut at) {
        Some(true) => Packing::Fits(at),
        Some(false) => Packing::Not,
        None => Packing::Unknown,
    }
}

/// No more vnodes than this fit, whatever their order: so many of the smallest amount of each kind. For vnodes of
/// one size that is exact.
fn most(rooms: &[Amounts], items: &[Amounts]) -> u64 {
    let least: Amounts = std::array::from_fn(|kind| items.iter().map(|item| item[kind]).min().unwrap_or(0));
    rooms.iter().map(|room| capacity(room, &least)).fold(0, u64::saturating_add)
}

/// How many vnodes of one size a pnode has room for.
pub fn capacity(room: &Amounts, item: &Amounts) -> u64 {
    let of = |kind: usize| room[kind].checked_div(item[kind]);
    (0..KINDS).filter_map(of).min().unwrap_or(u64::MAX)
}

/// By the largest share of any kind, in 1/2^20 of all there is; equals next to each other.
pub fn largest_first(items: &[Amounts], have: &Amounts) -> Vec<usize> {
    let share = |item: &Amounts| {
        let of = |kind: usize| (u128::from(item[kind]) << 20) / u128::from(have[kind].max(1));
        (0..KINDS).map(of).max().unwrap_or(0)
    };
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|item| (std::cmp::Reverse((share(&items[*item]), items[*item])), *item));
    order
}

struct Search<'a> {
    order: Vec<usize>,
    items: &'a [Amounts],
    left: Vec<Amounts>,
    steps: u32,
    looks: u64,
    limit: &'a Allowance<'a>,
}

impl Search<'_> {
    /// Counts looks at pnodes; false when there are no more.
    fn look(&mut self, pnodes: usize) -> bool {
        let pnodes = pnodes as u64;
        self.looks += pnodes;
        self.looks <= MAX_LOOKS && self.limit.spend(pnodes.div_ceil(LOOKS_PER_WORK))
    }

    /// Places the vnodes from `depth` on; `None` when out of steps.
    fn place(&mut self, depth: usize, at: &mut [usize]) -> Option<bool> {
        let Some(&item) = self.order.get(depth) else { return Some(true) };
        self.steps += 1;
        if self.steps > MAX_STEPS || !self.look(self.left.len()) {
            return None;
        }
        let need = self.items[item];
        // Of equal vnodes the later one never lies on a lower pnode: the other way round is the same.
        let before = depth.checked_sub(1).map(|before| self.order[before]);
        let first = before.filter(|before| self.items[*before] == need).map_or(0, |before| at[before]);
        for bin in first..self.left.len() {
            if !fits(&need, &self.left[bin]) {
                continue;
            }
            // Of pnodes with equal room the first stands for all.
            if !self.look(bin - first) {
                return None;
            }
            if self.left[first..bin].contains(&self.left[bin]) {
                continue;
            }
            let room = self.left[bin];
            take(&mut self.left[bin], &need);
            at[item] = bin;
            let done = self.place(depth + 1, at)?;
            self.left[bin] = room;
            if done {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::{Packing, pack};
    use crate::placement::budget::Budget;
    use crate::placement::problem::{Amounts, fits, take};
    use proptest::prelude::proptest;

    fn brute(rooms: &mut [Amounts], items: &[Amounts]) -> bool {
        let Some((first, rest)) = items.split_first() else { return true };
        (0..rooms.len()).any(|bin| {
            let before = rooms[bin];
            let fit = fits(first, &before) && {
                take(&mut rooms[bin], first);
                brute(rooms, rest)
            };
            rooms[bin] = before;
            fit
        })
    }

    proptest! {
        #[test]
        fn packing_agrees_with_trying_everything(
            rooms in proptest::collection::vec((0u64..9, 0u64..5), 1..5),
            items in proptest::collection::vec((0u64..5, 0u64..3), 1..7),
        ) {
            let amounts = |list: &[(u64, u64)]| list.iter().map(|(memory, cpus)| [*memory, 0, 0, *cpus]).collect::<Vec<_>>();
            let (mut rooms, items) = (amounts(&rooms), amounts(&items));
            match pack(&rooms, &items, &Budget::default().allow(u64::MAX)) {
                Packing::Fits(at) => {
                    for (item, bin) in items.iter().zip(at) {
                        assert!(fits(item, &rooms[bin]));
                        take(&mut rooms[bin], item);
                    }
                }
                Packing::Not => assert!(!brute(&mut rooms, &items)),
                Packing::Unknown => panic!("too many steps for a small case"),
            }
        }
    }

    /// 43 vnodes of which two fit on a pnode, and 21 pnodes; all of them differ, so nothing stands for anything else.
    #[test]
    fn packing_ends_when_its_work_is_done_and_says_that_it_does_not_know() {
        let items: Vec<Amounts> = (0..43).map(|at| [401 + at, 0, 0, 0]).chain([[1, 0, 0, 0]]).collect();
        let rooms: Vec<Amounts> = (0..21).map(|at| [1000 + at, 0, 0, 0]).collect();
        let budget = Budget::default();
        assert_eq!(pack(&rooms, &items, &budget.allow(10_000)), Packing::Unknown);
        assert!(budget.effort().work < 10_200, "{:?}", budget.effort());
    }

    #[test]
    fn two_hundred_and_fifty_six_equal_vnodes_are_packed_at_once() {
        let rooms = vec![[8 << 30, 0, 0, 16]; 16];
        let budget = Budget::default();
        let limit = budget.allow(20_000);
        assert!(matches!(pack(&rooms, &vec![[512 << 20, 0, 0, 1]; 256], &limit), Packing::Fits(_)));
        assert_eq!(pack(&rooms, &vec![[513 << 20, 0, 0, 1]; 256], &limit), Packing::Not);
    }
}
