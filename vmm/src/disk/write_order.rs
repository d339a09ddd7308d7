//! Which writes of a disk may be under way together. Where direct I/O only takes whole blocks, a write of a part of one
//! reads the block first and writes it back; nothing else may write that block in between.

use super::helpers::{Letter, Mailbox};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a write changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whole blocks, in bytes.
    pub ranges: Vec<Range<u64>>,
    /// It writes back what it has read: nothing else may write there meanwhile.
    pub exclusive: bool,
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        let touch = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        (self.exclusive || other.exclusive)
            && self.ranges.iter().any(|range| other.ranges.iter().any(|other| touch(range, other)))
    }
}

/// The writes of a disk, in the order in which they came.
#[derive(Default)]
pub struct WriteOrder(Mutex<Writes>);

#[derive(Default)]
struct Writes {
    next: u64,
    /// Those under way, and those that wait for an earlier one.
    all: VecDeque<Entry>,
}

struct Entry {
    id: u64,
    claim: Claim,
    /// Who is told when it may begin; `None` if it has begun.
    waits: Option<(Arc<Mailbox>, u16)>,
}

/// A place in the order, as long as this lives.
pub struct Turn {
    order: Arc<WriteOrder>,
    id: u64,
}

impl fmt::Debug for WriteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteOrder").finish_non_exhaustive()
    }
}

impl WriteOrder {
    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write comes. It may begin if this gives true, else when `to` hears that it is `tag`'s turn.
    pub fn enter(self: &Arc<Self>, claim: Claim, to: &Arc<Mailbox>, tag: u16) -> (Turn, bool) {
        let mut writes = self.writes();
        let id = writes.next;
        writes.next += 1;
        let free = !writes.all.iter().any(|earlier| earlier.claim.conflicts(&claim));
        let waits = (!free).then(|| (Arc::clone(to), tag));
        writes.all.push_back(Entry { id, claim, waits });
        (Turn { order: Arc::clone(self), id }, free)
    }

    fn leave(&self, id: u64) {
        let mut writes = self.writes();
        writes.all.retain(|entry| entry.id != id);
        for at in 0..writes.all.len() {
            let blocked = {
                let entry = &writes.all[at];
                entry.waits.is_none()
                    || writes.all.iter().take(at).any(|earlier| earlier.claim.conflicts(&entry.claim))
            };
            if !blocked && let Some((to, tag)) = writes.all[at].waits.take() {
                to.post(Letter::Turn(tag));
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.order.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, WriteOrder};
    use crate::disk::helpers::{Letter, Mailbox};
    use std::ops::Range;
    use std::sync::Arc;

    fn turns(mailbox: &Mailbox) -> Vec<u16> {
        let tag = |letter| match letter {
            Letter::Turn(tag) => tag,
            Letter::Ended { .. } => panic!("no call was made"),
        };
        mailbox.take().into_iter().map(tag).collect()
    }

    fn claim(range: Range<u64>, exclusive: bool) -> Claim {
        Claim { ranges: vec![range], exclusive }
    }

    #[test]
    fn writes_of_whole_blocks_do_not_wait_for_each_other() {
        let (order, to) = (Arc::<WriteOrder>::default(), Arc::new(Mailbox::new().unwrap()));
        let all: Vec<_> = (0..4).map(|tag| order.enter(claim(0..8192, false), &to, tag)).collect();
        assert!(all.iter().all(|(_, free)| *free));
    }

    #[test]
    fn a_block_that_is_read_to_be_written_back_is_written_by_nobody_else() {
        let (order, to) = (Arc::<WriteOrder>::default(), Arc::new(Mailbox::new().unwrap()));
        let (whole, free) = order.enter(claim(0..8192, false), &to, 0);
        assert!(free);
        let (part, free) = order.enter(claim(4096..8192, true), &to, 1);
        assert!(!free);
        // Comes later than one that waits: it does not overtake.
        let (late, free) = order.enter(claim(0..8192, false), &to, 2);
        assert!(!free);
        let (_elsewhere, free) = order.enter(claim(8192..12288, true), &to, 3);
        assert!(free);
        assert!(turns(&to).is_empty());
        drop(whole);
        assert_eq!(turns(&to), [1]);
        drop(part);
        assert_eq!(turns(&to), [2]);
        drop(late);
        assert!(turns(&to).is_empty());
    }

    #[test]
    fn one_that_gives_up_waiting_keeps_nobody_waiting() {
        let (order, to) = (Arc::<WriteOrder>::default(), Arc::new(Mailbox::new().unwrap()));
        let (_first, _) = order.enter(claim(0..4096, false), &to, 0);
        let (second, _) = order.enter(claim(0..4096, true), &to, 1);
        let (_third, free) = order.enter(claim(0..4096, false), &to, 2);
        assert!(!free);
        drop(second);
        assert_eq!(turns(&to), [2]);
    }
}
