//! Figures: what a device counts, declared once with name, kind and help, and carried from there as data. Who shows them,
//! and how, is left to others.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a figure changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A figure as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// The kind of device, such as `disk`.
    pub subsystem: &'static str,
    /// Its name, such as `read_bytes`: in base units, without that of the device.
    pub name: &'static str,
    /// One sentence about it.
    pub help: &'static str,
    /// How it changes.
    pub kind: FigureKind,
    /// Of a set of states, a label and the state that this figure is 1 for.
    pub state: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: u64,
}

impl Figure {
    /// As it is now.
    pub fn new(
        subsystem: &'static str,
        name: &'static str,
        help: &'static str,
        (kind, value): (FigureKind, u64),
    ) -> Self {
        Self { subsystem, name, help, kind, state: None, value }
    }

    /// A set of states, of which one is `now`: a figure for each, so that none comes and goes.
    pub fn states(
        subsystem: &'static str,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        (states, now): (&[&'static str], &str),
    ) -> Vec<Self> {
        let figure = |state: &&'static str| {
            let value = (FigureKind::Gauge, u64::from(*state == now));
            Self { state: Some((label, state)), ..Self::new(subsystem, name, help, value) }
        };
        states.iter().map(figure).collect()
    }

    /// Its name among the figures of one device.
    #[must_use]
    pub fn key(&self) -> String {
        match self.state {
            Some((_, state)) => format!("{}_{state}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// What has figures: looked at from any thread, while the device runs.
pub trait Figures: Send + Sync {
    /// All of them as they are now, in the same order each time.
    fn figures(&self) -> Vec<Figure>;
}

/// A number that only grows, and that one thread at a time adds to: that needs no locked operation.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// How it is shown.
    pub fn figure(&self) -> (FigureKind, u64) {
        (FigureKind::Counter, self.get())
    }
}

/// A number that only grows, and that several threads add to at once. Not for what happens with every request.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

impl SharedCounter {
    /// So many more; gives how many there were.
    pub fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }

    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// How it is shown.
    pub fn figure(&self) -> (FigureKind, u64) {
        (FigureKind::Counter, self.get())
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// So many now.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// So many now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// How it is shown.
    pub fn figure(&self) -> (FigureKind, u64) {
        (FigureKind::Gauge, self.get())
    }
}

/// Declares what a kind of device counts: a struct of [`Counter`]s, [`SharedCounter`]s and [`Gauge`]s with the [`Figures`]
/// that they are. The subsystem, the fields' names and their texts are what people see.
///
/// ```
/// devices::figures! {
///     /// What a lamp counts.
///     pub struct LampCounters: "lamp" {
///         switches: Counter = "Times that the guest switched the lamp.",
///         lit: Gauge = "1 while the lamp is lit.",
///     }
/// }
///
/// let counters = LampCounters::default();
/// counters.switches.one();
/// let figures = devices::Figures::figures(&counters);
/// assert_eq!((figures[0].name, figures[0].value), ("switches", 1));
/// ```
#[macro_export]
macro_rules! figures {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: $subsystem:literal {
            $($figure:ident: $cell:ident = $help:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $(
                #[doc = $help]
                pub $figure: $crate::$cell,
            )*
        }

        impl $crate::Figures for $name {
            fn figures(&self) -> Vec<$crate::Figure> {
                vec![$($crate::Figure::new($subsystem, stringify!($figure), $help, self.$figure.figure()),)*]
            }
        }
    };
}

/// The figures that are not 0, for tests that compare them all.
#[cfg(test)]
pub(crate) fn counted(figures: &dyn Figures) -> Vec<(&'static str, u64)> {
    let all = figures.figures().into_iter().filter(|figure| figure.value > 0);
    all.map(|figure| (figure.name, figure.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Figure, FigureKind, Figures};
    use crate::virtio::balloon::BalloonCounters;
    use crate::virtio::blk::BlkCounters;
    use crate::virtio::console::ConsoleCounters;
    use crate::virtio::net::NetCounters;
    use crate::virtio::vsock::VsockCounters;
    use crate::virtio::{RngCounters, VirtioCounters};
    use std::collections::BTreeSet;

    figures! {
        /// What a lamp counts.
        struct LampCounters: "lamp" {
            switches: Counter = "Times that the guest switched the lamp.",
            failures: SharedCounter = "Times that the lamp stayed dark.",
            lit: Gauge = "1 while the lamp is lit.",
        }
    }

    #[test]
    fn what_is_declared_once_is_a_struct_and_figures() {
        let counters = LampCounters::default();
        counters.switches.add(3);
        counters.failures.one();
        counters.lit.set(1);
        let figure = |name, help, value| Figure::new("lamp", name, help, value);
        assert_eq!(
            counters.figures(),
            [
                figure("switches", "Times that the guest switched the lamp.", (FigureKind::Counter, 3)),
                figure("failures", "Times that the lamp stayed dark.", (FigureKind::Counter, 1)),
                figure("lit", "1 while the lamp is lit.", (FigureKind::Gauge, 1)),
            ]
        );
    }

    #[test]
    fn of_a_set_of_states_one_is_1() {
        let states =
            Figure::states("lamp", "colour", "1 for the colour.", "colour", (&["red", "green"], "green"));
        let seen: Vec<_> = states.iter().map(|figure| (figure.key(), figure.state, figure.value)).collect();
        let red = ("colour_red".to_owned(), Some(("colour", "red")), 0);
        assert_eq!(seen, [red, ("colour_green".to_owned(), Some(("colour", "green")), 1)]);
    }

    /// Those that people's dashboards and alerts name; new ones need no line here.
    const KNOWN: [(&str, &str); 7] = [
        (
            "device",
            "activations resets refused_features failed_activations queue_faults ignored_accesses \
             slow_notifications host_failures",
        ),
        (
            "disk",
            "reads writes flushes discards write_zeroes read_bytes written_bytes discarded_bytes zeroed_bytes \
             host_errors no_space unsupported out_of_range refused_writes malformed",
        ),
        (
            "net",
            "received_frames received_bytes received_dropped received_copied receive_starved receive_errors \
             sent_frames sent_bytes sent_dropped send_blocked commands malformed",
        ),
        (
            "vsock",
            "guest_connects host_connects refused broken to_host_bytes to_guest_bytes malformed lost_resets \
             connections",
        ),
        ("console", "printed_bytes lost_bytes typed_bytes attached malformed"),
        ("rng", "bytes requests waits failures"),
        ("balloon", "inflated_bytes deflated_bytes inflated_off_node_bytes rollbacks drained_bytes"),
    ];

    #[test]
    fn every_figure_has_a_sentence_of_help_and_a_name_of_its_own_that_stays() {
        let all: [&dyn Figures; 7] = [
            &VirtioCounters::default(),
            &BlkCounters::default(),
            &NetCounters::default(),
            &VsockCounters::default(),
            &ConsoleCounters::default(),
            &RngCounters::default(),
            &BalloonCounters::default(),
        ];
        let mut names = BTreeSet::new();
        for Figure { subsystem, name, help, .. } in all.iter().flat_map(|figures| figures.figures()) {
            assert!(names.insert((subsystem, name)), "{subsystem} {name} comes twice");
            assert!(help.len() > 10 && help.ends_with('.'), "{subsystem} {name}: {help}");
        }
        for (subsystem, known) in KNOWN {
            for name in known.split_whitespace() {
                assert!(names.contains(&(subsystem, name)), "{subsystem} {name} is gone");
            }
        }
    }
}
