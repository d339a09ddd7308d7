//! What a balloon counts.

use crate::{Figure, FigureKind, Figures};

crate::figures! {
    /// Arrays and pages of one balloon.
    pub struct BalloonCounters: "balloon" {
        inflate_arrays: Counter = "Arrays of pages that the guest gave.",
        deflate_arrays: Counter = "Arrays of pages that the guest took back.",
        inflated_bytes: Counter = "Memory that the guest gave.",
        deflated_bytes: Counter = "Memory that the guest took back.",
        inflated_off_node_bytes: Counter = "Memory of other vnodes that the guest gave.",
        rollbacks: Counter = "Times that the driver was made to turn back.",
        migrations: Counter = "Ballooned pages that the guest moved.",
        out_of_order: Counter = "Pages taken back before pages that were given later.",
        drained_bytes: Counter = "Memory that the guest took back unasked.",
        unasked: Counter = "Pages that the guest gave although none were asked for.",
        outside: Counter = "Page numbers that are not memory.",
        duplicates: Counter = "Pages given twice.",
        unknown: Counter = "Pages taken back that had not been given.",
        malformed: Counter = "Arrays that are too long or of odd length.",
        ignored_writes: Counter = "Writes to read-only configuration.",
    }
}

impl BalloonCounters {
    /// All that a driver may not do, as one figure beside the others.
    pub(super) fn with_faults(&self) -> Vec<Figure> {
        let faults = [&self.outside, &self.duplicates, &self.unknown, &self.malformed, &self.ignored_writes];
        let sum = faults.iter().fold(0_u64, |sum, counter| sum.saturating_add(counter.get()));
        let help = "Malformed pages, arrays and writes of the guest.";
        let mut all = self.figures();
        all.push(Figure::new("balloon", "faults", help, (FigureKind::Counter, sum)));
        all
    }
}
