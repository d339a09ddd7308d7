//! What a balloon counts.

use crate::{Figure, FigureKind, Figures};

crate::figures! {
    /// Arrays and pages of one balloon.
    pub struct BalloonCounters: "balloon" {
        inflate_arrays: Counter = "Page arrays on the inflate queue.",
        deflate_arrays: Counter = "Page arrays on the deflate queue.",
        inflated_bytes: Counter = "Memory inflated by the guest.",
        deflated_bytes: Counter = "Memory deflated by the guest.",
        inflated_off_node_bytes: Counter = "Memory of other vnodes inflated by the guest.",
        rollbacks: Counter = "Rollbacks of inflated pages of other vnodes.",
        migrations: Counter = "Balloon pages migrated by the guest.",
        out_of_order: Counter = "Pages deflated out of order, before pages inflated later.",
        drained_bytes: Counter = "Memory deflated by the guest on its own (DEFLATE_ON_OOM).",
        unasked: Counter = "Pages inflated without a request.",
        outside: Counter = "Page numbers outside of memory.",
        duplicates: Counter = "Pages inflated twice.",
        unknown: Counter = "Deflated pages that were not inflated.",
        malformed: Counter = "Page arrays of excessive or invalid length.",
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
