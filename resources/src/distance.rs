//! Relative distances between nodes (ACPI 6.5, 5.2.17) and the rule that completes a partial list. Latency and
//! bandwidth are in `attributes`.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A SLIT distance: 10 is local, 11 to 254 remote, 255 unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Distance(u8);

impl Distance {
    /// A node to itself.
    pub const LOCAL: Self = Self(10);
    /// The default distance to another node.
    pub const REMOTE: Self = Self(20);
    /// Unreachable.
    pub const UNREACHABLE: Self = Self(255);

    /// A distance between two different nodes.
    pub fn remote(value: u64) -> Option<Self> {
        u8::try_from(value).ok().filter(|v| *v > 10).map(Self)
    }

    /// The SLIT byte.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// One `from:to=value`, as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DistanceSpec {
    /// The source vnode.
    pub from: u32,
    /// The destination vnode.
    pub to: u32,
    /// The distance, 10 to 255.
    pub value: u64,
}

/// Why a list of distances is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DistanceError {
    /// A node that is not there.
    #[error("distances[{index}]: node {node} does not exist, nodes are 0 to {last}")]
    NoSuchNode {
        /// Position in the list.
        index: usize,
        /// The node named.
        node: u32,
        /// The highest node there is.
        last: usize,
    },
    /// Outside 10 to 255.
    #[error("distances[{index}]: {value} is not a distance, must be 10 to 255")]
    OutOfRange {
        /// Position in the list.
        index: usize,
        /// The given value.
        value: u64,
    },
    /// The same pair in the same order.
    #[error("distances[{index}]: {from}:{to} is given twice, must be given once")]
    Twice {
        /// Position of the second in the list.
        index: usize,
        /// From this node.
        from: u32,
        /// To this node.
        to: u32,
    },
    /// A node to itself, and not 10.
    #[error("distances[{index}]: {value} for node {node} to itself, must be 10")]
    NotLocal {
        /// Position in the list.
        index: usize,
        /// The node.
        node: u32,
        /// The given value.
        value: u64,
    },
    /// 10 between two nodes; Linux throws the whole table away for it.
    #[error("distances[{index}]: 10 is not remote ({from}:{to}), must be 11 to 255")]
    NotRemote {
        /// Position in the list.
        index: usize,
        /// From this node.
        from: u32,
        /// To this node.
        to: u32,
    },
}

/// A full matrix of distances between nodes numbered from 0: `[from][to]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DistanceMatrix {
    rows: Vec<Vec<Distance>>,
}

impl DistanceMatrix {
    /// `nodes` nodes, all 20 apart.
    pub fn uniform(nodes: usize) -> Self {
        Self::from_fn(nodes, |_, _| Distance::REMOTE)
    }

    /// Asks `distance` for each pair of different nodes.
    pub fn from_fn(nodes: usize, mut distance: impl FnMut(usize, usize) -> Distance) -> Self {
        let mut cell = |from, to| if from == to { Distance::LOCAL } else { distance(from, to) };
        Self { rows: (0..nodes).map(|from| (0..nodes).map(|to| cell(from, to)).collect()).collect() }
    }

    /// Completes `given` as libvirt does: what is given from one node to another holds for the way back too, unless that
    /// is given; what is neither reads 10 on the diagonal and 20 elsewhere. So asymmetry is allowed, and given twice is
    /// a mistake.
    pub fn complete(nodes: usize, given: &[DistanceSpec]) -> Result<Self, DistanceError> {
        let mut cells: BTreeMap<(usize, usize), Distance> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (index, &DistanceSpec { from, to, value }) in given.iter().enumerate() {
            for node in [from, to] {
                if node as usize >= nodes {
                    return Err(DistanceError::NoSuchNode { index, node, last: nodes.saturating_sub(1) });
                }
            }
            if !(10..=255).contains(&value) {
                return Err(DistanceError::OutOfRange { index, value });
            }
            if !seen.insert((from, to)) {
                return Err(DistanceError::Twice { index, from, to });
            }
            if from == to {
                if value != 10 {
                    return Err(DistanceError::NotLocal { index, node: from, value });
                }
                continue;
            }
            let distance = Distance::remote(value).ok_or(DistanceError::NotRemote { index, from, to })?;
            cells.insert((from as usize, to as usize), distance);
        }
        Ok(Self::from_fn(nodes, |from, to| {
            let given = cells.get(&(from, to)).or_else(|| cells.get(&(to, from)));
            given.copied().unwrap_or(Distance::REMOTE)
        }))
    }

