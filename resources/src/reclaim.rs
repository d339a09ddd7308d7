//! How much each vnode gives in a reclaim by pnode, or gets in a give: in proportion to what it has there, within its
//! limits. `vmm` sends the requests to guests.

use crate::ids::VnodeId;
use crate::units::Bytes;

/// The unit of balloons (virtio 1.3, 5.5.6).
pub const BALLOON_PAGE: Bytes = Bytes(4096);

/// What a vnode has at stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stake {
    /// Which.
    pub vnode: VnodeId,
    /// What it has there: its share is in proportion to this.
    pub there: Bytes,
    /// The maximum request.
    pub room: Bytes,
}

/// The request to one vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which.
    pub vnode: VnodeId,
    /// Whole pages.
    pub bytes: Bytes,
}

/// The requests to all vnodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// In the order of the stakes, without those that are asked for nothing.
    pub shares: Vec<Share>,
    /// What all of them together cannot give.
    pub short: Bytes,
}

/// Splits `bytes`, rounded up to whole pages. Who has twice as much there gives twice as much, to the page, until its
/// room is used up; what it cannot give the others give in the same proportion. The sum is exact: shares and `short`
/// make what was asked.
#[must_use]
pub fn split(stakes: &[Stake], bytes: Bytes) -> Split {
    let page = BALLOON_PAGE.get();
    let limits: Vec<u64> = stakes.iter().map(|stake| stake.there.min(stake.room).get() / page).collect();
    let mut given = vec![0; stakes.len()];
    let mut left = bytes.get().div_ceil(page);
    while left > 0 {
        let open: Vec<usize> = (0..stakes.len()).filter(|at| given[*at] < limits[*at]).collect();
        if open.is_empty() {
            break;
        }
        let weights: Vec<u64> = open.iter().map(|at| stakes[*at].there.get() / page).collect();
        // Each round either gives all that is left or fills at least one vnode up.
        for (at, part) in open.iter().zip(proportional(&weights, left)) {
            let part = part.min(limits[*at] - given[*at]);
            given[*at] += part;
            left -= part;
        }
    }
    let shares = stakes.iter().zip(&given).filter(|(_, pages)| **pages > 0);
    Split {
        shares: shares
            .map(|(stake, pages)| Share { vnode: stake.vnode, bytes: Bytes(pages * page) })
            .collect(),
        short: Bytes(left.saturating_mul(page)),
    }
}

/// Parts of `whole` in proportion to weights above 0, by largest remainder; they add up to it. Equal remainders: the
/// first.
fn proportional(weights: &[u64], whole: u64) -> Vec<u64> {
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let share = |weight: &u64| u128::from(*weight) * u128::from(whole);
    let mut parts: Vec<u64> =
        weights.iter().map(|weight| u64::try_from(share(weight) / all).unwrap_or(whole)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(share(&weights[*at]) % all));
    let given: u64 = parts.iter().sum();
    let rest = usize::try_from(whole.saturating_sub(given)).unwrap_or(usize::MAX);
    order.iter().take(rest).for_each(|at| parts[*at] += 1);
    parts
}

#[cfg(test)]
mod tests {
    use super::{BALLOON_PAGE, Share, Split, Stake, split};
    use crate::ids::VnodeId;
    use crate::units::Bytes;
    use proptest::prelude::*;

    fn stake(vnode: u32, there: u64, room: u64) -> Stake {
        Stake { vnode: VnodeId(vnode), there: Bytes::mib(there), room: Bytes::mib(room) }
    }

    fn share(vnode: u32, mib: u64) -> Share {
        Share { vnode: VnodeId(vnode), bytes: Bytes::mib(mib) }
    }

    #[test]
    fn shares_are_in_proportion_to_what_is_there() {
        let split = split(&[stake(1, 300, 900), stake(2, 100, 900)], Bytes::mib(200));
        assert_eq!(split, Split { shares: vec![share(1, 150), share(2, 50)], short: Bytes::ZERO });
    }

    #[test]
    fn what_one_cannot_give_the_others_do() {
        let all = [stake(0, 300, 60), stake(1, 100, 900), stake(2, 100, 900)];
        assert_eq!(split(&all, Bytes::mib(200)).shares, [share(0, 60), share(1, 70), share(2, 70)]);
    }

    #[test]
    fn what_nobody_can_give_is_short() {
        let all = [stake(0, 300, 60), stake(1, 100, 900)];
        let expected = Split { shares: vec![share(0, 60), share(1, 100)], short: Bytes::mib(40) };
        assert_eq!(split(&all, Bytes::mib(200)), expected);
        assert_eq!(split(&[], Bytes(1)), Split { shares: vec![], short: BALLOON_PAGE });
    }

    fn stakes() -> impl Strategy<Value = Vec<Stake>> {
        let amount = || prop_oneof![Just(0), 0_u64..1 << 22, 0_u64..1 << 44];
        prop::collection::vec((amount(), amount()), 0..9).prop_map(|all| {
            let stake =
                |(at, (there, room))| Stake { vnode: VnodeId(at), there: Bytes(there), room: Bytes(room) };
            (0..).zip(all).map(stake).collect()
        })
    }

    proptest! {
        #[test]
        fn sums_are_exact_and_nobody_gives_more_than_it_can(stakes in stakes(), bytes in 0_u64..1 << 45) {
            let split = split(&stakes, Bytes(bytes));
            let page = BALLOON_PAGE.get();
            let given: u64 = split.shares.iter().map(|share| share.bytes.get()).sum();
            prop_assert_eq!(given + split.short.get(), bytes.div_ceil(page) * page);
            for share in &split.shares {
                let stake = stakes.iter().find(|stake| stake.vnode == share.vnode).unwrap();
                prop_assert!(share.bytes <= stake.there.min(stake.room) && share.bytes.is_multiple_of(BALLOON_PAGE));
            }
            if split.short > Bytes::ZERO {
                let most: u64 = stakes.iter().map(|s| s.there.min(s.room).get() / page * page).sum();
                prop_assert_eq!(given, most);
            }
        }

        #[test]
        fn with_room_enough_nobody_is_a_page_off_its_proportion(
            there in prop::collection::vec(1_u64..1 << 30, 1..9), part in 0_u64..=1000,
        ) {
            let page = BALLOON_PAGE.get();
            let all: u64 = there.iter().sum();
            let wanted = all * part / 1000;
            let stakes: Vec<Stake> = (0..).zip(&there).map(|(at, pages)| {
                Stake { vnode: VnodeId(at), there: Bytes(pages * page), room: Bytes(u64::MAX) }
            }).collect();
            let split = split(&stakes, Bytes(wanted * page));
            for stake in stakes {
                let share = split.shares.iter().find(|share| share.vnode == stake.vnode);
                let pages = share.map_or(0, |share| share.bytes.get() / page);
                let ideal = u128::from(stake.there.get() / page) * u128::from(wanted) / u128::from(all);
                prop_assert!(u128::from(pages).abs_diff(ideal) <= 1, "{} for {}", pages, ideal);
            }
        }
    }
}
