//! RSDP, the way in: points to the XSDT (ACPI 6.5, 5.2.5.3, table 5.3).
//! How the guest learns where the RSDP is, is the boot protocol's business.

use crate::tables::{OEM_ID, checksum};

const SIGNATURE: [u8; 8] = *b"RSD PTR ";
/// ACPI 2.0 and later: there is an XSDT (ACPI 6.5, table 5.3).
const REVISION: u8 = 2;
/// Bytes that the first checksum covers (ACPI 6.5, table 5.3).
const FIRST_PART: usize = 20;
/// Offsets of the checksum of the first part and of the whole (ACPI 6.5, table 5.3).
const CHECKSUM_AT: usize = 8;
const EXTENDED_CHECKSUM_AT: usize = 32;
/// Bytes of the whole (ACPI 6.5, table 5.3).
pub(crate) const LENGTH: u32 = 36;

pub(crate) fn build(xsdt_address: u64) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(0); // checksum of the first part
    bytes.extend_from_slice(&OEM_ID);
    bytes.push(REVISION);
    bytes.extend_from_slice(&[0; 4]); // no RSDT
    bytes.extend_from_slice(&LENGTH.to_le_bytes());
    bytes.extend_from_slice(&xsdt_address.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]); // checksum of the whole, reserved
    bytes[CHECKSUM_AT] = checksum(&bytes[..FIRST_PART]);
    bytes[EXTENDED_CHECKSUM_AT] = checksum(&bytes);
    bytes
}
