//! Decides for the vnodes that named no pnode: makes the numbers, has them solved, says what they mean. Carrying the
//! decision over to memory and CPUs is the parent module's work.

use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::placement::choose::{Choice, Key, choose};
use crate::placement::cpus::Pins;
use crate::placement::explain::{Candidate, Compromise, Criterion, Decision, Miss, RunnerUp};
use crate::placement::lay::Layout;
use crate::placement::pack::{Packing, pack};
use crate::placement::problem::{Amounts, Bin, CPUS, KINDS, MEMORY, PAGES_1G, PAGES_2M, Problem, fits};
use crate::placement::room::Room;
use crate::placement::spread::{lack, spread, with_shared_cpus};
use crate::placement::{PlacementError, Terms, VnodePlacement, greedy, miss};
use crate::set::NodeSet;
use crate::spec::{Fit, PlacementPolicy};
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;

/// What was decided.
pub struct Decided {
    /// For each vnode what it gets of which pnodes.
    pub shares: Vec<Vec<(PnodeId, Amounts)>>,
    /// How it came about.
    pub decision: Decision,
}

/// The vnodes to decide for, and what is settled already.
pub struct Question<'a> {
    /// The VM.
    pub topology: &'a VmTopology,
    /// The vnodes that named no pnode.
    pub vnodes: &'a [&'a Vnode],
    /// Where the others lie.
    pub given: &'a [VnodePlacement],
    /// The host.
    pub host: &'a HostTopology,
    /// What is left of it.
    pub room: &'a Room,
    /// The CPUs of vCPUs that were pinned.
    pub pins: &'a Pins,
    /// The rules.
    pub terms: &'a Terms<'a>,
}

/// What a vnode takes; a vCPU that was pinned takes its CPU wherever that is.
fn amounts(vnode: &Vnode, pins: &Pins) -> Amounts {
    let mut amounts = [0; KINDS];
    amounts[CPUS] = vnode.vcpus.iter().filter(|vcpu| !pins.contains_key(vcpu)).count() as u64;
    match vnode.pages.pool() {
        None => amounts[MEMORY] = vnode.memory.get(),
        Some(size) if size == Bytes::mib(2) => amounts[PAGES_2M] = vnode.memory.get() / size.get(),
        Some(size) => amounts[PAGES_1G] = vnode.memory.get() / size.get(),
    }
    amounts
}

/// A solution: the set, what each vnode gets, and whether nothing better can exist.
struct Solution {
    set: Vec<usize>,
    shares: Vec<Vec<(usize, Amounts)>>,
    choice: Option<Choice>,
    proven: bool,
}

