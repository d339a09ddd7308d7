//! What a PCI function is to its segment. What it does when its registers are read and written is its own.

use std::any::Any;

use super::config::{ConfigSpace, ConfigSpaceState};
use crate::bus::fill_ones;
use crate::state::{Section, Sections, StateError};

/// A function of a segment. Called by vCPU threads, one at a time; nothing else of its segment waits meanwhile.
///
/// Accesses are 1, 2, 4 or 8 bytes long and lie wholly in the configuration space or the BAR.
pub trait PciFunction: Send {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Its configuration space, for the segment to place BARs.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// The guest reads the configuration space.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes the configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// From now on BAR `bar` answers at `address`, or nowhere: it is switched off, out of the window, or something
    /// else already answers there.
    fn bar_decoded(&mut self, bar: u8, address: Option<u64>) {
        let _ = (bar, address);
    }

    /// The guest reads `offset` bytes into BAR `bar`.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        let _ = (bar, offset);
        fill_ones(data);
    }

    /// The guest writes `offset` bytes into BAR `bar`.
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let _ = (bar, offset, data);
    }

    /// Whether everything that was asked of it is done: it does not wait for requests in flight before it stops or
    /// resets. Such requests may touch guest memory, and only those.
    fn is_settled(&mut self) -> bool {
        true
    }

    /// Finishes what is in flight and starts nothing more until [`resume`](Self::resume): once it
    /// [is settled](Self::is_settled), nothing of it runs or touches memory. Does not wait for that.
    fn hold(&mut self) {}

    /// Goes on after [`hold`](Self::hold) or [`restore`](Self::restore).
    fn resume(&mut self) {}

    /// The state of a function that is held.
    ///
    /// # Errors
    /// [`StateError::Running`] if it is not, or not yet.
    fn save(&self) -> Result<Vec<Section>, StateError> {
        Ok(vec![Section::of(&self.config().save())?])
    }

    /// Puts a function that is held, or that no driver has used yet, into a state. It is held then.
    ///
    /// # Errors
    /// [`StateError`]; the function has not changed, or is as at power-on.
    fn restore(&mut self, sections: Vec<Section>) -> Result<(), StateError> {
        let mut sections = Sections::new(sections);
        let config: ConfigSpaceState = sections.take()?;
        sections.finish()?;
        self.config_mut().restore(&config)
    }

    /// The machine ends: back to the state in which a guest finds it. Does not wait for requests in flight: once it
    /// [is settled](Self::is_settled), nothing of it runs or touches memory.
    fn reset(&mut self) {
        self.config_mut().reset();
    }

    /// The machine ends, and another one takes its device over: as [`reset`](Self::reset), and the device is ready for that
    /// one's guest.
    fn reset_for_next(&mut self) {
        self.reset();
    }

    /// The device, once it [is settled](Self::is_settled) after [`reset_for_next`](Self::reset_for_next), if there is
    /// one behind this function.
    fn take_device(&mut self) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// The machine ends and nobody waits for its requests any longer: cancels what can be cancelled.
    fn cancel(&mut self) {}

    /// Leaves requests that do not end to themselves; they keep the memory that they use.
    fn abandon(&mut self) {}
}
