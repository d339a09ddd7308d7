//! Feature bits and the configuration space (virtio 1.3, 5.2.3 and 5.2.4). When they change is the device's business.

use virtio_bindings::bindings::virtio_blk as bits;

use super::engine::DiskShape;
use super::{QUEUE_SIZE, SECTOR_BYTES};

/// Most extents of one discard or write-zeroes request.
pub const MAX_RANGES: u32 = 32;

/// Most sectors of one extent, 1 GiB: a request that the host does slowly must not take for ever.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// Most bytes of one segment. Linux makes requests of at most 4 MiB.
const SIZE_MAX: u32 = 4 << 20;

/// The header and the status take a descriptor each.
pub(super) const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Up to `write_zeroes_may_unmap` and its padding.
pub(super) const CONFIG_BYTES: usize = 60;

/// Where the driver may choose between a write-back and a write-through cache.
pub(super) const WRITEBACK_OFFSET: u64 = 32;

/// Feature bits by their numbers.
pub(super) fn bit(number: u32) -> u64 {
    1 << number
}

/// What is offered for a disk.
pub(super) fn features(shape: &DiskShape, queues: u16) -> u64 {
    let always = [
        bits::VIRTIO_BLK_F_SIZE_MAX,
        bits::VIRTIO_BLK_F_SEG_MAX,
        bits::VIRTIO_BLK_F_BLK_SIZE,
        bits::VIRTIO_BLK_F_FLUSH,
        bits::VIRTIO_BLK_F_TOPOLOGY,
    ];
    let mut features = always.iter().fold(0, |features, number| features | bit(*number));
    if queues > 1 {
        features |= bit(bits::VIRTIO_BLK_F_MQ);
    }
    if shape.read_only {
        return features | bit(bits::VIRTIO_BLK_F_RO);
    }
    features |= bit(bits::VIRTIO_BLK_F_CONFIG_WCE) | bit(bits::VIRTIO_BLK_F_WRITE_ZEROES);
    if shape.discard.is_some() {
        features |= bit(bits::VIRTIO_BLK_F_DISCARD);
    }
    features
}

/// The configuration space as the driver reads it.
pub(super) fn bytes(shape: &DiskShape, sectors: u64, queues: u16, writeback: bool) -> [u8; CONFIG_BYTES] {
    let logical = shape.logical_block.max(512);
    let mut config = [0; CONFIG_BYTES];
    let mut put = |offset: usize, value: &[u8]| config[offset..offset + value.len()].copy_from_slice(value);
    put(0, &sectors.to_le_bytes());
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &logical.to_le_bytes());
    put(24, &[low_byte(shape.physical_block.max(logical).ilog2() - logical.ilog2())]);
    put(25, &[low_byte(shape.alignment / logical)]);
    put(26, &u16::try_from(shape.minimum_io / logical).unwrap_or(0).to_le_bytes());
    put(28, &(shape.optimal_io / logical).to_le_bytes());
    put(32, &[u8::from(writeback)]);
    put(34, &queues.to_le_bytes());
    if shape.read_only {
        return config;
    }
    if let Some(granularity) = shape.discard {
        let unit = u32::try_from(u64::from(granularity) / SECTOR_BYTES).unwrap_or(1).max(1);
        // A multiple of the unit, so that the driver's largest pieces stay aligned.
        put(36, &(MAX_RANGE_SECTORS / unit * unit).max(unit.min(MAX_RANGE_SECTORS)).to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &unit.to_le_bytes());
    }
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    config
}

fn low_byte(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
