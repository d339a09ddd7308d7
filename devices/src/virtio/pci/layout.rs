//! Where the registers of a virtio function are, and the capabilities that tell the driver (virtio 1.3, 4.1.4).

use crate::pci::{CapabilityError, ConfigSpace};

/// The BAR with the structures below.
pub(super) const REGISTERS_BAR: u8 = 0;
/// The BAR with the MSI-X table and its pending bits.
pub(super) const MSIX_BAR: u8 = 2;
/// Bytes of [`REGISTERS_BAR`].
pub(super) const REGISTERS_BYTES: u64 = 0x4000;

/// Each structure has a page of its own, so that a guest can map them apart.
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = PAGE;
const DEVICE: u64 = 2 * PAGE;
const NOTIFY: u64 = 3 * PAGE;

/// Bytes of the common configuration up to and with `queue_device`; what is behind belongs to features that are not
/// offered (virtio 1.3, 4.1.4.3).
pub(super) const COMMON_BYTES: usize = 0x38;
/// Bytes between two queues' doorbells.
pub(super) const DOORBELL_BYTES: u64 = 4;
/// Queues whose doorbells fit.
pub(super) const QUEUES_MAX: u16 = 1024;
const _: () = assert!(QUEUES_MAX as u64 * DOORBELL_BYTES == PAGE);

/// Vendor-specific capability (PCI Code and ID Assignment Specification 1.16, 2).
const VENDOR_CAPABILITY: u8 = 0x09;

/// `cfg_type` (virtio 1.3, 4.1.4).
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_PCI: u8 = 5;

/// A structure in [`REGISTERS_BAR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Structure {
    Common,
    Isr,
    Device,
    Notify,
}

/// Which structure `offset` lies in, and how far.
pub(super) fn locate(offset: u64) -> Option<(Structure, u64)> {
    let structure = match offset & !(PAGE - 1) {
        COMMON => Structure::Common,
        ISR => Structure::Isr,
        DEVICE => Structure::Device,
        NOTIFY => Structure::Notify,
        _ => return None,
    };
    Some((structure, offset % PAGE))
}

/// Where queue `index` is notified, from the beginning of the BAR.
pub(super) fn doorbell(index: u16) -> u64 {
    NOTIFY + u64::from(index) * DOORBELL_BYTES
}

/// The queue whose doorbell is `offset` bytes into the notification structure.
pub(super) fn doorbell_queue(offset: u64) -> Option<u16> {
    u16::try_from(offset / DOORBELL_BYTES).ok().filter(|_| offset.is_multiple_of(DOORBELL_BYTES))
}

/// Adds the five capabilities and says where that of the configuration access is (virtio 1.3, 4.1.4.9).
pub(super) fn add_capabilities(config: &mut ConfigSpace, queues: u16) -> Result<usize, CapabilityError> {
    let queues = u64::from(queues.max(1));
    let multiplier = low_word(DOORBELL_BYTES).to_le_bytes();
    let add = |config: &mut ConfigSpace, kind, offset, length, extra: &[u8]| {
        config.add_capability(VENDOR_CAPABILITY, &body(kind, offset, length, extra), &[])
    };
    let common_bytes = u64::try_from(COMMON_BYTES).unwrap_or(PAGE);
    add(config, TYPE_COMMON, COMMON, common_bytes, &[])?;
    add(config, TYPE_NOTIFY, NOTIFY, queues * DOORBELL_BYTES, &multiplier)?;
    add(config, TYPE_ISR, ISR, 1, &[])?;
    add(config, TYPE_DEVICE, DEVICE, PAGE, &[])?;
    let access = body(TYPE_PCI, 0, 0, &[0; 4]);
    config.add_capability(VENDOR_CAPABILITY, &access, &CONFIG_ACCESS_WRITABLE)
}

/// `struct virtio_pci_cap` without its first two bytes.
fn body(kind: u8, offset: u64, length: u64, extra: &[u8]) -> Vec<u8> {
    let bytes = u8::try_from(16 + extra.len()).unwrap_or(u8::MAX);
    let mut body = vec![bytes, kind, REGISTERS_BAR, 0, 0, 0];
    body.extend_from_slice(&low_word(offset).to_le_bytes());
    body.extend_from_slice(&low_word(length).to_le_bytes());
    body.extend_from_slice(extra);
    body
}

fn low_word(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Bar, offset, length and data of the configuration access capability are the driver's to write.
const CONFIG_ACCESS_WRITABLE: [u8; 18] =
    [0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
