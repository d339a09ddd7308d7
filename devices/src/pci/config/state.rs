//! The state of a configuration space: what of it a guest can write.

use serde::{Deserialize, Serialize};

use super::{COMMAND_WRITABLE, ConfigSpace, register};
use crate::pci::Bar;
use crate::pci::bar::{self, Bars};
use crate::state::{HexBytes, State, StateError, ensure};

/// State of a [`ConfigSpace`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigSpaceState {
    /// The command register.
    pub command: u16,
    /// The cache line size register.
    pub cache_line_size: u8,
    /// The interrupt line register.
    pub interrupt_line: u8,
    /// The BARs, ascending.
    pub bars: Vec<BarState>,
    /// The capabilities in which something can be written, in the order of the list.
    pub capabilities: Vec<CapabilityState>,
}

/// A BAR's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BarState {
    /// The first of its registers.
    pub index: u8,
    /// Its address there, a multiple of its size.
    pub address: u64,
}

/// A capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityState {
    /// Its ID.
    pub id: u8,
    /// Where it begins.
    pub offset: u8,
    /// What is behind its header, bits that cannot be written as zeros.
    pub body: HexBytes,
}

impl State for ConfigSpaceState {
    const NAME: &'static str = "pci-config";
    const VERSION: u32 = 1;
}

/// A capability with something to write in it: its ID, and where its body begins and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct WritableCapability {
    pub id: u8,
    pub body: usize,
    pub end: usize,
}

impl ConfigSpace {
    /// The state now.
    #[must_use]
    pub fn save(&self) -> ConfigSpaceState {
        let bar = |bar: &Bar| {
            let register = self.u64_at(bar::offset(bar.index));
            BarState { index: bar.index, address: Bars::address(register) }
        };
        let capability = |capability: &WritableCapability| {
            let range = capability.body..capability.end;
            let bytes = self.bytes[range.clone()].iter().zip(&self.writable[range]);
            CapabilityState {
                id: capability.id,
                offset: u8::try_from(capability.body - 2).unwrap_or(u8::MAX),
                body: HexBytes(bytes.map(|(byte, writable)| byte & writable).collect()),
            }
        };
        ConfigSpaceState {
            command: u16::from_le_bytes(self.bytes_at(register::COMMAND)),
            cache_line_size: self.bytes[register::CACHE_LINE],
            interrupt_line: self.bytes[register::INTERRUPT_LINE],
            bars: self.bars().iter().map(bar).collect(),
            capabilities: self.capabilities.iter().map(capability).collect(),
        }
    }

    /// Puts the space into `state`, which must be of a function with the same BARs and capabilities.
    ///
    /// # Errors
    /// [`StateError::Value`]; nothing has changed.
    pub fn restore(&mut self, state: &ConfigSpaceState) -> Result<(), StateError> {
        self.check(state)?;
        self.apply(state);
        Ok(())
    }

    /// Back to how the guest found it: addresses that [`place_bar`](Self::place_bar) gave are kept.
    pub fn reset(&mut self) {
        let state = self.power_on.clone();
        self.apply(&state);
    }

    /// Whether the space can be in `state`.
    pub(crate) fn check(&self, state: &ConfigSpaceState) -> Result<(), StateError> {
        let command = state.command;
        ensure::<ConfigSpaceState>(
            command & !COMMAND_WRITABLE == 0,
            "command",
            format_args!("{command:#x}"),
            "must have no bits but 1, 2, 6, 8 and 10",
        )?;
        let same = state.bars.iter().map(|bar| bar.index).eq(self.bars().iter().map(|bar| bar.index));
        ensure::<ConfigSpaceState>(same, "bars", state.bars.len(), "must be the BARs of this function")?;
        for (number, (bar, own)) in state.bars.iter().zip(self.bars()).enumerate() {
            ensure::<ConfigSpaceState>(
                bar.address.is_multiple_of(own.size),
                format!("bars[{number}].address"),
                format_args!("{:#x}", bar.address),
                "must be a multiple of the BAR's size",
            )?;
        }
        let same = state.capabilities.len() == self.capabilities.len();
        ensure::<ConfigSpaceState>(
            same,
            "capabilities",
            state.capabilities.len(),
            "must be the capabilities of this function",
        )?;
        for (number, (capability, own)) in state.capabilities.iter().zip(&self.capabilities).enumerate() {
            let same = capability.id == own.id
                && usize::from(capability.offset) + 2 == own.body
                && capability.body.0.len() == own.end - own.body;
            ensure::<ConfigSpaceState>(
                same,
                format!("capabilities[{number}]"),
                format_args!("{:#x} at {:#x}", capability.id, capability.offset),
                "must have the place and the size that it has here",
            )?;
            let writable = &self.writable[own.body..own.end];
            let mut bytes = capability.body.0.iter().zip(writable);
            ensure::<ConfigSpaceState>(
                bytes.all(|(byte, writable)| byte & !writable == 0),
                format!("capabilities[{number}].body"),
                format_args!("{:02x?}", capability.body.0),
                "must have no bits that cannot be written",
            )?;
        }
        Ok(())
    }

    /// Writes what a guest would have written.
    fn apply(&mut self, state: &ConfigSpaceState) {
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Ok(offset) = u16::try_from(offset) {
                self.write(offset, bytes);
            }
        };
        put(register::COMMAND, &state.command.to_le_bytes());
        put(register::CACHE_LINE, &[state.cache_line_size]);
        put(register::INTERRUPT_LINE, &[state.interrupt_line]);
        for BarState { index, address } in &state.bars {
            put(bar::offset(*index), &address.to_le_bytes());
        }
        for capability in &state.capabilities {
            put(usize::from(capability.offset) + 2, &capability.body.0);
        }
    }
}
