//! The explanation of a choice of pnodes: the candidates, why the winner won, the nearest miss. `decide` and `choose`
//! make the choice.

use crate::placement::choose::Key;
use crate::placement::problem::{Amounts, CPUS, MEMORY, PAGES_1G, PAGES_2M};
use crate::set::NodeSet;
use crate::spec::{Fit, PlacementPolicy};
use crate::units::Bytes;
use serde::Serialize;
use std::fmt;

/// How the pnodes of the vnodes that named none were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The rule.
    pub policy: PlacementPolicy,
    /// What was allowed when nothing fits.
    pub fit: Fit,
    /// The compromise.
    pub compromise: Compromise,
    /// The set of pnodes that was taken, with those that other vnodes named.
    pub winner: Candidate,
    /// Sets with as many pnodes in which the VM fits, as far as they were looked at (`auto`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<u64>,
    /// The next best of these, and what it lost on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
    /// What came nearest without fitting: fewer pnodes if there are several, else another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest_miss: Option<Miss>,
    /// Whether nothing better can exist; else the search ended at its bound.
    pub proven: bool,
}

/// The compromise of `--fit prefer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compromise {
    /// Nothing: every vnode lies whole on one pnode that has room for it.
    None,
    /// Every vnode lies whole on one pnode that has room for its memory, some on pnodes without CPUs: their vCPUs run on
    /// the nearest that have some.
    CpusElsewhere,
    /// Vnodes lie on several pnodes.
    Spread,
    /// There are fewer unclaimed CPUs than vCPUs, so some are shared.
    SharedCpus,
    /// Both.
    SpreadAndSharedCpus,
}

/// A set of pnodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Which.
    pub pnodes: NodeSet,
    /// Sum of the distances between them, there and back.
    pub distance: u64,
    /// vCPUs claimed there before.
    pub claimed_vcpus: u64,
    /// Free memory there before, of the kinds that the VM takes.
    pub free: Bytes,
}

/// The second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunnerUp {
    /// The set.
    #[serde(flatten)]
    pub candidate: Candidate,
    /// What it lost on.
    pub lost_on: Criterion,
}

/// What decides between two sets with as many pnodes, the first that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Sum of distances.
    Distance,
    /// vCPUs already claimed.
    ClaimedVcpus,
    /// Free memory.
    FreeMemory,
    /// The lowest indices win.
    Order,
}

/// Pnodes without room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// Which.
    pub pnodes: NodeSet,
    /// What they lack.
    #[serde(flatten)]
    pub lack: Lack,
}

/// What is missing; nothing at all if there is enough together but vnodes cannot be laid whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Lack {
    /// Ordinary memory.
    pub memory: Bytes,
    /// Pages of 2 MiB.
    pub pages_2m: u64,
    /// Pages of 1 GiB.
    pub pages_1g: u64,
    /// CPUs that no vCPU has claimed.
    pub cpus: u64,
}

impl From<Amounts> for Lack {
    fn from(missing: Amounts) -> Self {
        Self {
            memory: Bytes(missing[MEMORY]),
            pages_2m: missing[PAGES_2M],
            pages_1g: missing[PAGES_1G],
            cpus: missing[CPUS],
        }
    }
}

impl Criterion {
    /// What decides between a better and a worse set.
    pub fn between(better: &Key, worse: &Key) -> Self {
        if better.distance != worse.distance {
            Self::Distance
        } else if better.claimed != worse.claimed {
            Self::ClaimedVcpus
        } else if better.free != worse.free {
            Self::FreeMemory
        } else {
            Self::Order
        }
    }
}

impl Lack {
    /// The amounts in words.
    pub fn amounts(&self) -> String {
        let mut parts = Vec::new();
        if self.memory > Bytes::ZERO {
            parts.push(format!("{} of memory", self.memory.human()));
        }
        for (pages, size) in [(self.pages_2m, "2M"), (self.pages_1g, "1G")] {
            if pages > 0 {
                parts.push(format!("{pages} pages of {size}"));
            }
        }
        match self.cpus {
            0 => {}
            1 => parts.push("1 unclaimed CPU".to_owned()),
            cpus => parts.push(format!("{cpus} unclaimed CPUs")),
        }
        parts.join(" and ")
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self == Self::default() {
            true => f.write_str("enough together, but not for whole vnodes"),
            false => write!(f, "short of {}", self.amounts()),
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pnode {}, {}", short(&self.pnodes), self.lack)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pnodes, distance, claimed_vcpus, free } = self;
        write!(
            f,
            "pnode {}: distances {distance}, {claimed_vcpus} vCPUs claimed, {} free",
            short(pnodes),
            free.human()
        )
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distance => "distance",
            Self::ClaimedVcpus => "claimed vCPUs",
            Self::FreeMemory => "free memory",
            Self::Order => "pnode order only",
        })
    }
}

impl fmt::Display for Compromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "every vnode fits whole",
            Self::CpusElsewhere => "every vnode's memory fits whole, CPUs are elsewhere",
            Self::Spread => "vnodes are spread",
            Self::SharedCpus => "CPUs are shared",
            Self::SpreadAndSharedCpus => "vnodes are spread and CPUs are shared",
        })
    }
}

/// Most runs of pnodes in a line; `plan --json` has all.
const MAX_RUNS: usize = 16;

/// A list of pnodes that fits a line.
fn short(pnodes: &NodeSet) -> String {
    match pnodes.runs().nth(MAX_RUNS) {
        None => pnodes.to_string(),
        Some(_) => {
            let shown =
                pnodes.runs().take(MAX_RUNS).map(|(first, last)| NodeSet::range(first, last).to_string());
            format!("{},... ({} pnodes)", shown.collect::<Vec<_>>().join(","), pnodes.len())
        }
    }
}

impl Decision {
    /// A few lines for people, the first about the winner.
    pub fn lines(&self) -> Vec<String> {
        let Self { policy, fit, compromise, winner, candidates, runner_up, nearest_miss, proven } = self;
        let mut lines = vec![format!("{policy}, fit={fit}: {winner}; {compromise}")];
        if let Some(count) = candidates {
            let sets = if *count == 1 { "candidate" } else { "candidates" };
            let as_many = if winner.pnodes.len() == 1 { "one pnode" } else { "as many pnodes" };
            lines.push(match runner_up {
                Some(RunnerUp { candidate, lost_on }) => {
                    format!("{count} {sets} with {as_many}; next best {candidate}; it lost on {lost_on}")
                }
                None => format!("{count} {sets} with {as_many}"),
            });
        }
        if let Some(miss) = nearest_miss {
            lines.push(format!("nearest miss: {miss}"));
        }
        if !proven {
            lines.push("the search reached its limit: a better placement may exist".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn long_lists_of_pnodes_are_shortened() {
        let every_other = |count: u32| (0..count).map(|id| crate::PnodeId(2 * id)).collect();
        assert_eq!(short(&every_other(3)), "0,2,4");
        assert_eq!(short(&every_other(16)).split(',').count(), 16);
        assert_eq!(short(&every_other(300)), "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,... (300 pnodes)");
    }
}
