//! Power off, reset and the power button: the sleep and reset registers of hardware-reduced ACPI and the event
//! register behind a Generic Event Device.
//!
//! The FADT and DSDT that announce them are left to `acpi`, what a request does to the VM to a [`PowerSink`].

mod state;

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::bus::{BusDevice, answer, fill_ones};
use crate::interrupt::{InterruptError, InterruptLine};

pub use state::PowerState;

/// Where the power registers are, as I/O ports. All are 8 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerPorts {
    /// FADT SLEEP_CONTROL_REG.
    pub sleep_control: u16,
    /// FADT SLEEP_STATUS_REG.
    pub sleep_status: u16,
    /// FADT RESET_REG; [`RESET_VALUE`] written here resets.
    pub reset: u16,
    /// The event register that the Generic Event Device's `_EVT` method reads: pending events, cleared by the read.
    pub event: u16,
    first: u16,
    last: u16,
}

impl PowerPorts {
    /// All ports of the device, for the bus.
    #[must_use]
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// The ports of this device: eight from 0x600, where ACPI registers usually are.
pub const POWER_PORTS: PowerPorts = PowerPorts {
    sleep_control: FIRST_PORT,
    sleep_status: FIRST_PORT + 1,
    reset: FIRST_PORT + 2,
    event: FIRST_PORT + 4,
    first: FIRST_PORT,
    last: FIRST_PORT + 7,
};

/// FADT RESET_VALUE: what to write to the reset register. Not a value that is written by mistake.
pub const RESET_VALUE: u8 = 0x52;
/// What the DSDT's `\_S5` gives as SLP_TYP, 3 bits.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Bit of the event register: the power button was pressed, `Notify (PWRB, 0x80)`.
pub const POWER_BUTTON_EVENT: u8 = 1 << 0;

const FIRST_PORT: u16 = 0x600;
const SLEEP_CONTROL: u64 = 0;
const SLEEP_STATUS: u64 = 1;
const RESET: u64 = 2;
const EVENT: u64 = 4;

/// ACPI 6.5, 4.8.3.7: SLP_TYPx in bits 4:2, SLP_EN in bit 5, which reads as zero.
const SLEEP_TYPE_SHIFT: u32 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest asks of the whole VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerRequest {
    /// Stop for good.
    PowerOff,
    /// Start again from reset.
    Reset,
}

/// Who hears of power requests. Called from vCPU threads with the device locked; a guest may ask many times.
pub trait PowerSink: Send + Sync {
    /// Takes note of `request`. Does not block.
    fn request(&self, request: PowerRequest);
}

/// The power registers.
pub struct Power {
    sink: Arc<dyn PowerSink>,
    line: Arc<dyn InterruptLine>,
    sleep_type: u8,
    events: u8,
}

impl Power {
    /// Requests go to `sink`; `line` is the Generic Event Device's interrupt.
    #[must_use]
    pub fn new(sink: Arc<dyn PowerSink>, line: Arc<dyn InterruptLine>) -> Self {
        Self { sink, line, sleep_type: 0, events: 0 }
    }

    /// Presses the power button: the guest's operating system shuts down if it cares to.
    ///
    /// # Errors
    /// [`InterruptError::Signal`] if the line could not be triggered; the event stays pending.
    pub fn press_power_button(&mut self) -> Result<(), InterruptError> {
        self.events |= POWER_BUTTON_EVENT;
        self.line.trigger()
    }

    fn write_sleep_control(&mut self, value: u8) {
        self.sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
        if value & SLEEP_ENABLE != 0 && self.sleep_type == SLEEP_TYPE_S5 {
            self.sink.request(PowerRequest::PowerOff);
        }
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Reads in other sizes must not swallow events.
        if data.len() != 1 {
            return fill_ones(data);
        }
        let value = match offset {
            SLEEP_CONTROL => self.sleep_type << SLEEP_TYPE_SHIFT,
            // WAK_STS is never set: no state can be woken from.
            SLEEP_STATUS => 0,
            EVENT => std::mem::take(&mut self.events),
            _ => 0,
        };
        answer(data, u64::from(value));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        match offset {
            SLEEP_CONTROL => self.write_sleep_control(value),
            RESET if value == RESET_VALUE => self.sink.request(PowerRequest::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "power_tests.rs"]
mod tests;
