//! The serial port: a 16550A UART over `vm_superio`, buffered towards the host on both sides.
//!
//! Terminals, files, timers and the escape to quit are left to `vmm`.
//!
//! **Output.** One system call per byte would be slow, a line-buffered console would hide prompts and echo. Bytes
//! are handed to the sink at the end of a line, when 1 KiB waits, and when the driver writes the interrupt enable
//! register, which Linux does at the end of each burst: `stop_tx` after an echoed key, and the console after each
//! message. For guests that do otherwise, the host hears [`SerialHost::output_waiting`] and calls
//! [`Serial::flush`] a few milliseconds later; an idle guest causes no timer.
//!
//! A sink that would block keeps up to 64 KiB waiting; what it takes longer for, or refuses, is dropped and counted.
//! A sink may also make the vCPU that writes wait, so that nothing is dropped: then it must not while [`Serial::flush`] is
//! called by others.
//!
//! **Input.** The FIFO holds 64 bytes. [`Serial::enqueue`] takes what fits; if not all did, the caller stops
//! watching its source until [`SerialHost::input_room`].

mod state;

use std::convert::Infallible;
use std::io::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::NoEvents;

use crate::Counter;
use crate::bus::{BusDevice, fill_ones};
use crate::interrupt::InterruptLine;
use crate::serial_output::OutputBuffer;

pub use state::SerialState;

/// Ports of COM1.
pub const COM1_PORTS: RangeInclusive<u16> = 0x3F8..=0x3FF;
/// The ISA interrupt of COM1, edge-triggered.
pub const COM1_IRQ: u8 = 4;

const INTERRUPT_ENABLE: u8 = 1;
const MODEM_CONTROL: u8 = 4;
const MODEM_CONTROL_LOOPBACK: u8 = 1 << 4;
const REGISTERS: u8 = 8;
/// Room for input, of `vm_superio`.
const FIFO_BYTES: usize = 64;

/// The host is told of room only when it is worth a wake-up: half of the FIFO.
const INPUT_ROOM_BYTES: usize = 32;

/// What the serial port wants from the host. Called with the port locked: signal an eventfd, do not call back.
pub trait SerialHost: Send + Sync {
    /// An earlier [`Serial::enqueue`] filled the FIFO or did not take all; there is room again.
    fn input_room(&self);

    /// Bytes wait in the output buffer: call [`Serial::flush`] in a few milliseconds. Not repeated before that call.
    fn output_waiting(&self);
}

/// What went wrong.
#[derive(Debug, Default)]
pub struct SerialCounters {
    /// Output bytes that the sink did not take.
    pub lost_bytes: Counter,
    /// Interrupts that could not be raised.
    pub lost_interrupts: Counter,
}

/// Raises the interrupt. Outlives the UART, which a restore replaces.
struct LineTrigger {
    line: Arc<dyn InterruptLine>,
    counters: Arc<SerialCounters>,
}

impl Trigger for LineTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        if let Err(error) = self.line.trigger() {
            if self.counters.lost_interrupts.get() == 0 {
                tracing::warn!(%error, "serial: interrupt failed; further failures are only counted");
            }
            self.counters.lost_interrupts.one();
        }
        Ok(())
    }
}

/// The serial port. The FIFO control register is ignored, so a guest that opens the port does not throw away
/// input that already waits.
pub struct Serial {
    uart: vm_superio::Serial<LineTrigger, NoEvents, OutputBuffer>,
    host: Arc<dyn SerialHost>,
    /// The caller waits for [`SerialHost::input_room`].
    input_held: bool,
    /// The host knows that output waits.
    output_told: bool,
    loopback: bool,
    line: Arc<dyn InterruptLine>,
    counters: Arc<SerialCounters>,
}

impl Serial {
    /// A port that interrupts on `line` and writes to `sink`, which is best non-blocking and unbuffered.
    #[must_use]
    pub fn new(
        line: Arc<dyn InterruptLine>,
        sink: Box<dyn Write + Send>,
        host: Arc<dyn SerialHost>,
        counters: Arc<SerialCounters>,
    ) -> Self {
        let output = OutputBuffer::new(sink, Arc::clone(&counters));
        let trigger = LineTrigger { line: Arc::clone(&line), counters: Arc::clone(&counters) };
        Self {
            uart: vm_superio::Serial::new(trigger, output),
            host,
            input_held: false,
            output_told: false,
            loopback: false,
            line,
            counters,
        }
    }

    /// Gives `bytes` to the guest and says how many were taken, from the front. When the FIFO is full afterwards, or
    /// not all was taken, [`SerialHost::input_room`] follows once the guest has read.
    pub fn enqueue(&mut self, bytes: &[u8]) -> usize {
        let before = self.uart.fifo_capacity();
        if !self.loopback && before > 0 {
            // Fails without room only.
            let _ = self.uart.enqueue_raw_bytes(bytes);
        }
        let taken = before - self.uart.fifo_capacity();
        self.input_held |= taken < bytes.len() || !self.has_room();
        taken
    }

    /// Whether [`Self::enqueue`] would take at least one byte. In loopback mode it takes none.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.loopback && self.uart.fifo_capacity() > 0
    }

    /// Hands waiting output to the sink. Says whether some still waits because the sink would block: then call again
    /// later, [`SerialHost::output_waiting`] is not called for it.
    pub fn flush(&mut self) -> bool {
        self.uart.writer_mut().emit();
        self.output_told = self.uart.writer().is_waiting();
        self.output_told
    }

    fn tell_host(&mut self) {
        if self.input_held && !self.loopback && self.uart.fifo_capacity() >= INPUT_ROOM_BYTES {
            self.input_held = false;
            self.host.input_room();
        }
        if !self.output_told && self.uart.writer().is_waiting() {
            self.output_told = true;
            self.host.output_waiting();
        }
    }
}

/// The register at `offset`, if there is one: the port is 8 bits wide, other sizes hit nothing.
fn register(offset: u64, length: usize) -> Option<u8> {
    u8::try_from(offset).ok().filter(|register| *register < REGISTERS && length == 1)
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (register(offset, data.len()), data) {
            (Some(register), [value]) => {
                *value = self.uart.read(register);
                self.tell_host();
            }
            (_, data) => fill_ones(data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Some(register), &[value]) = (register(offset, data.len()), data) else { return };
        // Neither the line nor the buffer refuses: each counts what it loses.
        let _ = self.uart.write(register, value);
        match register {
            MODEM_CONTROL => self.loopback = value & MODEM_CONTROL_LOOPBACK != 0,
            INTERRUPT_ENABLE if !self.uart.writer().is_stalled() => self.uart.writer_mut().emit(),
            _ => {}
        }
        self.tell_host();
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
