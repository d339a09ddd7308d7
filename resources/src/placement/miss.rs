//! The nearest miss: how much is missing if nothing fits.

use crate::host::{HostTopology, pool_directory};
use crate::placement::PlacementError;
use crate::placement::budget::Budget;
use crate::placement::decide::has_room;
use crate::placement::explain::Miss;
use crate::placement::problem::{Amounts, CPUS, KINDS, MEMORY, Problem, missing, parts, sum};
use crate::placement::spread::lack;
use crate::set::NodeSet;
use crate::spec::PlacementPolicy;
use crate::topology::Vnode;
use crate::units::Bytes;
use std::cmp::Reverse;

/// How much of `need` is missing, all kinds together, to be compared.
fn share(need: &Amounts, missing: &Amounts) -> u64 {
    let short = (0..KINDS).filter(|kind| missing[*kind] > 0);
    short.map(|kind| parts(missing[kind], need[kind])).fold(0, u64::saturating_add)
}

/// The pnode beside `winner` that lacks least and is not enough.
pub fn other(problem: &Problem, winner: usize) -> Option<Vec<usize>> {
    let need = problem.need();
    let lacking = (0..problem.bins.len()).filter(|bin| *bin != winner);
    let lacking =
        lacking.map(|bin| (share(&need, &lack(problem, &[bin])), bin)).filter(|(share, _)| *share > 0);
    lacking.min().map(|(_, bin)| vec![bin])
}

/// The `size` largest pnodes, with those that are given.
pub fn fewer(problem: &Problem, size: usize, budget: &Budget) -> Option<Vec<usize>> {
    let need = problem.need();
    let mut set = problem.given.clone();
    let mut have = sum(set.iter().map(|bin| &problem.bins[*bin].room));
    let mut rest: Vec<usize> = (0..problem.bins.len()).filter(|bin| !set.contains(bin)).collect();
    while set.len() < size {
        budget.spend(2 * rest.len() as u64);
        let lacks = |bin: usize| share(&need, &missing(&need, &sum([&have, &problem.bins[bin].room])));
        let rank = |bin: usize| (lacks(bin), Reverse(problem.bins[bin].free), bin);
        let place = (0..rest.len()).min_by_key(|place| rank(rest[*place]))?;
        let next = rest.swap_remove(place);
        have = sum([&have, &problem.bins[next].room]);
        set.push(next);
    }
    set.sort_unstable();
    (set.len() == size).then_some(set)
}

/// Why nothing fits with `--fit strict`.
pub fn refusal(
    problem: &Problem,
    vnodes: &[&Vnode],
    host: &HostTopology,
    policy: PlacementPolicy,
) -> PlacementError {
    let id = |bin: usize| host.pnodes()[bin].id;
    let bins = 0..problem.bins.len();
    let stuck = (0..vnodes.len()).find(|item| !bins.clone().any(|bin| has_room(problem, *item, bin)));
    let Some(item) = stuck else {
        let all: Vec<usize> = bins.collect();
        let nearest =
            Miss { pnodes: all.iter().map(|bin| id(*bin)).collect(), lack: lack(problem, &all).into() };
        return PlacementError::NothingFits { vnode: None, asked: problem.need().into(), policy, nearest };
    };
    let need = problem.items[item];
    let lacks = |bin: usize| missing(&need, &problem.bins[bin].room);
    let free = |bin: usize| Reverse(problem.bins[bin].free);
    let near = bins.min_by_key(|bin| (share(&need, &lacks(*bin)), free(*bin), *bin)).unwrap_or(0);
    let nearest = Miss { pnodes: NodeSet::one(id(near)), lack: lacks(near).into() };
    PlacementError::NothingFits { vnode: Some(vnodes[item].id), asked: need.into(), policy, nearest }
}

/// Which vnode the whole host has too little memory for, after those before it.
pub fn shortage(problem: &Problem, vnodes: &[&Vnode], host: &HostTopology) -> PlacementError {
    let mut left = sum(problem.bins.iter().map(|bin| &bin.room));
    let usable = host.pnodes().iter().filter(|pnode| pnode.has_memory() && pnode.memory_allowed);
    let pnodes: NodeSet = usable.map(|pnode| pnode.id).collect();
    for (vnode, item) in vnodes.iter().zip(&problem.items) {
        let (id, policy) = (vnode.id, vnode.policy);
        let Some(kind) = (0..CPUS).find(|kind| item[*kind] > 0) else { continue };
        if item[kind] > left[kind] {
            let (asked, available) = (item[kind], left[kind]);
            return match vnode.pages.pool() {
                Some(size) => {
                    let pool = pool_directory(host.has_numa(), pnodes.first(), size);
                    PlacementError::HugePages { vnode: id, pnodes, policy, size, asked, available, pool }
                }
                None => PlacementError::Memory {
                    vnode: id,
                    pnodes,
                    policy,
                    asked: Bytes(asked),
                    available: Bytes(available),
                },
            };
        }
        left[kind] -= item[kind];
    }
    // Memory is there for all, so CPUs alone were missing, and those can be shared: not reached.
    let (asked, available) = (Bytes(problem.need()[MEMORY]), Bytes(left[MEMORY]));
    let first = vnodes.first().map_or(crate::ids::VnodeId(0), |vnode| vnode.id);
    let policy = vnodes.first().map_or(crate::spec::MemoryPolicy::Bind, |vnode| vnode.policy);
    PlacementError::Memory { vnode: first, pnodes, policy, asked, available }
}
