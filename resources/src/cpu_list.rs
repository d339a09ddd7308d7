//! Lists of host CPUs for pinning: numbers and ranges, `all`, `node:N`, `nodes:N-M`, and `^` to exclude CPUs. The
//! CPUs depend on the host; host-independent sets are in `set`.

use crate::host::HostTopology;
use crate::ids::{PcpuId, PnodeId};
use crate::set::{CpuSet, NodeSet, ParseSetError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Most terms of a list: one for every second CPU of the largest x86 hosts, and cheap.
pub const MAX_TERMS: usize = 4096;

/// A list of host CPUs, read from left to right: each term adds to what the terms before it left, or takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList {
    /// Not empty. Lists without `all` and nodes have one adding term per run of CPUs, ascending.
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    adds: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    All,
    Cpus(PcpuId, PcpuId),
    Nodes(PnodeId, PnodeId),
}

impl CpuList {
    /// Exactly these CPUs; `None` for no CPUs.
    pub fn of(cpus: &CpuSet) -> Option<Self> {
        let terms = cpus.runs().map(|(first, last)| Term { adds: true, what: What::Cpus(first, last) });
        let terms: Vec<Term> = terms.collect();
        (!terms.is_empty()).then_some(Self { terms })
    }

    /// The CPUs, if they are the same on every host: if the list has neither `all` nor nodes.
    pub fn cpus(&self) -> Option<CpuSet> {
        self.terms.iter().try_fold(CpuSet::new(), |cpus, term| match term.what {
            What::Cpus(first, last) => Some(cpus.union(&CpuSet::range(first, last))),
            What::All | What::Nodes(..) => None,
        })
    }

    /// The nodes, if the list is about nodes and nothing else.
    pub fn nodes(&self) -> Option<NodeSet> {
        let nodes = self.terms.iter().try_fold(NodeSet::new(), |nodes, term| {
            let What::Nodes(first, last) = term.what else { return None };
            let range = NodeSet::range(first, last);
            Some(if term.adds { nodes.union(&range) } else { nodes.difference(&range) })
        });
        nodes.filter(|nodes| !nodes.is_empty())
    }

    /// Whether every CPU of any host is meant.
    pub fn is_all(&self) -> bool {
        matches!(self.terms.as_slice(), [Term { adds: true, what: What::All }])
    }

    /// The CPUs on one host; those that it does not have are left out.
    pub fn on(&self, host: &HostTopology) -> CpuSet {
        self.among(&host.cpus(), host)
    }

    /// The same, where all CPUs of the host are known.
    pub fn among(&self, all: &CpuSet, host: &HostTopology) -> CpuSet {
        self.terms.iter().fold(CpuSet::new(), |cpus, term| {
            let named = match term.what {
                What::All => all.clone(),
                What::Cpus(first, last) => CpuSet::range(first, last).intersection(all),
                What::Nodes(first, last) => {
                    let within = host.pnodes().iter().filter(|pnode| (first..=last).contains(&pnode.id));
                    CpuSet::of_all(within.map(|pnode| &pnode.cpus))
                }
            };
            if term.adds { cpus.union(&named) } else { cpus.difference(&named) }
        })
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms: Vec<String> = self.terms.iter().map(Term::to_string).collect();
        f.pad(&terms.join(","))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.adds { "" } else { "^" })?;
        match self.what {
            What::All => f.write_str("all"),
            What::Cpus(first, last) => CpuSet::range(first, last).fmt(f),
            What::Nodes(first, last) if first == last => write!(f, "node:{first}"),
            What::Nodes(first, last) => write!(f, "nodes:{first}-{last}"),
        }
    }
}

/// Why a text is not a list of host CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCpuListError {
    /// Nothing is left of it.
    #[error("`{0}` contains no CPU, must contain at least one")]
    Empty(String),
    /// A term that is none.
    #[error(
        "`{0}` is not a list of CPUs; write numbers, ranges, all, node:N, nodes:N-M, and ^ to exclude CPUs"
    )]
    Syntax(String),
    /// Numbers that are not.
    #[error(transparent)]
    Set(#[from] ParseSetError),
    /// Too long.
    #[error("{0} terms, must be at most {MAX_TERMS}")]
    TooLong(usize),
}

impl FromStr for CpuList {
    type Err = ParseCpuListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(40).collect::<String>();
        let inner = text.trim();
        let inner = match inner.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| ParseCpuListError::Syntax(shown()))?,
            None => inner,
        };
        let count = inner.split(',').count();
        if count > MAX_TERMS {
            return Err(ParseCpuListError::TooLong(count));
        }
        let terms =
            inner.split(',').map(|part| term(part).ok_or_else(|| ParseCpuListError::Syntax(shown()))?);
        let terms: Vec<Term> = terms.collect::<Result<_, _>>()?;
        if !terms.iter().any(|term| term.adds) {
            return Err(ParseCpuListError::Empty(shown()));
        }
        if terms.iter().any(|term| !matches!(term.what, What::Cpus(..))) {
            return Ok(Self { terms });
        }
        let cpus = terms.iter().fold(CpuSet::new(), |cpus, term| match (term.adds, &term.what) {
            (true, What::Cpus(first, last)) => cpus.union(&CpuSet::range(*first, *last)),
            (false, What::Cpus(first, last)) => cpus.difference(&CpuSet::range(*first, *last)),
            (_, What::All | What::Nodes(..)) => cpus,
        });
        Self::of(&cpus).ok_or_else(|| ParseCpuListError::Empty(shown()))
    }
}

