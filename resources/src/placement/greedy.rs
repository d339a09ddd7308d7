//! First, best and worst fit: one vnode after the other, each on the first, fullest or emptiest pnode with room. Each
//! vnode reduces the room for the next.

use crate::placement::problem::{Amounts, CPUS, Problem, fits, take};
use std::cmp::Reverse;

/// Which of the pnodes that have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The first.
    First,
    /// The one with the least left.
    Best,
    /// The one with the most left.
    Worst,
}

/// The pnode of each vnode, or the first vnode that no pnode has room for.
pub fn each(problem: &Problem, rule: Rule) -> Result<Vec<usize>, usize> {
    let mut rooms: Vec<Amounts> = problem.bins.iter().map(|bin| bin.room).collect();
    let place = |(index, item): (usize, &Amounts)| {
        let at = pick(&rooms, item, rule).ok_or(index)?;
        take(&mut rooms[at], item);
        Ok(at)
    };
    problem.items.iter().enumerate().map(place).collect()
}

/// Ties go to the first.
fn pick(rooms: &[Amounts], item: &Amounts, rule: Rule) -> Option<usize> {
    // A vnode has memory of one kind, or none: then its CPUs count.
    let kind = (0..CPUS).find(|kind| item[*kind] > 0).unwrap_or(CPUS);
    let mut fitting = (0..rooms.len()).filter(|bin| fits(item, &rooms[*bin]));
    match rule {
        Rule::First => fitting.next(),
        Rule::Best => fitting.min_by_key(|bin| rooms[*bin][kind]),
        Rule::Worst => fitting.min_by_key(|bin| Reverse(rooms[*bin][kind])),
    }
}

#[cfg(test)]
mod tests {
    use super::Rule::{Best, First, Worst};
    use super::each;
    use crate::placement::pairs::Pairs;
    use crate::placement::problem::{Bin, Problem};

    #[test]
    fn each_rule_takes_its_pnode_and_ties_go_to_the_first() {
        let bin = |memory: u64| Bin { room: [memory, 0, 0, 2], claimed: 0, free: memory };
        let problem = |items: &[u64]| Problem {
            bins: [1, 9, 5, 9, 5].map(bin).to_vec(),
            items: items.iter().map(|memory| [*memory, 0, 0, 1]).collect(),
            given: vec![],
            pairs: Pairs::from_fn(5, |_, _| 20).into(),
        };
        assert_eq!(each(&problem(&[4, 4, 4]), First), Ok(vec![1, 1, 2]));
        assert_eq!(each(&problem(&[4, 4, 4]), Best), Ok(vec![2, 4, 1]));
        assert_eq!(each(&problem(&[4, 4, 4]), Worst), Ok(vec![1, 3, 1]));
        assert_eq!(each(&problem(&[9, 9, 6]), First), Err(2));
    }
}
