//! XSDT, the addresses of the other tables (ACPI 6.5, 5.2.8).
//! Which tables these are, and where, is decided in `tables`.

use crate::error::Error;
use crate::tables::encode;

pub(crate) const SIGNATURE: [u8; 4] = *b"XSDT";
/// ACPI 6.5, table 5.8.
const REVISION: u8 = 1;

pub(crate) fn build(addresses: &[u64]) -> Result<Vec<u8>, Error> {
    let body: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    encode(SIGNATURE, REVISION, &body)
}
