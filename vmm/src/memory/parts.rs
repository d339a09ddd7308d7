//! Which bytes of a vnode's regions are to lie on which pnodes. A vnode that is bound to several has a part on each, as
//! large as was claimed there; all others are in one piece. Setting policies and moving pages is done beside this module.

use resources::{MemoryPart, MemoryPolicy, NodeSet};
use std::ops::Range;

/// Some bytes of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The region, by its place among those of the vnode.
    pub region: usize,
    /// Offsets in it.
    pub range: Range<usize>,
    /// The pnodes that its policy names.
    pub on: NodeSet,
}

/// The pieces of regions of these sizes, which follow each other in the vnode's memory: by `parts` if these are all
/// on the pnodes of a bound vnode, else each region whole on all of `on`.
pub fn pieces(
    sizes: impl Iterator<Item = usize>,
    policy: MemoryPolicy,
    on: &NodeSet,
    parts: &[MemoryPart],
) -> Vec<Piece> {
    let named: NodeSet = parts.iter().map(|part| part.pnode).collect();
    let apart = policy == MemoryPolicy::Bind && parts.len() > 1 && named == *on;
    let mut left: Vec<(NodeSet, usize)> = match apart {
        true => parts
            .iter()
            .map(|part| (NodeSet::one(part.pnode), usize::try_from(part.size.get()).unwrap_or(usize::MAX)))
            .collect(),
        false => Vec::new(),
    };
    // Of the last part there is always more, so that no byte is left over.
    if let Some((_, size)) = left.last_mut() {
        *size = usize::MAX;
    }
    let whole = [(on.clone(), usize::MAX)];
    let mut left = if left.is_empty() { whole.to_vec() } else { left }.into_iter();
    let mut part = left.next();
    let mut all = Vec::new();
    for (region, size) in sizes.enumerate() {
        let mut start = 0;
        while start < size {
            let Some((on, rest)) = part.as_mut() else { break };
            let length = (*rest).min(size - start);
            if length > 0 {
                all.push(Piece { region, range: start..start + length, on: on.clone() });
            }
            start += length;
            if *rest != usize::MAX {
                *rest -= length;
            }
            if *rest == 0 {
                part = left.next();
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{Piece, pieces};
    use proptest::prelude::proptest;
    use resources::{Bytes, MemoryPart, MemoryPolicy, NodeSet, PnodeId};

    fn parts(sizes: &[u64]) -> Vec<MemoryPart> {
        (0..)
            .zip(sizes)
            .map(|(pnode, size)| MemoryPart { pnode: PnodeId(pnode), size: Bytes(*size) })
            .collect()
    }

    fn piece(region: usize, range: std::ops::Range<usize>, on: &str) -> Piece {
        Piece { region, range, on: on.parse().unwrap() }
    }

    #[test]
    fn parts_go_on_in_the_next_region_and_others_are_whole() {
        let both: NodeSet = "0-1".parse().unwrap();
        let cut = |policy, on: &NodeSet, sizes: &[u64]| pieces([6, 4].into_iter(), policy, on, &parts(sizes));
        assert_eq!(
            cut(MemoryPolicy::Bind, &both, &[8, 2]),
            [piece(0, 0..6, "0"), piece(1, 0..2, "0"), piece(1, 2..4, "1")]
        );
        let whole = [piece(0, 0..6, "0-1"), piece(1, 0..4, "0-1")];
        assert_eq!(cut(MemoryPolicy::Interleave, &both, &[8, 2]), whole);
        assert_eq!(cut(MemoryPolicy::Bind, &both, &[]), whole);
        // Parts of another place say nothing.
        assert_eq!(cut(MemoryPolicy::Bind, &both, &[3, 3, 4]), whole);
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece_and_parts_are_as_large_as_they_should(
            sizes in proptest::collection::vec(1usize..50, 1..4),
            cuts in proptest::collection::vec(1u64..60, 2..5),
        ) {
            let total: usize = sizes.iter().sum();
            let mut cuts: Vec<u64> = cuts;
            let but_last: u64 = cuts[..cuts.len() - 1].iter().sum();
            let last = cuts.len() - 1;
            cuts[last] = (total as u64).saturating_sub(but_last);
            let on: NodeSet = (0..).map(PnodeId).take(cuts.len()).collect();
            let all = pieces(sizes.iter().copied(), MemoryPolicy::Bind, &on, &parts(&cuts));
            let mut next = (0, 0);
            for piece in &all {
                if next.1 == sizes[next.0] {
                    next = (next.0 + 1, 0);
                }
                assert_eq!((piece.region, piece.range.start), next);
                next.1 = piece.range.end;
            }
            assert_eq!(next, (sizes.len() - 1, sizes[sizes.len() - 1]));
            if but_last <= total as u64 {
                for (pnode, size) in (0..).zip(&cuts) {
                    let of = all.iter().filter(|piece| piece.on == NodeSet::one(PnodeId(pnode)));
                    assert_eq!(of.map(|piece| piece.range.len() as u64).sum::<u64>(), *size);
                }
            }
        }
    }
}
