//! Whether whole vnodes fit on given pnodes: bin packing in several dimensions. Which pnodes is `choose`'s question.

use crate::placement::problem::{Amounts, KINDS, fits, missing, sum, take};

/// Most steps of one search. Packing is NP-hard; vnodes of one size, and up to a dozen of any sizes, need far fewer.
const MAX_STEPS: u32 = 20_000;

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// They fit: the pnode of each vnode, as a position in `rooms`.
    Fits(Vec<usize>),
    /// They do not.
    Not,
    /// Not found out within [`MAX_STEPS`].
    Unknown,
}

/// Lays whole `items` into `rooms`.
pub fn pack(rooms: &[Amounts], items: &[Amounts]) -> Packing {
    let (need, have) = (sum(items), sum(rooms));
    if missing(&need, &have) != [0; KINDS] || most(rooms, items) < items.len() as u64 {
        return Packing::Not;
    }
    let mut search = Search { order: largest_first(items, &have), items, left: rooms.to_vec(), steps: 0 };
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
    let into = |room: &Amounts| {
        let of = |kind: usize| room[kind].checked_div(least[kind]);
        (0..KINDS).filter_map(of).min().unwrap_or(u64::MAX)
    };
    rooms.iter().map(into).fold(0, u64::saturating_add)
}

/// By the largest share of any kind, in 1/2^20 of all there is; equals next to each other.
fn largest_first(items: &[Amounts], have: &Amounts) -> Vec<usize> {
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
}

impl Search<'_> {
    /// Places the vnodes from `depth` on; `None` when out of steps.
    fn place(&mut self, depth: usize, at: &mut [usize]) -> Option<bool> {
        let Some(&item) = self.order.get(depth) else { return Some(true) };
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return None;
        }
        let need = self.items[item];
        // Of equal vnodes the later one never lies on a lower pnode: the other way round is the same.
        let before = depth.checked_sub(1).map(|before| self.order[before]);
        let first = before.filter(|before| self.items[*before] == need).map_or(0, |before| at[before]);
        for bin in first..self.left.len() {
            // Of pnodes with equal room the first stands for all.
            let seen = self.left[first..bin].contains(&self.left[bin]);
            if seen || !fits(&need, &self.left[bin]) {
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
            match pack(&rooms, &items) {
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

    #[test]
    fn two_hundred_and_fifty_six_equal_vnodes_are_packed_at_once() {
        let rooms = vec![[8 << 30, 0, 0, 16]; 16];
        assert!(matches!(pack(&rooms, &vec![[512 << 20, 0, 0, 1]; 256]), Packing::Fits(_)));
        assert_eq!(pack(&rooms, &vec![[513 << 20, 0, 0, 1]; 256]), Packing::Not);
    }
}
