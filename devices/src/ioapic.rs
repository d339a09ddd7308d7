//! The I/O APIC, for KVM's split irqchip: 24 pins, 82093AA data sheet, version 0x20 with an EOI register.
//!
//! It turns redirection entries into MSIs and leaves their delivery, and edges on pins with an irqfd, to a
//! [`MsiRouter`].

mod state;

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::Counter;
use crate::bus::{BusDevice, answer, written};
use crate::interrupt::{InterruptError, MsiMessage, MsiRouter};
use crate::redirection_entry::RedirectionEntry;

pub use state::{IoApicState, PinState};

/// Where the IOAPIC is expected: the default of the MP specification.
pub const IOAPIC_ADDRESSES: RangeInclusive<u64> = 0xFEC0_0000..=0xFEC0_0FFF;
/// Pins 0 to 23, which are GSIs 0 to 23.
pub const IOAPIC_PINS: u8 = 24;
/// The ID after reset, which the MADT has to repeat.
pub const IOAPIC_ID: u8 = 0;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;

const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_ARBITRATION: u8 = 0x02;
const REGISTER_REDIRECTION: u8 = 0x10;

/// The first version with an EOI register.
const VERSION: u32 = 0x20;
const ID_SHIFT: u32 = 24;
const ID_MASK: u8 = 0x0F;

#[derive(Clone, Copy)]
struct Pin {
    entry: RedirectionEntry,
    asserted: bool,
    /// What the router was told last.
    routed: Option<MsiMessage>,
}

enum Register {
    Id,
    Version,
    Arbitration,
    EntryLow(u8),
    EntryHigh(u8),
    Reserved,
}

/// The I/O APIC. Registers are 32 bits wide; a narrower or wider access acts on the low bytes, extended with
/// zeros, as KVM's in-kernel IOAPIC does.
pub struct IoApic {
    router: Arc<dyn MsiRouter>,
    select: u8,
    id: u8,
    pins: [Pin; IOAPIC_PINS as usize],
    lost_interrupts: Arc<Counter>,
}

impl IoApic {
    /// As after power-on: every pin masked, so the router hears nothing yet. What the router refuses is counted in
    /// `lost_interrupts`.
    #[must_use]
    pub fn new(router: Arc<dyn MsiRouter>, lost_interrupts: Arc<Counter>) -> Self {
        let pin = Pin { entry: RedirectionEntry::RESET, asserted: false, routed: None };
        Self { router, select: 0, id: IOAPIC_ID, pins: [pin; IOAPIC_PINS as usize], lost_interrupts }
    }

    /// Drives `pin` active. An edge-triggered pin sends its message at each change from inactive, if unmasked (the
    /// data sheet ignores edges on masked pins); a level-triggered one sends it whenever it is unmasked and no
    /// earlier message awaits its end of interrupt. A pin that does not exist is ignored.
    pub fn assert(&mut self, pin: u8) {
        let Some(state) = self.pins.get_mut(usize::from(pin)) else { return };
        let rising = !state.asserted;
        state.asserted = true;
        if state.entry.is_level() {
            self.send_level(pin);
        } else if rising && let Some(message) = state.entry.message() {
            let sent = self.router.signal(message);
            self.note(sent);
        }
    }

    /// Drives `pin` inactive.
    pub fn deassert(&mut self, pin: u8) {
        if let Some(state) = self.pins.get_mut(usize::from(pin)) {
            state.asserted = false;
        }
    }