/// One term; `None` where it is not of this grammar, an error where its numbers are not numbers.
fn term(part: &str) -> Option<Result<Term, ParseCpuListError>> {
    let part = part.trim();
    let (adds, name) = match part.strip_prefix('^') {
        Some(rest) => (false, rest.trim_start()),
        None => (true, part),
    };
    if name == "all" {
        return Some(Ok(Term { adds, what: What::All }));
    }
    if let Some(list) = name.strip_prefix("nodes:").or_else(|| name.strip_prefix("node:")) {
        if list == "all" {
            return Some(Ok(Term { adds, what: What::All }));
        }
        let nodes = list.parse::<NodeSet>();
        return run(nodes, |first, last| Term { adds, what: What::Nodes(first, last) });
    }
    if !name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    run(name.parse::<CpuSet>(), |first, last| Term { adds, what: What::Cpus(first, last) })
}

/// The one run of a set that was written without commas.
fn run<T: Copy + From<u32> + Into<u32>>(
    set: Result<crate::set::IdSet<T>, ParseSetError>,
    make: impl FnOnce(T, T) -> Term,
) -> Option<Result<Term, ParseCpuListError>> {
    match set {
        Ok(set) => set.runs().next().map(|(first, last)| Ok(make(first, last))),
        Err(error) => Some(Err(error.into())),
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = CpuList;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list such as \"0-3,^2\", \"all,^node:1\"")
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<CpuList, E> {
                id.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CpuList, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuList, MAX_TERMS};
    use crate::test_host::HostShape;
    use proptest::prelude::{any, proptest};

    fn on(text: &str) -> String {
        // Four nodes of four CPUs each.
        let shape =
            (0..4).fold(HostShape::new(4), |shape, id| shape.cpus(id, &format!("{}-{}", id * 4, id * 4 + 3)));
        text.parse::<CpuList>().unwrap().on(&shape.topology()).to_string()
    }

    #[test]
    fn terms_add_and_take_away_from_left_to_right() {
        assert_eq!(on("0-3,5,^1"), "0,2-3,5");
        assert_eq!(on("all,^7"), "0-6,8-15");
        assert_eq!(on("nodes:0-3,^node:2"), "0-7,12-15");
        assert_eq!(on("1,node:1,^6"), "1,4-5,7");
        assert_eq!(on("all,^node:1"), "0-3,8-15");
        assert_eq!(on("node:0,node:2,^9-11,14-15"), "0-3,8,14-15");
        assert_eq!(on(" [ 0 - 1 , 4 ] "), "0-1,4");
        assert_eq!(on("^1,0-3"), "0-3");
        assert_eq!(on("14-20,nodes:3-9"), "12-15");
        assert_eq!(on("nodes:all"), "0-15");
    }

    #[test]
    fn what_names_no_cpu_or_is_no_list_is_refused() {
        let refused = |text: &str| text.parse::<CpuList>().unwrap_err().to_string();
        let syntax =
            "is not a list of CPUs; write numbers, ranges, all, node:N, nodes:N-M, and ^ to exclude CPUs";
        for text in ["", "a", "0,", "node", "-1", "^", "[0", "cpu:1"] {
            assert_eq!(refused(text), format!("`{text}` {syntax}"));
        }
        assert_eq!(refused("0-1,^0-1"), "`0-1,^0-1` contains no CPU, must contain at least one");
        assert_eq!(refused("^3"), "`^3` contains no CPU, must contain at least one");
        assert_eq!(refused("3-1"), "range 3-1 is reversed");
        assert_eq!(refused("node:x"), "`x` is not a list; write numbers and ranges such as 0-3,8");
        assert_eq!(refused("0-100000"), "`100000` is too large, must be at most 99999");
        let long = vec!["0"; MAX_TERMS + 1].join(",");
        assert_eq!(refused(&long), "4097 terms, must be at most 4096");
    }

    #[test]
    fn lists_say_whether_they_are_the_same_everywhere() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(list("0-3,^1").cpus(), Some("0,2-3".parse().unwrap()));
        assert_eq!(list("0,node:1").cpus(), None);
        assert_eq!(list("nodes:0-3,^node:2").nodes(), Some("0-1,3".parse().unwrap()));
        assert_eq!(list("all").nodes(), None);
        assert!(list("all").is_all() && !list("all,^1").is_all());
        assert_eq!(serde_json::from_str::<CpuList>("3").unwrap(), list("3"));
    }

    proptest! {
        #[test]
        fn display_reads_back(text in "(\\^?(all|node:[0-9]|nodes:[0-3]-[4-9]|[0-9]{1,2}),){0,5}(all|[0-9])") {
            if let Ok(list) = text.parse::<CpuList>() {
                assert_eq!(list.to_string().parse(), Ok(list));
            }
        }

        #[test]
        fn any_text_is_an_answer_not_a_panic(text in any::<String>()) {
            let _ = text.parse::<CpuList>();
        }
    }
}
