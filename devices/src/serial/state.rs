//! The serial port's state: what a driver wrote to its registers, what waits in it both ways, and pending interrupts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState as UartState};

use super::{FIFO_BYTES, LineTrigger, MODEM_CONTROL_LOOPBACK, Serial};
use crate::serial_output::{OutputBuffer, STALLED_MAX_BYTES};
use crate::state::{HexBytes, State, StateError, ensure};

/// Interrupt enable register: the interrupts that there are.
const INTERRUPTS: u8 = 0b1111;
/// Interrupt identification register, as `vm_superio` keeps it: nothing, or these.
const NONE_PENDING: u8 = 1 << 0;
const TRANSMIT_PENDING: u8 = 1 << 1;
const RECEIVE_PENDING: u8 = 1 << 2;
/// Line status register: there is input; and always, that there is room for output.
const DATA_READY: u8 = 1 << 0;

/// State of a [`Serial`]. The line status follows from the FIFO, the modem status never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialState {
    /// The divisor latch.
    pub divisor: u16,
    /// The interrupt enable register, 4 bits.
    pub interrupt_enable: u8,
    /// Received data was announced, and neither read nor acknowledged.
    pub receive_pending: bool,
    /// That there is room for output was announced, and not acknowledged.
    pub transmit_pending: bool,
    /// The line control register.
    pub line_control: u8,
    /// The modem control register.
    pub modem_control: u8,
    /// The scratch register.
    pub scratch: u8,
    /// Input that the guest has not read, at most 64 bytes.
    pub input: HexBytes,
    /// Output that the host has not taken, at most 64 KiB.
    pub output: HexBytes,
}

impl State for SerialState {
    const NAME: &'static str = "serial";
    const VERSION: u32 = 1;
}

impl SerialState {
    /// As a guest finds it.
    #[must_use]
    pub fn power_on() -> Self {
        Self::of(UartState::default(), Vec::new())
    }

    fn of(uart: UartState, output: Vec<u8>) -> Self {
        Self {
            divisor: u16::from_le_bytes([uart.baud_divisor_low, uart.baud_divisor_high]),
            interrupt_enable: uart.interrupt_enable,
            receive_pending: uart.interrupt_identification & RECEIVE_PENDING != 0,
            transmit_pending: uart.interrupt_identification & TRANSMIT_PENDING != 0,
            line_control: uart.line_control,
            modem_control: uart.modem_control,
            scratch: uart.scratch,
            input: HexBytes(uart.in_buffer),
            output: HexBytes(output),
        }
    }

    /// The registers, if they can be so.
    fn uart(&self) -> Result<UartState, StateError> {
        let Self { interrupt_enable, input, output, .. } = self;
        ensure::<Self>(
            interrupt_enable & !INTERRUPTS == 0,
            "interrupt_enable",
            format_args!("{interrupt_enable:#x}"),
            "must have no bits but 3:0",
        )?;
        ensure::<Self>(
            input.0.len() <= FIFO_BYTES,
            "input",
            format_args!("{} bytes", input.0.len()),
            "must be at most 64 bytes",
        )?;
        ensure::<Self>(
            output.0.len() <= STALLED_MAX_BYTES,
            "output",
            format_args!("{} bytes", output.0.len()),
            "must be at most 65536 bytes",
        )?;
        let reset = UartState::default();
        let pending = [(self.receive_pending, RECEIVE_PENDING), (self.transmit_pending, TRANSMIT_PENDING)];
        let pending = pending.iter().fold(0, |bits, (is, bit)| if *is { bits | bit } else { bits });
        let ready = if input.0.is_empty() { 0 } else { DATA_READY };
        let [baud_divisor_low, baud_divisor_high] = self.divisor.to_le_bytes();
        Ok(UartState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: *interrupt_enable,
            interrupt_identification: if pending == 0 { NONE_PENDING } else { pending },
            line_control: self.line_control,
            line_status: reset.line_status | ready,
            modem_control: self.modem_control,
            modem_status: reset.modem_status,
            scratch: self.scratch,
            in_buffer: input.0.clone(),
        })
    }
}

impl Serial {
    /// The state now.
    #[must_use]
    pub fn save(&self) -> SerialState {
        SerialState::of(self.uart.state(), self.uart.writer().pending().to_vec())
    }

    /// Puts the port into `state`. Interrupts that are pending in it are sent once more: a guest may have been stopped
    /// before it had seen them. Output that the host had not taken before is not lost, it comes first.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), StateError> {
        let uart = state.uart()?;
        let trigger = LineTrigger { line: Arc::clone(&self.line), counters: Arc::clone(&self.counters) };
        let buffer = OutputBuffer::new(Box::new(std::io::sink()), Arc::clone(&self.counters));
        let restored = vm_superio::Serial::from_state(&uart, trigger, NoEvents, buffer);
        let mut restored = restored.map_err(|error| {
            StateError::value::<SerialState>("input", error, "must be a state that the UART can have")
        })?;
        std::mem::swap(restored.writer_mut(), self.uart.writer_mut());
        restored.writer_mut().append(&state.output.0);
        self.uart = restored;
        self.loopback = state.modem_control & MODEM_CONTROL_LOOPBACK != 0;
        self.tell_host();
        Ok(())
    }

    /// As at power-on.
    pub fn reset(&mut self) {
        // Refused for no state that a port has been in.
        let _ = self.restore(&SerialState::power_on());
    }
}
