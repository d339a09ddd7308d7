//! A bar on the terminal while guest memory is taken, if that takes long enough to wonder.

use indicatif::{ProgressBar, ProgressStyle};
use resources::Bytes;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How long nothing is shown: most starts are over by then.
const QUIET: Duration = Duration::from_millis(500);

/// A bar that appears late; taken off the terminal when dropped.
pub struct PrefaultBar {
    started: Instant,
    bar: Option<ProgressBar>,
}

impl PrefaultBar {
    /// The bar for standard error, if that is a terminal.
    pub fn for_terminal() -> Option<Self> {
        std::io::stderr().is_terminal().then(|| Self { started: Instant::now(), bar: None })
    }
}

impl vmm::Progress for PrefaultBar {
    fn prefault(&mut self, done: Bytes, total: Bytes) {
        if self.bar.is_none() && self.started.elapsed() < QUIET {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "taking guest memory [{wide_bar}] {bytes}/{total_bytes}, {eta} left",
            );
            let bar = ProgressBar::new(total.get());
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_position(done.get());
        if done >= total {
            // Not drawn again at the end: the terminal is the guest's until then.
            self.take_off();
        }
    }
}

impl PrefaultBar {
    fn take_off(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for PrefaultBar {
    fn drop(&mut self) {
        self.take_off();
    }
}