    /// A local APIC ended an interrupt with `vector` (KVM_EXIT_IOAPIC_EOI, or the EOI register): level-triggered
    /// pins with that vector may send again, and do if they are still asserted.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..IOAPIC_PINS {
            let Some(state) = self.pins.get_mut(usize::from(pin)) else { return };
            if state.entry.is_level() && state.entry.vector() == vector && state.entry.remote_irr() {
                state.entry.set_remote_irr(false);
                self.route(pin);
                self.send_level(pin);
            }
        }
    }

    fn register(&self) -> Register {
        match self.select {
            REGISTER_ID => Register::Id,
            REGISTER_VERSION => Register::Version,
            REGISTER_ARBITRATION => Register::Arbitration,
            REGISTER_REDIRECTION.. => {
                let pin = (self.select - REGISTER_REDIRECTION) / 2;
                match (pin < IOAPIC_PINS, self.select % 2) {
                    (true, 0) => Register::EntryLow(pin),
                    (true, _) => Register::EntryHigh(pin),
                    (false, _) => Register::Reserved,
                }
            }
            _ => Register::Reserved,
        }
    }

    fn read_register(&self) -> u32 {
        let entry = |pin: u8| self.pins.get(usize::from(pin)).map(|state| state.entry);
        match self.register() {
            // The arbitration ID is loaded from the ID.
            Register::Id | Register::Arbitration => u32::from(self.id) << ID_SHIFT,
            Register::Version => VERSION | u32::from(IOAPIC_PINS - 1) << 16,
            Register::EntryLow(pin) => entry(pin).map_or(0, RedirectionEntry::low),
            Register::EntryHigh(pin) => entry(pin).map_or(0, RedirectionEntry::high),
            Register::Reserved => 0,
        }
    }

    fn write_register(&mut self, value: u32) {
        match self.register() {
            Register::Id => self.id = value.to_le_bytes()[3] & ID_MASK,
            Register::EntryLow(pin) => self.change_entry(pin, |entry| entry.set_low(value)),
            Register::EntryHigh(pin) => self.change_entry(pin, |entry| entry.set_high(value)),
            Register::Version | Register::Arbitration | Register::Reserved => {}
        }
    }

    fn change_entry(&mut self, pin: u8, change: impl FnOnce(&mut RedirectionEntry)) {
        let Some(state) = self.pins.get_mut(usize::from(pin)) else { return };
        change(&mut state.entry);
        self.route(pin);
        self.send_level(pin);
    }

    /// Tells the router what `pin` sends now. A level-triggered pin that is masked keeps its route until its end of
    /// interrupt: KVM reports that only for vectors in its routing table, and Linux masks before it acknowledges.
    fn route(&mut self, pin: u8) {
        let Some(state) = self.pins.get(usize::from(pin)) else { return };
        let message = state.entry.message();
        if message.is_some() || !state.entry.remote_irr() {
            self.route_to(pin, message);
        }
    }

    fn route_to(&mut self, pin: u8, message: Option<MsiMessage>) {
        let Some(state) = self.pins.get_mut(usize::from(pin)).filter(|state| state.routed != message) else {
            return;
        };
        let set = self.router.set(pin, message);
        if set.is_ok() {
            state.routed = message;
        }
        self.note(set);
    }

    /// Sends the message of a level-triggered pin if it is due.
    fn send_level(&mut self, pin: u8) {
        let Some(state) = self.pins.get_mut(usize::from(pin)) else { return };
        if !state.entry.is_level() || !state.asserted || state.entry.remote_irr() {
            return;
        }
        let Some(message) = state.entry.message() else { return };
        let sent = self.router.signal(message);
        // What was not sent is never ended: leave the pin free to try again.
        state.entry.set_remote_irr(sent.is_ok());
        self.note(sent);
    }

    fn note(&mut self, result: Result<(), InterruptError>) {
        let Err(error) = result else { return };
        if self.lost_interrupts.get() == 0 {
            tracing::warn!(%error, "ioapic: interrupt failed; further failures are only counted");
        }
        self.lost_interrupts.one();
    }
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        answer(data, u64::from(value));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = written(data) else { return };
        let [byte0, byte1, byte2, byte3, ..] = value.to_le_bytes();
        match offset {
            IOREGSEL => self.select = byte0,
            IOWIN => self.write_register(u32::from_le_bytes([byte0, byte1, byte2, byte3])),
            EOI => self.end_of_interrupt(byte0),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "ioapic_tests.rs"]
mod tests;
