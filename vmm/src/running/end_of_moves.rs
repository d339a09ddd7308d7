//! The end of moves, in their job's thread: the control loop has threads follow, then what is no longer needed is given
//! back, then the job is over. Whoever sees it over sees it so.

use crate::handle::Shared;
use crate::inbox::{Event, Notifier};
use crate::jobs::Ended;
use crate::pci::DeviceThreads;
use crate::placement::MoveEnd;
use resources::VmTopology;
use std::sync::{Arc, mpsc};

/// Who is told.
pub struct EndOfMoves {
    pub shared: Arc<Shared>,
    pub notifier: Notifier,
    pub topology: Arc<VmTopology>,
    pub threads: DeviceThreads,
}

impl EndOfMoves {
    pub(crate) fn reach(&self, ended: Vec<Ended>) {
        let end = |Ended { to, moved: (outcome, error), .. }: &Ended| {
            MoveEnd::new(self.topology.vnode(to.vnode), to.clone(), outcome, error.is_none())
        };
        let ends = ended.iter().map(end).collect();
        let (reply, noted) = mpsc::sync_channel(1);
        let mut turn = self.shared.placement.turn();
        let left_behind = turn.end_moves(ends, |ends| {
            self.notifier.send(Event::MovesEnded(ends, reply));
            noted.recv().ok()
        });
        let Some(mut left_behind) = left_behind else { return self.void(ended) };
        self.shared.end_leases(&turn);
        drop(turn);
        for Ended { id, to, moved: (outcome, error), .. } in ended {
            self.threads.kernel_threads_follow(to.vnode);
            self.shared.jobs.end(id, (outcome, error.or(left_behind.remove(&to.vnode))));
            self.shared.tell_job(id);
        }
    }

    /// The guest has ended before its vnodes were moved: if it starts again, its memory is where it was.
    fn void(&self, ended: Vec<Ended>) {
        for Ended { id, from, moved: (mut outcome, error), .. } in ended {
            (outcome.cancelled, outcome.policy_on, outcome.parts) =
                (error.is_none(), from.pnodes, from.parts);
            self.shared.jobs.end(id, (outcome, error));
            self.shared.tell_job(id);
        }
    }
}
