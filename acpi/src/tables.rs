//! All tables of a platform, each at its address.
//! Writing them into guest memory, and keeping that memory from being used otherwise, is for others.

use crate::error::Error;
use crate::platform::Platform;
use crate::{check, dsdt, fadt, hmat, madt, mcfg, rsdp, slit, srat, xsdt};
use acpi_tables::sdt::Sdt;
use std::ops::Range;

/// Who made the tables (ACPI 6.5, table 5.4).
pub(crate) const OEM_ID: [u8; 6] = *b"NUMAVI";
const OEM_TABLE_ID: [u8; 8] = *b"NUMAVSOR";
const OEM_REVISION: u32 = 1;
/// Bytes of the header that all tables but the RSDP begin with (ACPI 6.5, table 5.4).
pub(crate) const HEADER_LENGTH: usize = 36;
/// Every table and the RSDP begin at a multiple of this: the RSDP must (ACPI 6.5, 5.2.5.1), the others may.
const ALIGNMENT: u64 = 16;

/// One table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The first four bytes, by which it is known.
    pub signature: [u8; 4],
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// The table with its header.
    pub bytes: Vec<u8>,
}

/// All tables of a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSet {
    /// The way in; goes to the address given to [`build`].
    pub rsdp: Vec<u8>,
    /// In ascending order of address, without overlap, all inside the window given to [`build`]. The first is
    /// the DSDT, the last the XSDT.
    pub tables: Vec<Table>,
}

impl TableSet {
    /// The table with that signature; every signature appears at most once.
    pub fn get(&self, signature: &[u8; 4]) -> Option<&Table> {
        self.tables.iter().find(|table| table.signature == *signature)
    }
}

/// Bytes that the tables of `platform` need, without the RSDP, in a window that begins at a multiple of 16.
/// Fails if the platform cannot be told.
pub fn length(platform: &Platform) -> Result<u64, Error> {
    let (layout, _) = lay_out(platform, 0..u64::MAX)?;
    Ok(layout.next)
}

/// Encodes every table of `platform` and lays them out from the start of `window`, aligned to 16 bytes.
/// The same arguments give the same bytes.
///
/// Fails if the platform cannot be told (each rule is a variant of [`Error`]), if the tables are larger than the
/// window, or if the RSDP's address is not a multiple of 16 or would lie in the tables.
pub fn build(platform: &Platform, window: Range<u64>, rsdp_address: u64) -> Result<TableSet, Error> {
    let (layout, xsdt_address) = lay_out(platform, window)?;
    layout.check_rsdp(rsdp_address)?;
    Ok(TableSet { rsdp: rsdp::build(xsdt_address), tables: layout.tables })
}

/// All tables and where the XSDT is.
fn lay_out(platform: &Platform, window: Range<u64>) -> Result<(Layout, u64), Error> {
    check::platform(platform)?;
    let mut layout = Layout::new(window);
    layout.place(dsdt::build(platform)?)?;
    let dsdt_address = layout.tables.first().map_or(0, |table| table.address);
    let fixed = [fadt::build(platform, dsdt_address)?, madt::build(platform)?, srat::build(platform)?];
    let optional = [
        platform.slit.as_ref().map(slit::build).transpose()?.flatten(),
        platform.hmat.as_ref().map(hmat::build).transpose()?,
        mcfg::build(&platform.pci)?,
    ];
    for bytes in fixed.into_iter().chain(optional.into_iter().flatten()) {
        layout.place(bytes)?;
    }
    // All but the first, which only the FADT points to.
    let addresses: Vec<u64> = layout.tables.iter().skip(1).map(|table| table.address).collect();
    let xsdt_address = layout.place(xsdt::build(&addresses)?)?;
    Ok((layout, xsdt_address))
}

/// Places one table after another.
struct Layout {
    window: Range<u64>,
    next: u64,
    tables: Vec<Table>,
}

impl Layout {
    fn new(window: Range<u64>) -> Layout {
        Layout { next: window.start, window, tables: Vec::new() }
    }

    fn place(&mut self, bytes: Vec<u8>) -> Result<u64, Error> {
        let mut signature = [0; 4];
        for (to, from) in signature.iter_mut().zip(&bytes) {
            *to = *from;
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let range = self.next.checked_next_multiple_of(ALIGNMENT).and_then(|address| {
            let end = address.checked_add(length)?;
            (end <= self.window.end).then_some((address, end))
        });
        let Some((address, end)) = range else {
            return Err(Error::DoesNotFit {
                signature: text(signature),
                length,
                window: self.window.clone(),
            });
        };
        self.next = end;
        self.tables.push(Table { signature, address, bytes });
        Ok(address)
    }

    fn check_rsdp(&self, address: u64) -> Result<(), Error> {
        let end = address.checked_add(u64::from(rsdp::LENGTH));
        let first = self.tables.first().map_or(self.window.start, |table| table.address);
        match end {
            Some(end) if address.is_multiple_of(ALIGNMENT) && (end <= first || address >= self.next) => {
                Ok(())
            }
            _ => Err(Error::RsdpAddress { address, tables: first..self.next }),
        }
    }
}

fn text(signature: [u8; 4]) -> String {
    String::from_utf8_lossy(&signature).into_owned()
}

/// A table with its header: length, checksum and who made it.
pub(crate) fn encode(signature: [u8; 4], revision: u8, body: &[u8]) -> Result<Vec<u8>, Error> {
    let length = body.len().saturating_add(HEADER_LENGTH);
    if u32::try_from(length).is_err() {
        return Err(Error::TableTooLong { signature: text(signature), length });
    }
    let mut table = Sdt::new(signature, HEADER_LENGTH_U32, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    Ok(table.as_slice().to_vec())
}

/// [`HEADER_LENGTH`] as the crate that writes the header wants it.
const HEADER_LENGTH_U32: u32 = 36;

/// The byte that makes the sum of all bytes 0 (ACPI 6.5, table 5.3).
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
