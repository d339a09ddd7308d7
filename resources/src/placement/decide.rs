//! Placement of vnodes without `pnode`: builds the numeric problem, has it solved, and explains the result. The
//! parent module applies it to memory and CPUs.

use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::placement::budget::Budget;
use crate::placement::choose::{Choice, Key, choose};
use crate::placement::cpus::Pins;
use crate::placement::explain::{Candidate, Compromise, Criterion, Decision, Miss, RunnerUp};
use crate::placement::greedy::Rule;
use crate::placement::lay::Layout;
use crate::placement::pack::{Packing, pack};
use crate::placement::problem::{
    Amounts, Bin, CPUS, KINDS, MAX_AMOUNT, MEMORY, PAGES_1G, PAGES_2M, Problem, fits,
};
use crate::placement::room::Room;
use crate::placement::spread::{lack, spread, with_shared_cpus};
use crate::placement::{PlacementError, Terms, VnodePlacement, Workspace, greedy, miss};
use crate::set::NodeSet;
use crate::spec::{Fit, PlacementPolicy};
use crate::topology::{MEMORY_UNIT, VmTopology, Vnode};
use crate::units::Bytes;

/// Most work on packing the set that was chosen, which was packed before.
const PACK_WORK: u64 = 500_000;

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
    /// What it may cost.
    pub workspace: &'a Workspace,
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
        if let Some(solution) = self.cpus_elsewhere(&problem).and_then(|problem| self.whole(&problem)) {
            return Ok(self.told(&problem, solution, Compromise::CpusElsewhere));
        }
        if let Some(solution) = self.split(&problem) {
            return Ok(self.told(&problem, solution, Compromise::Spread));
        }
        let cpus: Vec<u64> = self.host.pnodes().iter().map(|pnode| pnode.cpus.len() as u64).collect();
        let shared = with_shared_cpus(&problem, &cpus);
        if let Some(solution) = self.whole(&shared) {
            return Ok(self.told(&problem, solution, Compromise::SharedCpus));
        }
        if let Some(solution) = self.cpus_elsewhere(&shared).and_then(|shared| self.whole(&shared)) {
            return Ok(self.told(&shared, solution, Compromise::SharedCpus));
        }
        match self.split(&shared) {
            Some(solution) => Ok(self.told(&problem, solution, Compromise::SpreadAndSharedCpus)),
            None => Err(miss::shortage(&in_units(&problem), self.vnodes, self.host)),
        }
    }

    fn problem(&self) -> Problem {
        let items: Vec<Amounts> = self.vnodes.iter().map(|vnode| amounts(vnode, self.pins)).collect();
        let takes = |kind: usize| items.iter().any(|item| item[kind] > 0);
        let sizes = [(MEMORY, 1), (PAGES_2M, 2 << 20), (PAGES_1G, 1 << 30)];
        let bins = self.host.pnodes().iter().map(|pnode| {
            let pages = |size| self.room.huge_pages(pnode.id, size);
            let room = match pnode.device_memory && !self.topology.takes_device_memory() {
                true => [0; KINDS],
                false => [
                    self.room.memory(pnode.id).get(),
                    pages(Bytes::mib(2)),
                    pages(Bytes::gib(1)),
                    self.room.cpus(pnode.id),
                ],
            };
            let free = sizes
                .iter()
                .filter(|(kind, _)| takes(*kind))
                .map(|(kind, size)| room[*kind].saturating_mul(*size));
            let free = free.fold(0, u64::saturating_add).min(MAX_AMOUNT);
            Bin { room, claimed: self.room.claimed(pnode.id).min(MAX_AMOUNT), free }
        });
        let used =
            self.given.iter().flat_map(|at| at.pnodes.union(&at.cpu_pnodes).iter().collect::<Vec<_>>());
        let mut given: Vec<usize> = used.filter_map(|id| self.host.position(id)).collect();
        given.sort_unstable();
        given.dedup();
        Problem { bins: bins.collect(), items, given, pairs: self.workspace.pairs(self.host) }
    }

    /// The same problem with vnodes whole on pnodes without CPUs, if there are any, while others have CPUs enough for
    /// all: the nearest of these then run their vCPUs.
    fn cpus_elsewhere(&self, problem: &Problem) -> Option<Problem> {
        let need = problem.need()[CPUS];
        let is_there: u64 = problem.bins.iter().map(|bin| bin.room[CPUS]).fold(0, u64::saturating_add);
        if need == 0 || is_there < need {
            return None;
        }
        let mut other = problem.clone();
        let bins = other.bins.iter_mut().zip(self.host.pnodes()).filter(|(_, pnode)| pnode.cpus.is_empty());
        let mut with_memory =
            bins.map(|(bin, _)| bin).filter(|bin| bin.room[..CPUS].iter().any(|room| *room > 0)).peekable();
        with_memory.peek()?;
        with_memory.for_each(|bin| bin.room[CPUS] = need);
        Some(other)
    }

    /// Each vnode whole on a pnode.
    fn whole(&self, problem: &Problem) -> Option<Solution> {
        let (set, at, choice) = match self.terms.policy {
            PlacementPolicy::Auto => self.best(problem)?,
            PlacementPolicy::FirstFit => one_by_one(problem, Rule::First)?,
            PlacementPolicy::BestFit => one_by_one(problem, Rule::Best)?,
            PlacementPolicy::WorstFit => one_by_one(problem, Rule::Worst)?,
        };
        let laid = self.layout(problem, &set).lay(at, choice.is_none(), self.budget());
        let shares = laid.at.iter().zip(&problem.items).map(|(at, item)| vec![(set[*at], *item)]).collect();
        let proven = laid.complete && choice.as_ref().is_none_or(|choice| choice.complete);
        Some(Solution { set, shares, choice, proven })
    }

    /// The best set, and a place there for each vnode.
    fn best(&self, problem: &Problem) -> Option<(Vec<usize>, Vec<usize>, Option<Choice>)> {
        let choice = choose(problem, false, self.budget()).ok()?;
        let set = choice.best.set.clone();
        let rooms: Vec<Amounts> = set.iter().map(|bin| problem.bins[*bin].room).collect();
        let at = match (&choice.at, pack(&rooms, &problem.items, &self.budget().allow(PACK_WORK))) {
            (_, Packing::Fits(at)) => at,
            (Some(at), Packing::Not | Packing::Unknown) => positions(&set, at),
            (None, Packing::Not | Packing::Unknown) => return None,
        };
        Some((set, at, Some(choice)))
    }

    fn budget(&self) -> &Budget {
        &self.workspace.budget
    }

    /// Vnodes on several pnodes.
    fn split(&self, problem: &Problem) -> Option<Solution> {
        let problem = &in_units(problem);
        let choice = choose(problem, true, self.budget()).ok()?;
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
        let mut fixed = vec![vec![0; set.len()]; self.vnodes.len()];
        for at in self.given {
            let Some(other) = self.topology.vnode(at.vnode) else { continue };
            let weights: Vec<(u64, u64)> =
                self.vnodes.iter().map(|vnode| (weight(vnode, other), weight(other, vnode))).collect();
            if weights.iter().all(|weights| *weights == (0, 0)) {
                continue;
            }
            let positions: Vec<usize> = at.pnodes.iter().filter_map(|id| self.host.position(id)).collect();
            self.budget().spend((set.len() * (positions.len() + weights.len())) as u64 / 2);
            for (place, bin) in set.iter().enumerate() {
                let nearest = |distance: &dyn Fn(usize) -> u64| {
                    positions.iter().map(|other| distance(*other)).min().unwrap_or(0)
                };
                let (there, back) =
                    (nearest(&|other| host(*bin, other)), nearest(&|other| host(other, *bin)));
                for (row, (to, from)) in fixed.iter_mut().zip(&weights) {
                    row[place] += to * there + from * back;
                }
            }
        }
        Layout {
            items: problem.items.clone(),
            rooms: set.iter().map(|bin| problem.bins[*bin].room).collect(),
            weights: self.vnodes.iter().map(|a| self.vnodes.iter().map(|b| weight(a, b)).collect()).collect(),
            distances: set.iter().map(|a| set.iter().map(|b| host(*a, *b)).collect()).collect(),
            fixed,
        }
    }

    fn told(&self, problem: &Problem, solution: Solution, compromise: Compromise) -> Decided {
        let Solution { set, shares, choice, proven } = solution;
        let id = |bin: usize| self.host.pnodes()[bin].id;
        let key = match &choice {
            Some(choice) => choice.best.clone(),
            None => Key::of(problem, &set),
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
            size => miss::fewer(problem, size - 1, self.budget())?,
        };
        let pnodes = near.iter().map(|bin| self.host.pnodes()[*bin].id).collect();
        Some(Miss { pnodes, lack: lack(problem, &near).into() })
    }
}

/// One vnode after the other, and the set that comes of it.
fn one_by_one(problem: &Problem, rule: Rule) -> Option<(Vec<usize>, Vec<usize>, Option<Choice>)> {
    let at = greedy::each(problem, rule).ok()?;
    let mut set = at.clone();
    set.sort_unstable();
    set.dedup();
    let at = positions(&set, &at);
    Some((set, at, None))
}

/// The same problem with memory in multiples of what vnodes in pieces take of a pnode.
fn in_units(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    for bin in &mut problem.bins {
        bin.room[MEMORY] -= bin.room[MEMORY] % MEMORY_UNIT.get();
    }
    problem
}

/// Where pnodes stand in a set.
fn positions(set: &[usize], bins: &[usize]) -> Vec<usize> {
    bins.iter().filter_map(|bin| set.binary_search(bin).ok()).collect()
}

/// Whether a pnode has room for one vnode.
pub fn has_room(problem: &Problem, item: usize, bin: usize) -> bool {
    fits(&problem.items[item], &problem.bins[bin].room)
}
