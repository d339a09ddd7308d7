//! How a device interrupts the guest: an edge on a line, or an MSI that an interrupt controller routes.
//!
//! Who carries it (an eventfd, KVM's routing table, KVM_SIGNAL_MSI) is left to `vmm`.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The host could not deliver an interrupt or change its route.
#[derive(Debug, Error)]
pub enum InterruptError {
    /// A line could not be signalled.
    #[error("signal an interrupt line: {0}")]
    Signal(#[source] io::Error),
    /// The route of an IOAPIC pin could not be changed.
    #[error("route ioapic pin {pin}: {source}")]
    Route {
        /// The pin, from 0.
        pin: u8,
        /// What the host said.
        source: io::Error,
    },
    /// A message could not be sent.
    #[error("send an msi to {address:#x}: {source}")]
    Message {
        /// The message's address as the guest sees it.
        address: u64,
        /// What the host said.
        source: io::Error,
    },
}

impl InterruptError {
    /// A name for the error that does not change between versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Signal(_) => "interrupt_signal",
            Self::Route { .. } => "interrupt_route",
            Self::Message { .. } => "interrupt_message",
        }
    }
}

/// An edge-triggered line into an interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises one edge. Does not block.
    ///
    /// # Errors
    /// [`InterruptError::Signal`] if the host refused.
    fn trigger(&self) -> Result<(), InterruptError>;
}

/// Where the IOAPIC sends its pins. Called with the IOAPIC locked, from the vCPU thread that changed the entry:
/// the implementation must not call back into the IOAPIC.
pub trait MsiRouter: Send + Sync {
    /// From now on an edge on `pin` (its GSI) sends `message`; with `None` it goes nowhere. Every pin starts with
    /// `None`. Called only when the message differs from the last one, because changing routes is dear.
    ///
    /// Level-triggered messages must be in KVM's table too: KVM_EXIT_IOAPIC_EOI is raised for those only. That is
    /// why a level-triggered pin that is masked while in service gets its `None` only with its end of interrupt.
    ///
    /// # Errors
    /// [`InterruptError::Route`] if the host refused; the old route is then still in force.
    fn set(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), InterruptError>;

    /// Sends `message` now, once; used for pins driven through [`IoApic::assert`](crate::IoApic::assert).
    ///
    /// # Errors
    /// [`InterruptError::Message`] if the host refused.
    fn signal(&self, message: MsiMessage) -> Result<(), InterruptError>;
}

/// A message-signalled interrupt as the guest writes it: Intel SDM volume 3, "Message Signalled Interrupts" (address and data
/// register formats), with the extended destination ID of KVM_FEATURE_MSI_EXT_DEST_ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsiMessage {
    /// Message address: 0xFEE in bits 31:20, destination bits 7:0 in 19:12 and 14:8 in 11:5.
    pub address: u64,
    /// Message data: trigger mode bit 15, level bit 14, delivery mode bits 10:8, vector bits 7:0.
    pub data: u32,
}

/// Bits 11:5 of the message address: destination bits 14:8.
const EXTENDED_DESTINATION: u64 = 0x7F << 5;
/// Bit 4: the message is in the remappable format, its other bits mean something else.
const REMAPPABLE: u64 = 1 << 4;
/// From message address bit 5 (destination bit 8) to bit 40, where KVM looks for it.
const EXTENDED_TO_KVM_SHIFT: u32 = 35;

impl MsiMessage {
    /// The address as KVM_SET_GSI_ROUTING and KVM_SIGNAL_MSI want it: destination bits above 7 in the high word
    /// (bits 63:40). KVM itself does not look at address bits 11:5, the one who offers
    /// KVM_FEATURE_MSI_EXT_DEST_ID translates; and KVM heeds the high word only with KVM_CAP_X2APIC_API and
    /// KVM_X2APIC_API_USE_32BIT_IDS. Messages in remappable format or with a high word stay as they are.
    #[must_use]
    pub fn kvm_address(self) -> u64 {
        if self.address & REMAPPABLE != 0 || self.address >> 32 != 0 {
            return self.address;
        }
        let extended = self.address & EXTENDED_DESTINATION;
        (self.address & !EXTENDED_DESTINATION) | (extended << EXTENDED_TO_KVM_SHIFT)
    }

    /// The destination the guest wrote, 15 bits: an APIC ID in physical mode.
    #[must_use]
    pub fn destination(self) -> u32 {
        let [_, byte1, byte2, ..] = self.address.to_le_bytes();
        let low = u32::from(byte2 & 0x0F) << 4 | u32::from(byte1 >> 4);
        let [byte0, ..] = self.address.to_le_bytes();
        let high = u32::from(byte1 & 0x0F) << 3 | u32::from(byte0 >> 5);
        high << 8 | low
    }

    /// The interrupt vector.
    #[must_use]
    pub fn vector(self) -> u8 {
        self.data.to_le_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_destination_below_256_is_the_same_for_kvm() {
        let message = MsiMessage { address: 0xFEE0_3004, data: 0x41 };
        assert_eq!(message.kvm_address(), 0xFEE0_3004);
        assert_eq!(message.destination(), 3);
        assert_eq!(message.vector(), 0x41);
    }

    #[test]
    fn destination_bits_above_7_go_to_the_high_word_for_kvm() {
        // APIC ID 0x123: 0x23 in bits 19:12, 0x01 in bits 11:5.
        let message = MsiMessage { address: 0xFEE2_3020, data: 0 };
        assert_eq!(message.destination(), 0x123);
        assert_eq!(message.kvm_address(), 0x0000_0100_FEE2_3000);
    }

    #[test]
    fn remappable_messages_are_left_alone() {
        let message = MsiMessage { address: 0xFEE2_3030, data: 0 };
        assert_eq!(message.kvm_address(), 0xFEE2_3030);
    }

    proptest! {
        #[test]
        fn every_15_bit_destination_survives(destination in 0_u32..0x8000) {
            let (low, high) = (u64::from(destination & 0xFF), u64::from(destination >> 8));
            let message = MsiMessage { address: 0xFEE0_0000 | low << 12 | high << 5, data: 0 };
            prop_assert_eq!(message.destination(), destination);
            // KVM: x86_msi_msg_get_destid, address bits 19:12 and address_hi bits 31:8.
            let kvm = message.kvm_address();
            prop_assert_eq!((kvm >> 12) & 0xFF | (kvm >> 40) << 8, u64::from(destination));
            prop_assert_eq!(kvm & 0xFFF0_0FFF, 0xFEE0_0000);
        }
    }
}
