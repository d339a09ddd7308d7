//! Why vCPUs left the guest: counts of all exits, and the last of them. Each vCPU's thread keeps its own; who shows the
//! figures is not this module's work.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a vCPU left the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum ExitReason {
    /// It accessed a port.
    Port,
    /// It accessed an address of a device.
    Mmio,
    /// It ended a level-triggered interrupt.
    EndOfInterrupt,
    /// A signal got it out, such as for a pause.
    Interrupted,
    /// Anything else.
    Other,
}

impl ExitReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Port, Self::Mmio, Self::EndOfInterrupt, Self::Interrupted, Self::Other];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Mmio => "mmio",
            Self::EndOfInterrupt => "end_of_interrupt",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

/// One vCPU's counts, in cache lines of their own (pairs of them, as processors fetch pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ExitCounters([AtomicU64; ExitReason::ALL.len()]);

impl ExitCounters {
    /// One more. The cache line is this vCPU's own, so it costs about a nanosecond against a microsecond for the exit.
    pub fn count(&self, reason: ExitReason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many so far.
    pub fn of(&self, reason: ExitReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// How many so far, for any reason.
    pub fn all(&self) -> u64 {
        ExitReason::ALL.iter().fold(0, |sum, reason| sum.saturating_add(self.of(*reason)))
    }
}

/// So many runs of like exits are kept: a device access is three or four, and an interrupt on the way is one more.
const HISTORY: usize = 16;

/// The last exits of a vCPU. A local of its thread: a comparison and an addition for each exit.
#[derive(Debug, Default)]
pub struct ExitHistory(VecDeque<ExitRun>);

/// Like exits in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRun {
    reason: ExitReason,
    /// The port, address or vector; 0 where there is none.
    at: u64,
    times: u64,
}

impl ExitHistory {
    /// One more.
    pub fn add(&mut self, reason: ExitReason, at: u64) {
        if let Some(last) = self.0.back_mut().filter(|last| last.reason == reason && last.at == at) {
            last.times = last.times.saturating_add(1);
            return;
        }
        if self.0.len() == HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(ExitRun { reason, at, times: 1 });
    }

    /// The oldest first.
    pub fn runs(&self) -> impl Iterator<Item = ExitRun> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Display for ExitRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.name())?;
        match self.reason {
            ExitReason::Port | ExitReason::Mmio | ExitReason::EndOfInterrupt => write!(f, " {:#x}", self.at)?,
            ExitReason::Interrupted | ExitReason::Other => {}
        }
        if self.times > 1 { write!(f, " x{}", self.times) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{ExitCounters, ExitHistory, ExitReason, HISTORY};

    #[test]
    fn the_history_keeps_the_last_exits_and_counts_like_ones_together() {
        let mut history = ExitHistory::default();
        for port in 0..40 {
            history.add(ExitReason::Port, port);
        }
        (0..1000).for_each(|_| history.add(ExitReason::Interrupted, 0));
        history.add(ExitReason::EndOfInterrupt, 0x30);
        let shown: Vec<String> = history.runs().map(|run| run.to_string()).collect();
        assert_eq!(shown.len(), HISTORY);
        assert_eq!(shown[0], "port 0x1a");
        assert_eq!(shown[HISTORY - 3..], ["port 0x27", "interrupted x1000", "end_of_interrupt 0x30"]);
    }

    #[test]
    fn each_reason_has_its_own_count() {
        let counters = ExitCounters::default();
        for (times, reason) in ExitReason::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| counters.count(reason));
        }
        assert_eq!(ExitReason::ALL.map(|reason| counters.of(reason)), [1, 2, 3, 4, 5]);
        assert_eq!(counters.all(), 15);
    }
}
