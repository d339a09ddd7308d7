//! The 4 KiB configuration space of a type 0 function (PCI Express Base Specification 6.0, 7.5.1 and 7.7): bytes, and
//! which of their bits the guest may change. What a change leads to is left to the function.

mod state;

use thiserror::Error;

use super::bar::{Bar, BarError, Bars};
use crate::bus::fill_ones;
use state::WritableCapability;

pub use state::{BarState, CapabilityState, ConfigSpaceState};

/// Bytes of a function's configuration space.
pub const CONFIG_BYTES: usize = 4096;

/// Where the registers are (PCI Express Base Specification 6.0, 7.5.1.1 and 7.5.1.2).
pub(super) mod register {
    pub const VENDOR: usize = 0x00;
    pub const DEVICE: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const CLASS: usize = 0x09;
    pub const CACHE_LINE: usize = 0x0C;
    pub const BAR0: usize = 0x10;
    pub const BARS_END: usize = 0x28;
    pub const SUBSYSTEM_VENDOR: usize = 0x2C;
    pub const SUBSYSTEM: usize = 0x2E;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3C;
    /// First byte for capabilities.
    pub const CAPABILITIES_FIRST: usize = 0x40;
    /// One past the last: where extended capabilities would begin.
    pub const CAPABILITIES_END: usize = 0x100;
}

/// Command register: the function answers at its memory BARs.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the function may read and write memory, and send messages.
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Parity error response and SERR# enable do nothing here, but software expects to set them. So does interrupt disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | COMMAND_BUS_MASTER | 1 << 6 | 1 << 8 | 1 << 10;
/// Status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What the function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass and programming interface in bits 23:16, 15:8 and 7:0.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// The configuration space has no room for what was to be put there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("capability {id:#x} of {bytes} bytes does not fit below {:#x}", register::CAPABILITIES_END)]
pub struct CapabilityError {
    /// The capability's ID.
    pub id: u8,
    /// Its bytes with the header.
    pub bytes: usize,
}

/// What the command register allows a function to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// To answer at its memory BARs.
    pub memory: bool,
    /// To read and write memory and to send messages.
    pub bus_master: bool,
}

