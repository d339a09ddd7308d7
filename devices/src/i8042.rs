//! What is left of the keyboard controller: the command port through which old kernels and `reboot=k` reset.
//!
//! Keyboard and mouse do not exist; what a reset does is left to a [`PowerSink`].

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use crate::bus::{BusDevice, fill_ones};
use crate::power::{PowerRequest, PowerSink};

/// The command and status port. Ports 0x60 to 0x63 are left out on purpose: 0x61 is not the keyboard's, and a
/// guest that calibrates its TSC waits there for a bit that only an empty bus gives.
pub const I8042_COMMAND_PORTS: RangeInclusive<u16> = 0x64..=0x64;

/// Offset of the command port in `vm_superio`'s model, which starts at port 0x60.
const COMMAND_OFFSET: u8 = 4;

struct ResetTrigger(Arc<dyn PowerSink>);

impl Trigger for ResetTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.request(PowerRequest::Reset);
        Ok(())
    }
}

/// The keyboard controller's command port: command 0xFE resets, the status is always "ready".
pub struct I8042 {
    controller: I8042Device<ResetTrigger>,
}

impl I8042 {
    /// Resets go to `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { controller: I8042Device::new(ResetTrigger(sink)) }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (0, [value]) => *value = self.controller.read(COMMAND_OFFSET),
            (_, data) => fill_ones(data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, &[value]) = (offset, data) {
            let Ok(()) = self.controller.write(COMMAND_OFFSET, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PowerLog;

    #[test]
    fn command_0xfe_asks_for_a_reset() {
        let log = Arc::new(PowerLog::default());
        let mut device = I8042::new(log.clone());
        device.write(0, &[0xFE]);
        assert_eq!(log.requests(), [PowerRequest::Reset]);
    }

    #[test]
    fn no_other_access_asks_for_anything() {
        let log = Arc::new(PowerLog::default());
        let mut device = I8042::new(log.clone());
        (0..0xFE).for_each(|command| device.write(0, &[command]));
        device.write(0, &[0xFF]);
        device.write(0, &[0xFE, 0]);
        device.write(0, &[]);
        device.write(1, &[0xFE]);
        assert_eq!(log.requests(), []);
    }

    #[test]
    fn the_controller_is_always_ready() {
        let mut device = I8042::new(Arc::new(PowerLog::default()));
        let mut status = [0xAA];
        device.read(0, &mut status);
        assert_eq!(status, [0]);
        let mut wide = [0; 4];
        device.read(0, &mut wide);
        assert_eq!(wide, [0xFF; 4]);
    }
}
