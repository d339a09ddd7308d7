//! Placement as numbers: what vnodes need, what pnodes have, and distances. `decide` maps them to ids; solvers use
//! only this.

use crate::placement::pairs::Pairs;
use std::rc::Rc;

/// Ordinary memory in bytes.
pub const MEMORY: usize = 0;
/// Pages of 2 MiB.
pub const PAGES_2M: usize = 1;
/// Pages of 1 GiB.
pub const PAGES_1G: usize = 2;
/// CPUs.
pub const CPUS: usize = 3;
/// Kinds of things that are taken.
pub const KINDS: usize = 4;

/// So much of each kind.
pub type Amounts = [u64; KINDS];

/// The largest amount of anything that counts: 8 PiB. 1,024 pnodes with as much do not overflow.
pub const MAX_AMOUNT: u64 = u64::MAX >> 11;

/// A pnode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bin {
    /// What is left of it.
    pub room: Amounts,
    /// vCPUs claimed there, [`MAX_AMOUNT`] at most.
    pub claimed: u64,
    /// Free memory, of the kinds that the VM takes, [`MAX_AMOUNT`] at most.
    pub free: u64,
}

/// Vnodes to be laid on pnodes. Pnodes are named by position, vnodes by position among those without a pnode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The pnodes, ascending by id.
    pub bins: Vec<Bin>,
    /// What each vnode takes.
    pub items: Vec<Amounts>,
    /// Pnodes that the VM uses in any case, ascending.
    pub given: Vec<usize>,
    /// Distance there and back of each pair of pnodes.
    pub pairs: Rc<Pairs>,
}

/// Whether `item` fits into `room`.
pub fn fits(item: &Amounts, room: &Amounts) -> bool {
    item.iter().zip(room).all(|(need, left)| need <= left)
}

/// Takes `item` out of `room`; what is not there is not taken.
pub fn take(room: &mut Amounts, item: &Amounts) {
    room.iter_mut().zip(item).for_each(|(left, need)| *left = left.saturating_sub(*need));
}

/// The sum, stopping at 2^64 - 1.
pub fn sum<'a>(amounts: impl IntoIterator<Item = &'a Amounts>) -> Amounts {
    amounts.into_iter().fold([0; KINDS], |mut all, one| {
        all.iter_mut().zip(one).for_each(|(all, one)| *all = all.saturating_add(*one));
        all
    })
}

/// An amount in parts of another, in 1/2^20.
pub fn parts(amount: u64, of: u64) -> u64 {
    match amount.leading_zeros() {
        20.. => (amount << 20) / of.max(1),
        // Past 16 TiB.
        _ => u64::try_from((u128::from(amount) << 20) / u128::from(of.max(1))).unwrap_or(u64::MAX),
    }
}

/// What of `need` is not in `room`.
pub fn missing(need: &Amounts, room: &Amounts) -> Amounts {
    let mut left = *need;
    take(&mut left, room);
    left
}

impl Problem {
    /// What all vnodes take together.
    pub fn need(&self) -> Amounts {
        sum(&self.items)
    }

    /// The room of each pnode as far as vnodes can make use of it: sums of whole vnodes are multiples of the greatest
    /// common divisor of their sizes, and nothing past the sum of all is ever used. So pnodes that differ by a few
    /// free pages look alike, and nothing that fits is lost. With `split` vnodes, only the latter.
    pub fn usable_rooms(&self, split: bool) -> Vec<Amounts> {
        let need = self.need();
        let unit = |kind: usize| match split {
            true => 1,
            false => self.items.iter().fold(0, |unit, item| gcd(unit, item[kind])).max(1),
        };
        let units: [u64; KINDS] = std::array::from_fn(unit);
        let usable = |bin: &Bin| {
            std::array::from_fn(|kind| {
                let room = bin.room[kind].min(need[kind]).min(MAX_AMOUNT);
                room - room % units[kind]
            })
        };
        self.bins.iter().map(usable).collect()
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::{Bin, Problem, fits, missing, parts, take};
    use crate::placement::pairs::Pairs;

    #[test]
    fn room_counts_as_far_as_whole_vnodes_can_use_it() {
        let bin = |room| Bin { room, claimed: 0, free: 0 };
        let problem = Problem {
            bins: vec![bin([1000, 9, 9, 7]), bin([99, 0, 0, 3])],
            items: vec![[60, 0, 0, 2], [40, 0, 0, 2]],
            given: vec![],
            pairs: Pairs::from_fn(2, |_, _| 0).into(),
        };
        assert_eq!(problem.usable_rooms(false), [[100, 0, 0, 4], [80, 0, 0, 2]]);
        assert_eq!(problem.usable_rooms(true), [[100, 0, 0, 4], [99, 0, 0, 3]]);
    }

    #[test]
    fn parts_are_the_same_however_large() {
        assert_eq!([parts(1, 2), parts(3, 0), parts(u64::MAX, u64::MAX)], [1 << 19, 3 << 20, 1 << 20]);
        assert_eq!((parts((1 << 44) - 1, 1 << 30), parts(1 << 44, 1 << 30)), ((1 << 34) - 1, 1 << 34));
        assert_eq!(parts(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn amounts_are_compared_kind_by_kind() {
        assert!(fits(&[1, 0, 0, 2], &[1, 5, 5, 2]));
        assert!(!fits(&[1, 0, 0, 3], &[9, 5, 5, 2]));
        let mut room = [5, 1, 0, 2];
        take(&mut room, &[2, 0, 0, 3]);
        assert_eq!((room, missing(&[6, 1, 0, 0], &room)), ([3, 1, 0, 0], [3, 0, 0, 0]));
    }
}