/// A function's configuration space. Interrupt pin is 0: there is no INTx to fall back to.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_BYTES]>,
    /// Bits that the guest may change.
    writable: Box<[u8; CONFIG_BYTES]>,
    /// What [`reset`](Self::reset) goes back to; as it is now while nobody has written.
    power_on: ConfigSpaceState,
    bars: Bars,
    capabilities: Vec<WritableCapability>,
    /// Where the number of the next capability goes, and where that may begin.
    link: usize,
    free: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities. Memory decoding is on, as firmware would leave it.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let zeros = Box::new([0; CONFIG_BYTES]);
        let mut config = Self {
            bytes: zeros.clone(),
            writable: zeros,
            power_on: ConfigSpaceState::default(),
            bars: Bars::default(),
            capabilities: Vec::new(),
            link: register::CAPABILITIES,
            free: register::CAPABILITIES_FIRST,
        };
        let [interface, subclass, base, _] = identity.class.to_le_bytes();
        config.show(register::VENDOR, &identity.vendor.to_le_bytes());
        config.show(register::DEVICE, &identity.device.to_le_bytes());
        config.show(register::COMMAND, &COMMAND_MEMORY.to_le_bytes());
        config.show(register::REVISION, &[identity.revision]);
        config.show(register::CLASS, &[interface, subclass, base]);
        config.show(register::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        config.show(register::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        config.allow(register::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        config.allow(register::CACHE_LINE, &[0xFF]);
        config.allow(register::INTERRUPT_LINE, &[0xFF]);
        config.power_on = config.save();
        config
    }

    /// Adds a 64-bit prefetchable memory BAR of `size` bytes in registers `index` and `index + 1`. It has no address
    /// yet.
    ///
    /// # Errors
    /// [`BarError`] if there is no such pair, one of it is taken, or the size is no power of two of at least 16.
    pub fn add_bar(&mut self, index: u8, size: u64) -> Result<(), BarError> {
        let (offset, fixed, writable) = self.bars.add(index, size)?;
        self.show(offset, &fixed.to_le_bytes());
        self.allow(offset, &writable.to_le_bytes());
        self.power_on = self.save();
        Ok(())
    }

    /// The BARs, ascending by index.
    #[must_use]
    pub fn bars(&self) -> &[Bar] {
        self.bars.list()
    }

    /// Gives BAR `index` an address, as firmware does before the guest starts; it is kept across resets.
    pub fn place_bar(&mut self, index: u8, address: u64) {
        if let Some((offset, fixed)) = self.bars.register(index, address) {
            self.show(offset, &fixed.to_le_bytes());
            self.power_on = self.save();
        }
    }

    /// Where BAR `index` would answer by its registers; `None` while memory decoding is off, or without such a BAR.
    #[must_use]
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let (offset, _) = self.bars.register(index, 0)?;
        self.command().memory.then(|| Bars::address(self.u64_at(offset)))
    }

    /// Adds a capability behind those that are there and says where it begins. `body` comes after the two bytes of
    /// header; `writable` has the bits of it that the guest may change.
    ///
    /// # Errors
    /// [`CapabilityError`] if it does not fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<usize, CapabilityError> {
        let bytes = body.len() + 2;
        let error = CapabilityError { id, bytes };
        let start = self.free;
        let end = start.checked_add(bytes).filter(|end| *end <= register::CAPABILITIES_END);
        let (Some(end), Ok(pointer)) = (end, u8::try_from(start)) else { return Err(error) };
        self.show(self.link, &[pointer]);
        self.show(start, &[id, 0]);
        self.show(start + 2, body);
        let writable = writable.get(..body.len()).unwrap_or(writable);
        self.allow(start + 2, writable);
        if writable.iter().any(|bits| *bits != 0) {
            self.capabilities.push(WritableCapability { id, body: start + 2, end });
        }
        self.show(register::STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.link = start + 1;
        self.free = end.next_multiple_of(4);
        self.power_on = self.save();
        Ok(start)
    }

    /// What the command register allows.
    #[must_use]
    pub fn command(&self) -> Command {
        let command = u16::from_le_bytes([self.bytes[register::COMMAND], self.bytes[register::COMMAND + 1]]);
        Command { memory: command & COMMAND_MEMORY != 0, bus_master: command & COMMAND_BUS_MASTER != 0 }
    }

    /// Reads any bytes; all-ones if they do not all lie in the space.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let start = usize::from(offset);
        match self.bytes.get(start..start + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => fill_ones(data),
        }
    }

    /// Writes the bits that the guest may change; nothing if the bytes do not all lie in the space.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let range = usize::from(offset)..usize::from(offset) + data.len();
        let (Some(bytes), Some(writable)) = (self.bytes.get_mut(range.clone()), self.writable.get(range))
        else {
            return;
        };
        for ((byte, mask), new) in bytes.iter_mut().zip(writable).zip(data) {
            *byte = (*byte & !mask) | (new & mask);
        }
    }

    /// Changes bytes for a function that shows values of its own there.
    pub fn show(&mut self, offset: usize, data: &[u8]) {
        if let Some(bytes) = self.bytes.get_mut(offset..offset + data.len()) {
            bytes.copy_from_slice(data);
        }
    }

    /// `N` bytes from `offset` on; zeros past the end.
    #[must_use]
    pub fn bytes_at<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.bytes.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes_at(offset))
    }

    fn allow(&mut self, offset: usize, bits: &[u8]) {
        if let Some(bytes) = self.writable.get_mut(offset..offset + bits.len()) {
            bytes.copy_from_slice(bits);
        }
    }
}

/// Whether a write of `length` bytes at `offset` may change where a function answers.
pub(super) fn touches_decoding(offset: u16, length: usize) -> bool {
    let (first, end) = (usize::from(offset), usize::from(offset) + length);
    let touches = |from: usize, to: usize| first < to && from < end;
    touches(register::COMMAND, register::STATUS) || touches(register::BAR0, register::BARS_END)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
