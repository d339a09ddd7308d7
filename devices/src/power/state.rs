//! The power registers' state.

use serde::{Deserialize, Serialize};

use super::{POWER_BUTTON_EVENT, Power, SLEEP_TYPE_MASK};
use crate::state::{State, StateError, ensure};

/// State of a [`Power`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerState {
    /// SLP_TYP as the guest last wrote it, 3 bits.
    pub sleep_type: u8,
    /// The event register: events that the guest has not read.
    pub events: u8,
}

impl State for PowerState {
    const NAME: &'static str = "power";
    const VERSION: u32 = 1;
}

impl PowerState {
    /// As a guest finds it: no events.
    #[must_use]
    pub fn power_on() -> Self {
        Self::default()
    }
}

impl Power {
    /// The state now.
    #[must_use]
    pub fn save(&self) -> PowerState {
        PowerState { sleep_type: self.sleep_type, events: self.events }
    }

    /// Puts the registers into `state`. The line is triggered if there are events: a guest may have been stopped before it
    /// had seen the interrupt.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed. [`StateError::Host`] if the line could not be triggered; the events stay
    /// pending.
    pub fn restore(&mut self, state: &PowerState) -> Result<(), StateError> {
        let PowerState { sleep_type, events } = *state;
        ensure::<PowerState>(sleep_type & !SLEEP_TYPE_MASK == 0, "sleep_type", sleep_type, "must be 0 to 7")?;
        ensure::<PowerState>(events & !POWER_BUTTON_EVENT == 0, "events", events, "must have no bits but 0")?;
        (self.sleep_type, self.events) = (sleep_type, events);
        if events != 0 {
            self.line.trigger().map_err(|error| StateError::Host {
                part: "power".to_owned(),
                call: "signal an interrupt line",
                reason: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// As at power-on.
    pub fn reset(&mut self) {
        // There is nothing to trigger the line for.
        let _ = self.restore(&PowerState::power_on());
    }
}
