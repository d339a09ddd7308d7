//! Base address registers (PCI Express Base Specification 6.0, 7.5.1.2.1): 64-bit prefetchable memory only, sized by
//! writing all-ones. Which of them answer, and to whom, is left to the segment.

use thiserror::Error;

use super::config::register;

/// Registers; a 64-bit BAR takes two.
const REGISTERS: u8 = 6;
const REGISTER_BYTES: usize = 4;
/// Bits 3:0 of the register: memory, 64 bits wide, prefetchable.
const FLAGS: u64 = 0b1100;
const FLAG_BITS: u64 = 0b1111;

/// Why a BAR cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BarError {
    /// It does not have two registers of its own.
    #[error("bar {index}: registers {index} and the next must exist and be free")]
    Taken {
        /// The first of its registers.
        index: u8,
    },
    /// It cannot be sized.
    #[error("bar {index}: {size:#x} bytes, must be a power of two of at least 16")]
    Size {
        /// The first of its registers.
        index: u8,
        /// Bytes asked for.
        size: u64,
    },
}

/// A range of memory that a function answers at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// The first of its two registers.
    pub index: u8,
    /// Bytes, a power of two; its address is a multiple of it.
    pub size: u64,
}

/// The BARs of one function.
#[derive(Debug, Clone, Default)]
pub(super) struct Bars(Vec<Bar>);

impl Bars {
    /// Where the registers of the new BAR are in the configuration space, what they hold and which bits can change.
    pub fn add(&mut self, index: u8, size: u64) -> Result<(usize, u64, u64), BarError> {
        if !size.is_power_of_two() || size <= FLAG_BITS {
            return Err(BarError::Size { index, size });
        }
        if index >= REGISTERS - 1 || self.0.iter().any(|bar| bar.index.abs_diff(index) < 2) {
            return Err(BarError::Taken { index });
        }
        self.0.push(Bar { index, size });
        self.0.sort_by_key(|bar| bar.index);
        Ok((offset(index), FLAGS, !(size - 1)))
    }

    pub fn list(&self) -> &[Bar] {
        &self.0
    }

    /// Where BAR `index` is in the configuration space, and what is there when it has `address`.
    pub fn register(&self, index: u8, address: u64) -> Option<(usize, u64)> {
        let bar = self.0.iter().find(|bar| bar.index == index)?;
        Some((offset(index), (address & !(bar.size - 1)) | FLAGS))
    }

    /// The address in the registers' contents.
    pub fn address(register: u64) -> u64 {
        register & !FLAG_BITS
    }
}

/// Where the registers of BAR `index` are in the configuration space.
pub(super) fn offset(index: u8) -> usize {
    register::BAR0 + usize::from(index) * REGISTER_BYTES
}
