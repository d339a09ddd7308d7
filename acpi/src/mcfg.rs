//! MCFG, where the configuration space of each PCI segment is mapped (PCI Firmware Specification 3.3, 4.1.2).
//! The host bridges themselves, and the reservation of these ranges, are in the DSDT.

use crate::error::Error;
use crate::platform::PciHostBridge;
use crate::tables::encode;

const SIGNATURE: [u8; 4] = *b"MCFG";
/// PCI Firmware Specification 3.3, 4.1.2.
const REVISION: u8 = 1;

/// The table, or `None` without host bridges.
pub(crate) fn build(bridges: &[PciHostBridge]) -> Result<Option<Vec<u8>>, Error> {
    if bridges.is_empty() {
        return Ok(None);
    }
    let mut body = vec![0; 8];
    for bridge in bridges {
        body.extend_from_slice(&bridge.ecam_base.to_le_bytes());
        body.extend_from_slice(&bridge.segment.to_le_bytes());
        body.extend_from_slice(&[bridge.bus_first, bridge.bus_last]);
        body.extend_from_slice(&[0; 4]);
    }
    encode(SIGNATURE, REVISION, &body).map(Some)
}
