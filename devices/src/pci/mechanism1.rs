//! PCI configuration mechanism #1: ports 0xCF8 and 0xCFC as a second way into segment 0's configuration space (PCI local
//! bus specification 3.0, 3.2.2.3.2). Linux looks for it before it believes MCFG, and complains without it.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::bus::{ConcurrentBusDevice, SharedDevice, answer, fill_ones, written};
use crate::state::{State, StateError, ensure};

/// The address register and the data window.
pub const MECHANISM1_PORTS: RangeInclusive<u16> = 0xCF8..=0xCFF;

const DATA: u64 = 4;
const ENABLE: u32 = 1 << 31;
/// Bits 30:24 are reserved, bits 1:0 are zero: what a driver may find again after writing.
const WRITABLE: u32 = 0x80FF_FFFC;
/// The registers below 256 of each function: offset in ECAM from bus, device and function in bits 23:8, register in 7:2.
const BUS_SHIFT: u32 = 16;
const FUNCTION_SHIFT: u32 = 8;
const ECAM_FUNCTION_SHIFT: u32 = 12;

/// State of a [`Mechanism1`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mechanism1State {
    /// The address register, without its reserved bits.
    pub address: u32,
}

impl State for Mechanism1State {
    const NAME: &'static str = "pci-mechanism1";
    const VERSION: u32 = 1;
}

impl Mechanism1State {
    /// As a guest finds it.
    #[must_use]
    pub fn power_on() -> Self {
        Self::default()
    }
}

/// The ports. Nothing is locked while a function answers, which may take as long as its requests in flight.
pub struct Mechanism1 {
    address: AtomicU32,
    configuration: SharedDevice,
}

impl Mechanism1 {
    /// Ports in front of a segment's configuration space, bus 0.
    #[must_use]
    pub fn new(configuration: SharedDevice) -> Self {
        Self { address: AtomicU32::new(0), configuration }
    }

    /// The state now.
    #[must_use]
    pub fn save(&self) -> Mechanism1State {
        Mechanism1State { address: self.address.load(Ordering::Acquire) }
    }

    /// Puts the ports into `state`.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed.
    pub fn restore(&self, state: &Mechanism1State) -> Result<(), StateError> {
        let address = state.address;
        ensure::<Mechanism1State>(
            address & !WRITABLE == 0,
            "address",
            format_args!("{address:#x}"),
            "must have bits 30:24 and 1:0 clear",
        )?;
        self.address.store(address, Ordering::Release);
        Ok(())
    }

    /// As at power-on.
    pub fn reset(&self) {
        // Refused for no state that the ports have been in.
        let _ = self.restore(&Mechanism1State::power_on());
    }

    /// Where in ECAM an access to the data window goes; `None` where the address names nothing on bus 0.
    fn target(&self, offset: u64, length: usize) -> Option<u64> {
        let byte = offset.checked_sub(DATA)?;
        let fits = u64::try_from(length).is_ok_and(|length| byte + length <= 4);
        let address = self.address.load(Ordering::Acquire);
        let bus = address >> BUS_SHIFT & 0xFF;
        if address & ENABLE == 0 || bus != 0 || !fits {
            return None;
        }
        let function = u64::from(address >> FUNCTION_SHIFT & 0xFF);
        Some(function << ECAM_FUNCTION_SHIFT | u64::from(address & 0xFC) | byte)
    }
}

impl ConcurrentBusDevice for Mechanism1 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => answer(data, u64::from(self.address.load(Ordering::Acquire))),
            (_, length) => match self.target(offset, length) {
                Some(target) => self.configuration.read(target, data),
                None => fill_ones(data),
            },
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data.len()) {
            (0, 4) => {
                let value = written(data).and_then(|value| u32::try_from(value).ok());
                self.address.store(value.unwrap_or(0) & WRITABLE, Ordering::Release);
            }
            (_, length) => {
                if let Some(target) = self.target(offset, length) {
                    self.configuration.write(target, data);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Mechanism1, Mechanism1State, WRITABLE};
    use crate::bus::ConcurrentBusDevice;
    use crate::pci::PciSegmentBuilder;

    fn ports() -> Mechanism1 {
        Mechanism1::new(PciSegmentBuilder::new(0, 0x1_0000_0000..=0x1_0FFF_FFFF).build().ecam())
    }

    fn read(ports: &Mechanism1, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        ports.read(offset, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    #[test]
    fn linux_finds_mechanism_1_and_the_host_bridge() {
        let ports = ports();
        // pci_check_type1: the byte at 0xCFB does nothing, the address reads back.
        ports.write(3, &[1]);
        ports.write(0, &0x8000_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 0, 4), 0x8000_0000);
        // Vendor, and the class at register 0x0A: a host bridge.
        assert_eq!(read(&ports, 4, 2), 0x8086);
        ports.write(0, &0x8000_0008_u32.to_le_bytes());
        assert_eq!(read(&ports, 6, 2), 0x0600);
    }

    #[test]
    fn other_buses_and_a_closed_window_read_all_ones() {
        let ports = ports();
        assert_eq!(read(&ports, 4, 4), 0xFFFF_FFFF);
        ports.write(0, &0x8001_0000_u32.to_le_bytes());
        assert_eq!(read(&ports, 4, 4), 0xFFFF_FFFF);
    }

    proptest! {
        #[test]
        fn an_address_that_reads_back_is_restored_and_no_other(address: u32) {
            let (ports, other) = (ports(), self::ports());
            ports.write(0, &address.to_le_bytes());
            prop_assert_eq!(other.restore(&ports.save()), Ok(()));
            prop_assert_eq!(read(&other, 0, 4), read(&ports, 0, 4));
            let refused = other.restore(&Mechanism1State { address });
            prop_assert_eq!(refused.is_ok(), address & !WRITABLE == 0);
            other.reset();
            prop_assert_eq!(read(&other, 0, 4), 0);
        }

        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((0_u64..8, any::<u32>(), 0_usize..5, any::<bool>()), 0..40)) {
            let ports = ports();
            for (offset, value, length, write) in accesses {
                let mut data = value.to_le_bytes();
                if write { ports.write(offset, &data[..length]) } else { ports.read(offset, &mut data[..length]) }
            }
        }
    }
}