impl Question<'_> {
    /// The decision, or why there is none.
    pub fn decide(&self) -> Result<Decided, PlacementError> {
        let problem = self.problem();
        if let Some(solution) = self.whole(&problem) {
            return Ok(self.told(&problem, solution, Compromise::None));
        }
        match self.terms.fit {
            Fit::Strict => return Err(miss::refusal(&problem, self.vnodes, self.host, self.terms.policy)),
            Fit::Prefer => {}
        }
        if let Some(solution) = self.split(&problem) {
            return Ok(self.told(&problem, solution, Compromise::Spread));
        }
        let cpus: Vec<u64> = self.host.pnodes().iter().map(|pnode| pnode.cpus.len() as u64).collect();
        let shared = with_shared_cpus(&problem, &cpus);
        if let Some(solution) = self.whole(&shared) {
            return Ok(self.told(&problem, solution, Compromise::SharedCpus));
        }
        match self.split(&shared) {
            Some(solution) => Ok(self.told(&problem, solution, Compromise::SpreadAndSharedCpus)),
            None => Err(miss::shortage(&problem, self.vnodes, self.host)),
        }
    }

    fn problem(&self) -> Problem {
        let items: Vec<Amounts> = self.vnodes.iter().map(|vnode| amounts(vnode, self.pins)).collect();
        let takes = |kind: usize| items.iter().any(|item| item[kind] > 0);
        let sizes = [(MEMORY, 1), (PAGES_2M, 2 << 20), (PAGES_1G, 1 << 30)];
        let bins = self.host.pnodes().iter().map(|pnode| {
            let pages = |size| self.room.huge_pages(pnode.id, size);
            let room = [
                self.room.memory(pnode.id).get(),
                pages(Bytes::mib(2)),
                pages(Bytes::gib(1)),
                self.room.cpus(pnode.id),
            ];
            let free = sizes
                .iter()
                .filter(|(kind, _)| takes(*kind))
                .map(|(kind, size)| room[*kind].saturating_mul(*size));
            Bin { room, claimed: self.room.claimed(pnode.id), free: free.fold(0, u64::saturating_add) }
        });
        let used =
            self.given.iter().flat_map(|at| at.pnodes.union(&at.cpu_pnodes).iter().collect::<Vec<_>>());
        let mut given: Vec<usize> = used.filter_map(|id| self.host.position(id)).collect();
        given.sort_unstable();
        given.dedup();
        let count = self.host.pnodes().len();
        let pair = |a: usize, b: usize| {
            let of = |from, to| {
                self.host.distances().get(from, to).map_or(255, |distance| u64::from(distance.get()))
            };
            of(a, b) + of(b, a)
        };
        let pairs = (0..count).map(|a| (0..count).map(|b| pair(a, b)).collect()).collect();
        Problem { bins: bins.collect(), items, given, pairs }
    }

    /// Each vnode whole on a pnode.
    fn whole(&self, problem: &Problem) -> Option<Solution> {
        let (set, at, choice) = match self.terms.policy {
            PlacementPolicy::Auto => {
                let choice = choose(problem, false).ok()?;
                let rooms: Vec<Amounts> = choice.best.set.iter().map(|bin| problem.bins[*bin].room).collect();
                let Packing::Fits(at) = pack(&rooms, &problem.items) else { return None };
                (choice.best.set.clone(), at, Some(choice))
            }
            policy @ (PlacementPolicy::FirstFit | PlacementPolicy::BestFit | PlacementPolicy::WorstFit) => {
                let at = greedy::each(problem, policy).ok()?;
                let mut set = at.clone();
                set.sort_unstable();
                set.dedup();
                let at = at.iter().filter_map(|bin| set.binary_search(bin).ok()).collect();
                (set, at, None)
            }
        };
        let laid = self.layout(problem, &set).lay(at, choice.is_none());
        let shares = laid.at.iter().zip(&problem.items).map(|(at, item)| vec![(set[*at], *item)]).collect();
        let proven = laid.complete && choice.as_ref().is_none_or(|choice| choice.complete);
        Some(Solution { set, shares, choice, proven })
    }

    /// Vnodes on several pnodes.
    fn split(&self, problem: &Problem) -> Option<Solution> {
        let choice = choose(problem, true).ok()?;
        let (set, proven) = (choice.best.set.clone(), choice.complete);
        Some(Solution { shares: spread(problem, &set), set, choice: Some(choice), proven })
    }

    fn layout(&self, problem: &Problem, set: &[usize]) -> Layout {
        let count = self.topology.vnodes().len();
        let guest =
            |a: usize, b: usize| self.topology.distances().get(a, b).map_or(0, |d| u64::from(d.get()));
        let others = |a: usize| (0..count).filter(move |b| *b != a);
        let least = (0..count).flat_map(|a| others(a).map(move |b| guest(a, b))).min().unwrap_or(0);
        // Vnodes that are as near as vnodes get may lie anywhere; the others count the more the farther they are.
        let weight =
            |a: &Vnode, b: &Vnode| if a.id == b.id { 0 } else { guest(a.id.index(), b.id.index()) - least };
        let host = |a: usize, b: usize| self.host.distances().get(a, b).map_or(255, |d| u64::from(d.get()));
        let nearest = |bin: usize, at: &VnodePlacement, there: bool| {
            let positions = at.pnodes.iter().filter_map(|id| self.host.position(id));
            positions.map(|other| if there { host(bin, other) } else { host(other, bin) }).min().unwrap_or(0)
        };
        let fixed = |vnode: &Vnode, bin: usize| {
            let given = self.given.iter().filter_map(|at| Some((self.topology.vnode(at.vnode)?, at)));
            let part = |(other, at): (&Vnode, &VnodePlacement)| {
                weight(vnode, other) * nearest(bin, at, true) + weight(other, vnode) * nearest(bin, at, false)
            };
            given.map(part).sum()
        };
        Layout {
            items: problem.items.clone(),
            rooms: set.iter().map(|bin| problem.bins[*bin].room).collect(),
            weights: self.vnodes.iter().map(|a| self.vnodes.iter().map(|b| weight(a, b)).collect()).collect(),
            distances: set.iter().map(|a| set.iter().map(|b| host(*a, *b)).collect()).collect(),
            fixed: self
                .vnodes
                .iter()
                .map(|vnode| set.iter().map(|bin| fixed(vnode, *bin)).collect())
                .collect(),
        }
    }

    fn told(&self, problem: &Problem, solution: Solution, compromise: Compromise) -> Decided {
        let Solution { set, shares, choice, proven } = solution;
        let id = |bin: usize| self.host.pnodes()[bin].id;
        let key = match &choice {
            Some(choice) => choice.best.clone(),
            None => key(problem, &set),
        };
        let candidate = |key: &Key| Candidate {
            pnodes: key.set.iter().map(|bin| id(*bin)).collect::<NodeSet>(),
            distance: key.distance,
            claimed_vcpus: key.claimed,
            free: Bytes(key.free.0),
        };
        let decision = Decision {
            policy: self.terms.policy,
            fit: self.terms.fit,
            compromise,
            winner: candidate(&key),
            candidates: choice.as_ref().map(|choice| choice.candidates),
            runner_up: choice
                .as_ref()
                .and_then(|choice| choice.next.as_ref())
                .map(|next| RunnerUp { candidate: candidate(next), lost_on: Criterion::between(&key, next) }),
            nearest_miss: choice.and_then(|_| self.nearest_miss(problem, &set)),
            proven,
        };
        let named = |shares: Vec<(usize, Amounts)>| {
            shares.into_iter().map(|(bin, amounts)| (id(bin), amounts)).collect()
        };
        Decided { shares: shares.into_iter().map(named).collect(), decision }
    }

    fn nearest_miss(&self, problem: &Problem, set: &[usize]) -> Option<Miss> {
        let near = match set.len() {
            1 => miss::other(problem, set[0])?,
            size => miss::fewer(problem, size - 1)?,
        };
        let pnodes = near.iter().map(|bin| self.host.pnodes()[*bin].id).collect();
        Some(Miss { pnodes, lack: lack(problem, &near).into() })
    }
}

/// What a set comes to.
fn key(problem: &Problem, set: &[usize]) -> Key {
    let pairs = set.iter().enumerate().flat_map(|(i, a)| set[..i].iter().map(move |b| problem.pairs[*a][*b]));
    Key {
        distance: pairs.sum(),
        claimed: set.iter().map(|bin| problem.bins[*bin].claimed).fold(0, u64::saturating_add),
        free: std::cmp::Reverse(set.iter().map(|bin| problem.bins[*bin].free).fold(0, u64::saturating_add)),
        set: set.to_vec(),
    }
}

/// Whether a pnode has room for one vnode.
pub fn has_room(problem: &Problem, item: usize, bin: usize) -> bool {
    fits(&problem.items[item], &problem.bins[bin].room)
}
