//! The I/O APIC's state: its redirection table and its pins. What the host routes follows from it.

use serde::{Deserialize, Serialize};

use super::{ID_MASK, IOAPIC_ID, IOAPIC_PINS, IoApic};
use crate::interrupt::MsiMessage;
use crate::redirection_entry::RedirectionEntry;
use crate::state::{State, StateError, ensure};

const PINS: usize = IOAPIC_PINS as usize;

/// State of an [`IoApic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoApicState {
    /// IOREGSEL.
    pub select: u8,
    /// The ID, 4 bits.
    pub id: u8,
    /// The pins from 0 on, 24.
    pub pins: Vec<PinState>,
}

/// State of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinState {
    /// Bits 31:0 of the redirection entry, with the remote IRR.
    pub low: u32,
    /// Bits 63:32 of it.
    pub high: u32,
    /// The pin is driven active.
    pub asserted: bool,
    /// What a level-triggered pin that was masked in service still has in KVM's routing table, until its end of interrupt.
    pub in_service: Option<MsiMessage>,
}

impl State for IoApicState {
    const NAME: &'static str = "ioapic";
    const VERSION: u32 = 1;
}

impl IoApicState {
    /// As a guest finds it: every pin masked.
    #[must_use]
    pub fn power_on() -> Self {
        let RedirectionEntry { low, high } = RedirectionEntry::RESET;
        let pin = PinState { low, high, asserted: false, in_service: None };
        Self { select: 0, id: IOAPIC_ID, pins: vec![pin; PINS] }
    }

    /// The pins, if they can be so.
    fn entries(&self) -> Result<[(RedirectionEntry, PinState); PINS], StateError> {
        ensure::<Self>(self.id & !ID_MASK == 0, "id", self.id, "must be 0 to 15")?;
        let pins: Option<&[PinState; PINS]> = self.pins.first_chunk().filter(|_| self.pins.len() == PINS);
        let count = || StateError::value::<Self>("pins", self.pins.len(), "must be 24 pins");
        let mut entries = [(RedirectionEntry::RESET, PinState::MASKED); PINS];
        for (number, (pin, entry)) in pins.ok_or_else(count)?.iter().zip(&mut entries).enumerate() {
            *entry = (pin.entry(number)?, *pin);
        }
        Ok(entries)
    }
}

impl PinState {
    const MASKED: Self = Self { low: 0, high: 0, asserted: false, in_service: None };

    fn entry(&self, number: usize) -> Result<RedirectionEntry, StateError> {
        let Self { low, high, in_service, .. } = *self;
        let value = format_args!("{low:#x}, {high:#x}");
        let entry = RedirectionEntry::from_registers(low, high);
        let entry = entry.ok_or_else(|| {
            let rule = "must be an entry as it reads: no reserved bits, remote IRR if level-triggered only";
            StateError::value::<IoApicState>(format!("pins[{number}]"), value, rule)
        })?;
        ensure::<IoApicState>(
            in_service.is_none() || (entry.is_masked() && entry.remote_irr()),
            format!("pins[{number}].in_service"),
            value,
            "must be null unless the pin is masked and has its remote IRR set",
        )?;
        Ok(entry)
    }
}

impl IoApic {
    /// The state now.
    #[must_use]
    pub fn save(&self) -> IoApicState {
        let pin = |pin: &super::Pin| {
            let in_service = pin.routed.filter(|_| pin.entry.is_masked() && pin.entry.remote_irr());
            PinState { low: pin.entry.low(), high: pin.entry.high(), asserted: pin.asserted, in_service }
        };
        IoApicState { select: self.select, id: self.id, pins: self.pins.iter().map(pin).collect() }
    }

    /// Puts the I/O APIC into `state`, and tells the router what has changed by that. The local APICs have their state
    /// already: a level-triggered pin that is asserted and not in service sends its message.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed.
    pub fn restore(&mut self, state: &IoApicState) -> Result<(), StateError> {
        let entries = state.entries()?;
        (self.select, self.id) = (state.select, state.id);
        for (number, (entry, pin)) in (0..IOAPIC_PINS).zip(entries) {
            if let Some(own) = self.pins.get_mut(usize::from(number)) {
                (own.entry, own.asserted) = (entry, pin.asserted);
            }
            self.route_to(number, entry.message().or(pin.in_service));
            self.send_level(number);
        }
        Ok(())
    }

    /// As at power-on.
    pub fn reset(&mut self) {
        // Refused for no state that an I/O APIC has been in.
        let _ = self.restore(&IoApicState::power_on());
    }
}