    /// How many nodes.
    pub fn nodes(&self) -> usize {
        self.rows.len()
    }

    /// One distance; `None` when a node is not there.
    pub fn get(&self, from: usize, to: usize) -> Option<Distance> {
        self.rows.get(from)?.get(to).copied()
    }

    /// Rows by `from`, columns by `to`.
    pub fn rows(&self) -> &[Vec<Distance>] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::{DistanceError, DistanceMatrix, DistanceSpec};
    use proptest::prelude::{Strategy, proptest};

    fn given(list: &[(u32, u32, u64)]) -> Vec<DistanceSpec> {
        list.iter().map(|&(from, to, value)| DistanceSpec { from, to, value }).collect()
    }

    fn bytes(matrix: &DistanceMatrix) -> Vec<Vec<u8>> {
        matrix.rows().iter().map(|row| row.iter().map(|d| d.get()).collect()).collect()
    }

    #[test]
    fn nothing_given_reads_ten_and_twenty() {
        assert_eq!(bytes(&DistanceMatrix::complete(2, &[]).unwrap()), [[10, 20], [20, 10]]);
    }

    #[test]
    fn one_direction_is_mirrored() {
        let matrix = DistanceMatrix::complete(2, &given(&[(0, 1, 31)])).unwrap();
        assert_eq!(bytes(&matrix), [[10, 31], [31, 10]]);
    }

    #[test]
    fn explicit_beats_mirrored_in_either_order() {
        for list in [[(0, 1, 21), (1, 0, 31)], [(1, 0, 31), (0, 1, 21)]] {
            let matrix = DistanceMatrix::complete(2, &given(&list)).unwrap();
            assert_eq!(bytes(&matrix), [[10, 21], [31, 10]]);
        }
    }

    #[test]
    fn what_linux_would_throw_away_is_refused() {
        use DistanceError::{NoSuchNode, NotLocal, NotRemote, OutOfRange, Twice};
        let refused = |list| DistanceMatrix::complete(2, &given(list)).unwrap_err();
        assert_eq!(refused(&[(0, 1, 9)]), OutOfRange { index: 0, value: 9 });
        assert_eq!(refused(&[(0, 1, 256)]), OutOfRange { index: 0, value: 256 });
        assert_eq!(refused(&[(0, 1, 266)]), OutOfRange { index: 0, value: 266 });
        assert_eq!(refused(&[(0, 1, 10)]), NotRemote { index: 0, from: 0, to: 1 });
        assert_eq!(refused(&[(0, 0, 10), (1, 1, 11)]), NotLocal { index: 1, node: 1, value: 11 });
        assert_eq!(refused(&[(0, 2, 20)]), NoSuchNode { index: 0, node: 2, last: 1 });
        assert_eq!(refused(&[(0, 1, 21), (1, 0, 31), (0, 1, 21)]), Twice { index: 2, from: 0, to: 1 });
        assert_eq!(refused(&[(0, 0, 10), (0, 0, 10)]), Twice { index: 1, from: 0, to: 0 });
        assert_eq!(
            refused(&[(0, 1, 10)]).to_string(),
            "distances[0]: 10 is not remote (0:1), must be 11 to 255"
        );
    }

    proptest! {
        #[test]
        fn the_rule_holds_for_every_list(
            list in proptest::collection::btree_map((0u32..5, 0u32..5), 11u64..=255, 0..20).prop_map(|map| {
                let list = map.into_iter().filter(|((f, t), _)| f != t);
                list.map(|((f, t), value)| (f, t, value)).collect::<Vec<_>>()
            }).prop_shuffle()
        ) {
            let matrix = bytes(&DistanceMatrix::complete(5, &given(&list)).unwrap());
            for from in 0..5u32 {
                for to in 0..5u32 {
                    let given = list.iter().find(|(f, t, _)| (*f, *t) == (from, to)).map(|e| e.2);
                    let mirrored = list.iter().find(|(f, t, _)| (*f, *t) == (to, from)).map(|e| e.2);
                    let default = if from == to { 10 } else { 20 };
                    let expected = given.or(mirrored).unwrap_or(default);
                    assert_eq!(u64::from(matrix[from as usize][to as usize]), expected);
                }
            }
        }
    }
}
