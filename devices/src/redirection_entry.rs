//! One redirection table entry of the IOAPIC and the MSI it stands for: 82093AA data sheet, 3.2.4.
//!
//! When it is sent is left to [`IoApic`](crate::IoApic).

use crate::interrupt::MsiMessage;

const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;
const LOGICAL_DESTINATION: u32 = 1 << 11;
const MASKED: u32 = 1 << 16;
const VECTOR_AND_DELIVERY_MODE: u32 = 0x7FF;

/// Vector, delivery mode, destination mode, polarity, trigger mode, mask. Not delivery status (bit 12) and remote
/// IRR (bit 14), which are read-only, nor what is reserved.
const WRITABLE_LOW: u32 = 0x0001_AFFF;
/// Destination (bits 63:56) and extended destination (bits 55:49).
const WRITABLE_HIGH: u32 = 0xFFFE_0000;

/// Address of the local APICs' message window.
const MSI_BASE: u64 = 0xFEE0_0000;
const MSI_LOGICAL_DESTINATION: u64 = 1 << 2;
const MSI_LEVEL_ASSERT: u32 = 1 << 14;

/// A redirection table entry as its two registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedirectionEntry {
    pub(crate) low: u32,
    pub(crate) high: u32,
}

impl RedirectionEntry {
    /// As after power-on: masked, all else zero.
    pub(crate) const RESET: Self = Self { low: MASKED, high: 0 };

    /// An entry that reads as these registers, if one can.
    pub(crate) fn from_registers(low: u32, high: u32) -> Option<Self> {
        let entry = Self { low, high };
        let readable = low & !(WRITABLE_LOW | REMOTE_IRR) == 0 && high & !WRITABLE_HIGH == 0;
        (readable && (entry.is_level() || !entry.remote_irr())).then_some(entry)
    }

    pub(crate) fn low(self) -> u32 {
        self.low
    }

    pub(crate) fn high(self) -> u32 {
        self.high
    }

    /// An entry that becomes edge-triggered loses its remote IRR: Linux clears it that way on IOAPICs without an
    /// EOI register, and KVM's in-kernel IOAPIC does the same.
    pub(crate) fn set_low(&mut self, value: u32) {
        self.low = (value & WRITABLE_LOW) | (self.low & REMOTE_IRR);
        if !self.is_level() {
            self.set_remote_irr(false);
        }
    }

    pub(crate) fn set_high(&mut self, value: u32) {
        self.high = value & WRITABLE_HIGH;
    }

    pub(crate) fn vector(self) -> u8 {
        self.low.to_le_bytes()[0]
    }

    pub(crate) fn is_masked(self) -> bool {
        self.low & MASKED != 0
    }

    pub(crate) fn is_level(self) -> bool {
        self.low & LEVEL != 0
    }

    pub(crate) fn remote_irr(self) -> bool {
        self.low & REMOTE_IRR != 0
    }

    pub(crate) fn set_remote_irr(&mut self, pending: bool) {
        if pending {
            self.low |= REMOTE_IRR;
        } else {
            self.low &= !REMOTE_IRR;
        }
    }

    /// What the entry sends, `None` while it is masked. Polarity is not in it: pins are asserted or not.
    pub(crate) fn message(self) -> Option<MsiMessage> {
        if self.is_masked() {
            return None;
        }
        // Entry bits 63:49 are address bits 19:5, in the same order.
        let mut address = MSI_BASE | u64::from(self.high >> 12);
        if self.low & LOGICAL_DESTINATION != 0 {
            address |= MSI_LOGICAL_DESTINATION;
        }
        let mut data = self.low & VECTOR_AND_DELIVERY_MODE;
        if self.is_level() {
            data |= LEVEL | MSI_LEVEL_ASSERT;
        }
        Some(MsiMessage { address, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(low: u32, high: u32) -> RedirectionEntry {
        let mut entry = RedirectionEntry::RESET;
        entry.set_high(high);
        entry.set_low(low);
        entry
    }

    #[test]
    fn a_masked_entry_sends_nothing() {
        assert_eq!(RedirectionEntry::RESET.message(), None);
        assert_eq!(entry(0x0001_0030, 0x0100_0000).message(), None);
    }

    #[test]
    fn a_fixed_edge_entry_to_a_physical_apic_id() {
        let message = MsiMessage { address: 0xFEE0_5000, data: 0x30 };
        assert_eq!(entry(0x30, 0x0500_0000).message(), Some(message));
    }

    #[test]
    fn a_lowest_priority_level_entry_to_a_logical_destination() {
        let message = MsiMessage { address: 0xFEEF_F004, data: 0xC1A5 };
        assert_eq!(entry(0xA9A5, 0xFF00_0000).message(), Some(message));
    }

    #[test]
    fn the_extended_destination_goes_to_address_bits_11_to_5() {
        // APIC ID 0x7FFF and 0x100.
        let all = MsiMessage { address: 0xFEEF_FFE0, data: 0x30 };
        assert_eq!(entry(0x30, 0xFFFE_0000).message(), Some(all));
        let one = MsiMessage { address: 0xFEE0_0020, data: 0x30 };
        assert_eq!(entry(0x30, 0x0002_0000).message(), Some(one));
    }

    #[test]
    fn read_only_and_reserved_bits_cannot_be_written() {
        let entry = entry(0xFFFF_FFFF, 0xFFFF_FFFF);
        assert_eq!((entry.low(), entry.high()), (0x0001_AFFF, 0xFFFE_0000));
    }

    #[test]
    fn becoming_edge_triggered_clears_the_remote_irr() {
        let mut entry = entry(0x8030, 0);
        entry.set_remote_irr(true);
        entry.set_low(0x8031);
        assert!(entry.remote_irr());
        entry.set_low(0x0031);
        assert!(!entry.remote_irr());
    }
}
